package node

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"

	wire "drover/ipc/node"
)

// ticketKeys are the keys of a server's session tickets, as Node's tls has them: 48
// bytes in hex.
type ticketKeys struct {
	Hex string `json:"ticketKeys"`
}

// brought takes what a worker's tls server brought: of the first of each generation it
// is what all of that get. A second that brings something else shows that Node made
// it; else the program itself chose its keys.
func (s *server) brought(generation int, data json.RawMessage) {
	switch first := s.data[generation]; {
	case len(data) == 0:
	case first == nil:
		s.data[generation] = data
	case !bytes.Equal(first, data):
		s.random = true
	}
}

// renew has every server whose keys of tickets Node made use new ones, of workers that
// have drover's module, and gives those to who asks from now on. Each server's are
// made of the secret and of those that it had: two servers of a program, one of which
// asks for certificates of clients, never have the same.
func (p *Primary) renew(secret []byte) {
	next := map[int]map[string]string{} // by generation: instead of which
	for _, s := range p.servers {
		if s == nil || !s.random {
			continue
		}
		for generation, data := range s.data {
			var keys ticketKeys
			if json.Unmarshal(data, &keys) != nil {
				continue
			}
			old, err := hex.DecodeString(keys.Hex)
			if err != nil || len(old) != sha512.Size384 { // 48 bytes, as it happens
				continue
			}
			mac := hmac.New(sha512.New384, secret)
			mac.Write(old)
			renewed := hex.EncodeToString(mac.Sum(nil))
			s.data[generation] = json.RawMessage(`{"ticketKeys":"` + renewed + `"}`)
			if next[generation] == nil {
				next[generation] = map[string]string{}
			}
			next[generation][keys.Hex] = renewed
		}
	}
	for _, id := range sortedKeys(p.workers) {
		if w := p.workers[id]; len(next[w.generation]) > 0 {
			p.write(w, Send{w.id, wire.NewTickets(next[w.generation]), -1}, nil)
		}
	}
}
