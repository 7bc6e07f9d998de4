package worker

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/internal/authority"
	"drover/internal/sys"
	"drover/ipc"
)

// pairOf is what a master sends of two files.
func pairOf(certificate, key []byte) ipc.KeyPair {
	c, _ := pem.Decode(certificate)
	k, _ := pem.Decode(key)
	return ipc.KeyPair{Chain: [][]byte{c.Bytes}, Key: k.Bytes}
}

// handshake is what a client and a server agree on, over a connection in memory.
func handshake(server, client *tls.Config) (state tls.ConnectionState, clientErr, serverErr error) {
	a, b := net.Pipe()
	defer a.Close()
	served := make(chan error, 1)
	s := tls.Server(b, server)
	go func() {
		err := s.Handshake()
		if err != nil {
			b.Close()
		} else {
			_, err = s.Write([]byte("x"))
		}
		served <- err
	}()
	c := tls.Client(a, client)
	clientErr = c.Handshake()
	if clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1)) // a client certificate is looked at after the client's handshake
	}
	if clientErr != nil {
		a.Close()
	}
	return c.ConnectionState(), clientErr, <-served
}

func TestWhatIsSpoken(t *testing.T) {
	a := authority.New()
	until := time.Now().Add(time.Hour)
	one := pairOf(a.Issue(until, "one.test"))
	two := pairOf(a.Issue(until, "two.test"))
	block, _ := pem.Decode(a.PEM())
	known, err := tls.X509KeyPair(a.Issue(until, "client.test"))
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := tls.X509KeyPair(authority.New().Issue(until, "client.test"))
	if err != nil {
		t.Fatal(err)
	}
	show := func(c tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
	}
	require := ipc.TLS{ClientCAs: [][]byte{block.Bytes}}
	optional := ipc.TLS{ClientCAs: [][]byte{block.Bytes}, ClientOptional: true}
	for _, c := range []struct {
		name   string
		server ipc.TLS
		client *tls.Config
		curve  tls.CurveID
		fails  bool
	}{
		{"1.3", ipc.TLS{}, &tls.Config{}, tls.X25519, false},
		{"1.2", ipc.TLS{}, &tls.Config{MaxVersion: tls.VersionTLS12}, tls.X25519, false},
		{"1.2 to 1.3 alone", ipc.TLS{Only13: true}, &tls.Config{MaxVersion: tls.VersionTLS12}, 0, true},
		{"1.1", ipc.TLS{}, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, 0, true},
		{"CBC", ipc.TLS{}, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}, 0, true},
		{"post-quantum", ipc.TLS{PostQuantum: true}, &tls.Config{}, tls.X25519MLKEM768, false},
		{"post-quantum, a client without", ipc.TLS{PostQuantum: true}, &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP256}}, tls.CurveP256, false},
		{"P-521", ipc.TLS{}, &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP521}}, 0, true},
		{"the second by name", ipc.TLS{}, &tls.Config{ServerName: "two.test"}, tls.X25519, false},
		{"neither by name", ipc.TLS{}, &tls.Config{ServerName: "three.test"}, 0, true},
		{"required, none", require, &tls.Config{}, 0, true},
		{"required, good", require, &tls.Config{GetClientCertificate: show(known)}, tls.X25519, false},
		{"required, nobody's", require, &tls.Config{GetClientCertificate: show(unknown)}, 0, true},
		{"optional, none", optional, &tls.Config{}, tls.X25519, false},
		{"optional, good", optional, &tls.Config{GetClientCertificate: show(known)}, tls.X25519, false},
		{"optional, nobody's", optional, &tls.Config{GetClientCertificate: show(unknown)}, 0, true},
	} {
		c.server.Pairs = []ipc.KeyPair{one, two}
		server, err := tlsConfig(&c.server)
		if err != nil {
			t.Fatal(err)
		}
		c.client.RootCAs = a.Pool()
		if c.client.ServerName == "" {
			c.client.ServerName = "one.test"
		}
		state, clientErr, serverErr := handshake(server, c.client)
		if failed := clientErr != nil; failed != c.fails || !failed && (serverErr != nil || state.CurveID != c.curve) {
			t.Errorf("%s: client %v, server %v, curve %v", c.name, clientErr, serverErr, state.CurveID)
		}
	}
}

