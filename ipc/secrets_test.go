package ipc

import (
	"encoding/json"
	"strings"
	"testing"

	"drover/internal/sys"

	"github.com/google/go-cmp/cmp"
)

func TestSecrets(t *testing.T) {
	want := &Secrets{
		TLS: []*TLS{nil, {
			Pairs:     []KeyPair{{Chain: [][]byte{{1, 2}, {3}}, Key: []byte{4}}},
			ClientCAs: [][]byte{{5}}, ClientOptional: true, Only13: true, PostQuantum: true,
		}},
		Tickets: [][]byte{make([]byte, TicketSize), make([]byte, TicketSize)},
	}
	fd, err := want.Seal()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	for range 2 { // a second worker reads what the first has read
		got, err := Unseal(fd)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := (&Secrets{TLS: []*TLS{{Pairs: []KeyPair{{Key: make([]byte, MaxSecrets)}}}}}).Seal(); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too many: error %v", err)
	}
}

func TestBadSecrets(t *testing.T) {
	const secret = "my private key"
	short, err := json.Marshal(Secrets{Tickets: [][]byte{[]byte("short")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ data, want string }{
		{secret, "none of this version"},
		{`{"tls":[],"tickets":[],"more":"` + secret + `"}`, "none of this version"},
		{`{"tls":[],"tickets":[]}`, "no key for session tickets"},
		{string(short), "has 5 bytes, want 32"},
		{strings.Repeat("x", MaxSecrets+1), "want at most"},
	} {
		fd, err := sys.SealedBytes("test", []byte(c.data))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Unseal(fd)
		sys.Close(fd)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%.40s: error %v, want %q", c.data, err, c.want)
		}
	}
	// What its maker can still change is refused.
	fd, memory, err := sys.SealedMemory("test", 64)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Unmap(memory)
	defer sys.Close(fd)
	if _, err := Unseal(fd); err == nil || !strings.Contains(err.Error(), "can be changed") {
		t.Errorf("unsealed memory: error %v", err)
	}
}
