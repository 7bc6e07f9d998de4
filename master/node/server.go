package node

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	wire "drover/ipc/node"
)

// server is what the workers of an app listen on together.
type server struct {
	id    int
	want  wire.Server // without Index, unless the port is any
	given int         // number of the operator's address in its place; -1: none
	dealt bool        // its connections are accepted here and dealt out

	host string // where it is
	port int

	sockets map[int]int             // seat: descriptor, which is the opener's
	opening map[int][]query         // seat: who waits for its socket
	data    map[int]json.RawMessage // generation: what its first worker brought, or what that has become
	random  bool                    // those are keys that Node made
	idle    time.Time               // since when nobody wants it, as was last looked

	// Of a server that is dealt out.
	free      []*worker    // who may have the next connection, in turn
	accepting int          // connections that were asked for
	waiting   []connection // that nobody was given yet
}

// query is a worker's wish for a server's socket.
type query struct {
	worker *worker
	seq    *int64
	key    string
}

// connection is one to be given away.
type connection struct {
	fd  int
	not []WorkerID // who would not, or shall not, take it
}

// given is a connection that is on its way to a worker.
type given struct {
	connection
	server *server
}

// address is where it is, as a person says it.
func (s *server) address() string {
	if s.host == "" {
		return s.want.String()
	}
	at := s.want
	at.Host, at.Port = s.host, s.port
	return at.String()
}

// query takes a worker's wish for a socket. It is always answered, but to a
// worker that leaves: its listen would wait for ever.
func (p *Primary) query(w *worker, m wire.Message) {
	w.asked = true
	if w.leaving {
		return
	}
	want, err := m.Wants()
	if err != nil {
		p.refuse(query{w, m.Seq, ""}, want, eINVAL, err.Error())
		return
	}
	q := query{w, m.Seq, fmt.Sprintf("%s:%s:%d", want.Network, want, want.Index)}
	for _, g := range w.open {
		if g.key == q.key || want.Port != 0 && same(g.want, want) {
			p.refuse(q, want, eADDRINUSE, "this worker listens there already")
			return
		}
	}
	s := p.server(w, want)
	w.open = append(w.open, grant{q.key, s, want, false})
	s.brought(w.generation, m.Data)
	seat := s.seat(w)
	if _, ok := s.sockets[seat]; ok {
		p.grant(s, q)
		return
	}
	s.opening[seat] = append(s.opening[seat], q)
	if len(s.opening[seat]) == 1 {
		p.do(Open{
			Server: s.id, Seat: seat, Want: want, Given: s.given,
			Readable: m.ReadableAll, Writable: m.WritableAll, Reuse: want.UDP() && m.Flags&wire.FlagReuseAddr != 0,
		})
	}
}

// same reports whether two wishes are for the same address.
func same(a, b wire.Server) bool {
	a.Index, b.Index = 0, 0
	return a == b
}

// seat is which of the server's sockets a worker gets.
func (s *server) seat(w *worker) int {
	if s.dealt || !s.tcp() {
		return 0
	}
	return w.seat
}

func (s *server) tcp() bool { return strings.HasPrefix(s.want.Network, "tcp") }

// server is what a worker's wish leads to. The operator's addresses go to the
// TCP servers that a worker asks for, in their order.
func (p *Primary) server(w *worker, want wire.Server) *server {
	given := -1
	if strings.HasPrefix(want.Network, "tcp") {
		nth := 0
		for _, g := range w.open {
			if g.server.tcp() {
				nth++
			}
		}
		if nth < p.policy.Listen {
			given = nth
		}
	}
	if want.Port != 0 || want.Network == "unix" {
		want.Index = 0
	}
	for _, s := range p.servers {
		if s != nil && s.given == given && (given >= 0 || s.want == want) {
			return s
		}
	}
	s := &server{
		id: len(p.servers), want: want, given: given,
		dealt:   want.Network == "unix" || p.policy.RoundRobin && strings.HasPrefix(want.Network, "tcp"),
		sockets: map[int]int{}, opening: map[int][]query{}, data: map[int]json.RawMessage{},
	}
	p.servers = append(p.servers, s)
	return s
}