func TestBadCertificatesOfTheMaster(t *testing.T) {
	good := pairOf(authority.New().Issue(time.Now().Add(time.Hour), "a.test"))
	for _, c := range []struct {
		t    ipc.TLS
		want string
	}{
		{ipc.TLS{}, "there is none"},
		{ipc.TLS{Pairs: []ipc.KeyPair{{Chain: good.Chain, Key: []byte("secret")}}}, "it is none in PKCS #8"},
		{ipc.TLS{Pairs: []ipc.KeyPair{{Key: good.Key}}}, "without its bytes"},
		{ipc.TLS{Pairs: []ipc.KeyPair{{Chain: [][]byte{{1}}, Key: good.Key}}}, "a certificate: "},
		{ipc.TLS{Pairs: []ipc.KeyPair{good}, ClientCAs: [][]byte{{1}}}, "a client CA: "},
	} {
		if _, err := tlsConfig(&c.t); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}

// A ticket of an address opens nothing where clients are asked for something else.
func TestTicketKeysAreAnAddresssOwn(t *testing.T) {
	key := bytes.Repeat([]byte{7}, ipc.TicketSize)
	var seen [][ipc.TicketSize]byte
	for _, a := range []ipc.TLS{{}, {ClientCAs: [][]byte{{1}}}, {ClientCAs: [][]byte{{2}}}, {ClientCAs: [][]byte{{1}, {2}}}, {ClientCAs: [][]byte{{1}}, ClientOptional: true}} {
		own := ticketKeys(&a, [][]byte{key})
		if again := ticketKeys(&a, [][]byte{key}); len(own) != 1 || own[0] != again[0] {
			t.Errorf("%+v: another key each time", a)
		}
		if slices.Contains(seen, own[0]) || bytes.Equal(own[0][:], key) {
			t.Errorf("%+v: it has a key that is another's too", a)
		}
		seen = append(seen, own[0])
	}
}

// A worker encrypts by what its welcome brings, and by what comes later; something bad
// changes nothing. A program that accepts by hand gets connections over TLS.
func TestSecretsOfTheMaster(t *testing.T) {
	a := authority.New()
	seal := func(host string) (fd int) {
		t.Helper()
		secrets := ipc.Secrets{
			TLS:     []*ipc.TLS{{Pairs: []ipc.KeyPair{pairOf(a.Issue(time.Now().Add(time.Hour), host))}}},
			Tickets: [][]byte{make([]byte, ipc.TicketSize)},
		}
		fd, err := secrets.Seal()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sys.Close(fd) })
		return fd
	}
	s := start(t, "by hand", true)
	s.hears(ipc.Hello)
	s.says(ipc.Message{Kind: ipc.Welcome, Life: life(), Secrets: true, Listen: []ipc.Listen{{Name: "web", Address: s.socket.Addr().String()}}}, s.boards, seal("a.test"))
	s.hears(ipc.Ready)
	ask := func(host string) (string, error) {
		c, err := tls.Dial("tcp", s.socket.Addr().String(), &tls.Config{RootCAs: a.Pool(), ServerName: host})
		if err != nil {
			return "", err
		}
		defer c.Close()
		text, err := io.ReadAll(c)
		return string(text), err
	}
	if got, err := ask("a.test"); got != "by hand" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	junk, err := sys.SealedBytes("junk", []byte("junk"))
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(junk)
	s.says(ipc.Message{Kind: ipc.Renew, Secrets: true}, junk)
	s.says(ipc.Message{Kind: ipc.Renew, Secrets: true})
	if got, err := ask("a.test"); got != "by hand" || err != nil {
		t.Errorf("after junk: %q, %v", got, err)
	}
	s.says(ipc.Message{Kind: ipc.Renew, Secrets: true}, seal("b.test"))
	for deadline := time.Now().Add(time.Minute); ; {
		got, err := ask("b.test")
		if got == "by hand" && err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new certificate is not served: %v", err)
		}
	}
	s.says(ipc.Message{Kind: ipc.Drain})
	s.ends(0)
	if text := s.printed(); strings.Count(text, "those before are used on") != 2 || !strings.Contains(text, "with 0 descriptors") {
		t.Errorf("what is told of the junk: %s", text)
	}
}
