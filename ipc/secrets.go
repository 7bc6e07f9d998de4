package ipc

import (
	"bytes"
	"encoding/json"
	"fmt"

	"drover/internal/sys"
)

// Secrets are what workers encrypt with. They travel as sealed memory behind a
// descriptor, not in the packet: no environment, command line, file or log ever has
// them, and a chain of certificates may be longer than a packet.
type Secrets struct {
	// TLS is by index in Listen of the welcome; nil is an address in plain text.
	TLS []*TLS `json:"tls"`
	// Tickets are the keys of session tickets, TicketSize bytes each: the first makes
	// new ones, all open those that were made before.
	Tickets [][]byte `json:"tickets"`
}

// TLS is what one address is encrypted with.
type TLS struct {
	Pairs          []KeyPair `json:"pairs"`                     // the first is for whoever asks for none of them
	ClientCAs      [][]byte  `json:"client_cas,omitempty"`      // DER; none: clients are asked for no certificate
	ClientOptional bool      `json:"client_optional,omitempty"` // one that shows none is let in
	Only13         bool      `json:"only_13,omitempty"`         // no TLS 1.2
	PostQuantum    bool      `json:"post_quantum,omitempty"`    // X25519MLKEM768 is offered
}

// KeyPair is a certificate and its private key.
type KeyPair struct {
	Chain [][]byte `json:"chain"` // DER, its own certificate first
	Key   []byte   `json:"key"`   // PKCS #8, DER
}

// TicketSize is that of a key of session tickets, in bytes (crypto/tls,
// Config.SetSessionTicketKeys).
const TicketSize = 32

// MaxSecrets bounds the secrets of an app, in bytes of their JSON: some hundred
// certificates with their chains.
const MaxSecrets = 4 << 20

// Seal puts secrets into memory that nobody can change. The caller closes the
// descriptor, which is sent with the message that names it.
func (s *Secrets) Seal() (fd int, err error) {
	data, err := json.Marshal(s)
	if err != nil {
		return -1, fmt.Errorf("seal the certificates: %w", err)
	}
	defer clear(data)
	if len(data) > MaxSecrets {
		return -1, fmt.Errorf("seal the certificates: %d bytes: at most %d fit", len(data), MaxSecrets)
	}
	if fd, err = sys.SealedBytes("drover-secrets", data); err != nil {
		return -1, fmt.Errorf("seal the certificates: %w", err)
	}
	return fd, nil
}

// Unseal reads secrets that came by a message. The descriptor stays the caller's.
// Its errors quote nothing of what it read.
func Unseal(fd int) (*Secrets, error) {
	data, err := sys.ReadSealed(fd, MaxSecrets)
	if err != nil {
		return nil, fmt.Errorf("read the certificates: %w", err)
	}
	defer clear(data)
	s := new(Secrets)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if dec.Decode(s) != nil || dec.More() {
		return nil, fmt.Errorf("read the certificates: the %d bytes of memory are none of this version", len(data))
	}
	if len(s.Tickets) == 0 {
		return nil, fmt.Errorf("read the certificates: there is no key for session tickets")
	}
	for _, key := range s.Tickets {
		if len(key) != TicketSize {
			return nil, fmt.Errorf("read the certificates: a key for session tickets has %d bytes, want %d", len(key), TicketSize)
		}
	}
	return s, nil
}