// opened takes a socket, or that there is none, and answers who waits for it.
func (p *Primary) opened(ev Opened) {
	s := p.servers[ev.Server]
	if s == nil {
		return // released meanwhile: its sockets are closed
	}
	queries := s.opening[ev.Seat]
	delete(s.opening, ev.Seat)
	if ev.Errno == 0 {
		s.sockets[ev.Seat] = ev.FD
		s.host, s.port = ev.Host, ev.Port
	}
	for _, q := range queries {
		switch {
		case p.workers[q.worker.id] != q.worker:
		case ev.Errno != 0:
			p.refuse(q, s.want, ev.Errno, "")
		default:
			p.grant(s, q)
		}
	}
}

// refuse answers a wish with an error, which the app's server gets as its error
// event.
func (p *Primary) refuse(q query, want wire.Server, errno int, why string) {
	w := q.worker
	w.open = slices.DeleteFunc(w.open, func(g grant) bool { return g.key == q.key && !g.had })
	negative := -errno
	p.send(w, wire.Reply{Ack: q.seq, Key: q.key, Errno: &negative}, "", -1)
	p.do(Refused{w.id, want, errno, why})
}

// grant answers a wish with a socket, or with the word that connections will
// come.
func (p *Primary) grant(s *server, q query) {
	w := q.worker
	var want wire.Server
	for i := range w.open {
		if w.open[i].key == q.key {
			w.open[i].had = true
			want = w.open[i].want
		}
	}
	r := wire.Reply{Ack: q.seq, Key: q.key, Data: s.data[w.generation]}
	// The port counts only where one was asked for, and only when it is.
	remapped := s.tcp() && want.Port != 0 && want.Port != s.port
	if s.dealt {
		if s.tcp() {
			r.Sockname = s.sockname(want)
		}
		p.send(w, r, "", -1)
		if !w.leaving {
			s.free = append(s.free, w)
		}
	} else {
		handle := wire.NetNative
		if s.want.UDP() {
			handle = wire.DgramNative
		}
		if !remapped {
			r.Errno = new(int)
		}
		p.send(w, r, handle, s.sockets[s.seat(w)])
	}
	p.do(Serves{w.id, s.id, want, s.address(), true, s.given >= 0 && (remapped || s.host == "")})
	p.deal(s)
}

// sockname is what the app shall take for its address: where connections are
// dealt out Node believes it, and wants the port that it asked for.
func (s *server) sockname(want wire.Server) *wire.Sockname {
	n := &wire.Sockname{Address: s.host, Family: "IPv6", Port: s.port}
	if s.host == "" {
		n.Address = "127.0.0.1" // the operator's is a unix socket, which has none
	}
	if want.Port != 0 {
		n.Port = want.Port
	}
	if a, err := netip.ParseAddr(n.Address); err == nil && a.Is4() {
		n.Family = "IPv4"
	}
	return n
}

// closed takes the word that a worker's server is closed.
func (p *Primary) closed(w *worker, key string) {
	i := slices.IndexFunc(w.open, func(g grant) bool { return g.key == key && g.had })
	if i < 0 {
		p.object(w, fmt.Sprintf("it closes a server that it does not have: %.80q", key))
		return
	}
	g := w.open[i]
	w.open = slices.Delete(w.open, i, i+1)
	g.server.free = slices.DeleteFunc(g.server.free, func(o *worker) bool { return o == w })
	p.do(Serves{w.id, g.server.id, g.want, g.server.address(), false, false})
	p.deal(g.server) // what only this one would have taken
}

// wanted reports whether a worker has or asks for a server, or may yet: one that
// leaves has a successor.
func (p *Primary) wanted(s *server) bool {
	for _, w := range p.workers {
		if w.leaving || slices.ContainsFunc(w.open, func(g grant) bool { return g.server == s }) {
			return true
		}
	}
	return false
}

// release gives a server up.
func (p *Primary) release(s *server) {
	p.servers[s.id] = nil
	for _, c := range s.waiting {
		p.do(CloseFD{c.fd})
	}
	p.do(Release{s.id})
}

// connected takes a connection in.
func (p *Primary) connected(ev Connected) {
	s := p.servers[ev.Server]
	if s == nil {
		p.do(CloseFD{ev.FD})
		return
	}
	c := connection{fd: ev.FD}
	if !ev.Rescued {
		s.accepting--
	} else if w, some := p.taker(s, connection{not: []WorkerID{ev.From}}); w != nil && some {
		c.not = append(c.not, ev.From)
	}
	s.waiting = append(s.waiting, c)
	p.deal(s)
}

// again takes a connection back that a worker was given and did not take: it is
// the next to be given away.
func (p *Primary) again(g given) {
	if p.servers[g.server.id] != g.server {
		p.do(CloseFD{g.fd})
		return
	}
	g.server.waiting = slices.Insert(g.server.waiting, 0, g.connection)
	p.deal(g.server)
}

// deal gives connections away, and asks for as many as could be given. Each
// worker has one on its way at a time, so that one that does not get on with its
// work gets no more. One that all workers decline, since they are at their
// maxConnections, is dropped, as Node does.
func (p *Primary) deal(s *server) {
	for len(s.waiting) > 0 {
		c := s.waiting[0]
		w, some := p.taker(s, c)
		if w == nil && some {
			break
		}
		s.waiting = s.waiting[1:]
		if w == nil {
			p.do(CloseFD{c.fd})
			continue
		}
		p.give(s, w, c)
	}
	if n := len(s.free) - len(s.waiting) - s.accepting; s.dealt && n > 0 {
		s.accepting += n
		p.do(Accept{s.id, n})
	}
}

// taker is who gets a connection: the worker that was free first; where none is
// dealt out, the one with the fewest on their way. When nobody can take it now,
// some says whether somebody may later.
func (p *Primary) taker(s *server, c connection) (taker *worker, some bool) {
	serving := 0
	for _, id := range sortedKeys(p.workers) {
		w := p.workers[id]
		if w.leaving || !w.has(s) {
			continue
		}
		serving++
		if slices.Contains(c.not, id) {
			continue
		}
		some = true
		if !s.dealt && (taker == nil || len(w.given) < len(taker.given)) {
			taker = w
		}
	}
	if s.dealt {
		if i := slices.IndexFunc(s.free, func(w *worker) bool { return !slices.Contains(c.not, w.id) }); i >= 0 {
			taker = s.free[i]
			s.free = slices.Delete(s.free, i, i+1)
		}
	}
	return taker, some || serving == 0
}

// give sends a connection to a worker.
func (p *Primary) give(s *server, w *worker, c connection) {
	seq := w.seq
	w.given[seq] = given{c, s}
	p.sendBack(w, wire.Reply{Act: wire.NewConn, Key: w.key(s)}, wire.NetNative, c.fd, func() {
		g := w.given[seq]
		delete(w.given, seq)
		g.not = append(g.not, w.id)
		p.again(g)
	})
}

// answered takes the answer to a connection that was given.
func (p *Primary) answered(w *worker, seq int64, accepted bool) {
	g, ok := w.given[seq]
	if !ok {
		return // it answers what was never asked: Node ignores that, too
	}
	delete(w.given, seq)
	if g.server.dealt && !w.leaving && w.has(g.server) {
		g.server.free = append(g.server.free, w)
	}
	if accepted {
		p.do(CloseFD{g.fd})
		p.deal(g.server)
		return
	}
	g.not = append(g.not, w.id)
	p.again(g)
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
