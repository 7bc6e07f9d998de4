package keyring

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drover/config"
	"drover/internal/authority"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// address is one that is encrypted with a pair of files.
func address(certificate, key string) []config.Listen {
	return []config.Listen{{Address: ":80"}, {Address: ":443", TLS: &config.TLS{Certificates: []config.Certificate{{Certificate: certificate, Key: key}}}}}
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	a := authority.New()
	certificate, key := a.Write(t.TempDir(), "one", "one.test", "127.0.0.1")
	listen := address(certificate, key)
	listen[1].TLS.ClientCA = write(t, "ca.pem", append(a.PEM(), authority.New().PEM()...))
	listen[1].TLS.ClientAuth = config.ClientOptional
	listen[1].TLS.MinVersion = "1.3"
	r, err := Read(listen)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.TLS(); len(got) != 2 || got[0] != nil || len(got[1].Pairs) != 1 || len(got[1].ClientCAs) != 2 || !got[1].ClientOptional || !got[1].Only13 || got[1].PostQuantum {
		t.Errorf("read %+v", got)
	}
	if f := r.Facts(); len(f) != 1 || f[0].Address != ":443" || strings.Join(f[0].Names, " ") != "one.test 127.0.0.1" || f[0].Warning(time.Now()) != "" {
		t.Errorf("facts %+v", f)
	}
	if r, err := Read(listen[:1]); r != nil || err != nil {
		t.Errorf("without TLS: %v, %v", r, err)
	}
}

// Every kind of key that openssl makes is taken.
func TestKindsOfKeys(t *testing.T) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	parameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 5, 0x2b, 0x81, 4, 0, 0x22}})
	for _, c := range []struct {
		public, private any
		pem             []byte
		warning         string
	}{
		{ec.Public(), ec, append(parameters, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})...), ""},
		{weak.Public(), weak, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(weak)}), "has a key of 1024 bits"},
	} {
		der, err := x509.CreateCertificate(rand.Reader, template, template, c.public, c.private)
		if err != nil {
			t.Fatal(err)
		}
		certificate := write(t, "a.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		r, err := Read(address(certificate, write(t, "a.key", c.pem)))
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Facts()[0].Warning(time.Now()); (got == "") != (c.warning == "") || !strings.Contains(got, c.warning) {
			t.Errorf("%T: warning %q, want %q", c.private, got, c.warning)
		}
	}
}

func TestWhatIsWrong(t *testing.T) {
	a := authority.New()
	dir := t.TempDir()
	certificate, key := a.Write(dir, "one", "one.test")
	_, another := a.Write(dir, "two", "two.test")
	none := filepath.Join(dir, "none")
	cut := write(t, "cut.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("junk")}))
	for _, c := range []struct{ certificate, key, ca, want string }{
		{none, key, "", "tls on :443: certificate: open " + none + ": no such file or directory"},
		{certificate, none, "", "tls on :443: key: open " + none},
		{certificate, another, "", "certificate " + certificate + " with key " + another + ": private key does not match public key"},
		{key, certificate, "", "certificate " + key + ": it holds private key, but no certificate: are two files mixed up?"},
		{certificate, certificate, "", "key " + certificate + ": it holds certificate, but no private key: are two files mixed up?"},
		{write(t, "empty", nil), key, "", "it holds no certificate: want PEM format"},
		{cut, key, "", "certificate " + cut + ": x509: malformed certificate"},
		{certificate, write(t, "locked", []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")), "", "it is encrypted: want it without a passphrase"},
		{write(t, "big", bytes.Repeat([]byte("x"), maxFile+1)), key, "", "more than 1048576 bytes"},
		{certificate, key, none, "tls on :443: client CA: open"},
		{certificate, key, cut, "client CA " + cut + ": x509: malformed"},
	} {
		listen := address(c.certificate, c.key)
		listen[1].TLS.ClientCA = c.ca
		_, err := Read(listen)
		var wrong *config.Error
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s, %s, %s: error %v, want %q", c.certificate, c.key, c.ca, err, c.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	a := authority.New()
	dir := t.TempDir()
	for _, c := range []struct {
		from  time.Duration // now, as seen from the beginning of two hours
		names []string
		want  string
	}{
		{2 * time.Hour, []string{"a.test"}, "has expired, at "},
		{-time.Minute, []string{"a.test"}, "is not valid before "},
		{time.Hour, nil, "names no host"},
		{107 * time.Minute, []string{"a.test"}, ""},
		{109 * time.Minute, []string{"a.test"}, "expires soon, at "},
	} {
		certificate, key := a.Write(dir, "warned", c.names...)
		r, err := Read(address(certificate, key))
		if err != nil {
			t.Fatal(err)
		}
		fact := r.Facts()[0]
		got := fact.Warning(fact.From.Add(c.from))
		if !strings.Contains(got, c.want) || (got == "") != (c.want == "") || got != "" && !strings.HasPrefix(got, "certificate "+certificate+" ") {
			t.Errorf("%v: warning %q, want %q", c.from, got, c.want)
		}
	}
}

// A change is taken once certificate and key are both there; a bad one is told of
// once, and what was before stays.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := authority.New()
		dir := t.TempDir()
		certificate, key := a.Write(dir, "live", "one.test")
		a.Write(dir, "next", "two.test")
		r, err := Read(address(certificate, key))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var told []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.Watch(ctx, func(next *Ring, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					told = append(told, "refused")
					return
				}
				told = append(told, next.Facts()[0].Names[0])
			})
		}()
		move := func(from, to string) {
			t.Helper()
			if err := os.Rename(filepath.Join(dir, from), to); err != nil {
				t.Fatal(err)
			}
		}
		after := func(d time.Duration, want ...string) {
			t.Helper()
			time.Sleep(d) // in the bubble's time
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if strings.Join(told, " ") != strings.Join(want, " ") {
				t.Errorf("told %q, want %q", told, want)
			}
		}
		after(10500 * time.Millisecond)
		move("next.pem", certificate)
		after(time.Second) // it may be half of a change
		move("next.key", key)
		after(2*time.Second, "two.test")
		if err := os.Remove(key); err != nil {
			t.Fatal(err)
		}
		after(time.Minute, "two.test", "refused")
		if err := os.Symlink(filepath.Join(dir, "three.key"), key); err != nil {
			t.Fatal(err)
		}
		after(time.Minute, "two.test", "refused") // it leads nowhere, as before
		a.Write(dir, "three", "three.test")
		move("three.pem", certificate)
		after(2*time.Second, "two.test", "refused", "three.test")
		if err := os.Chmod(certificate, 0o644); err != nil {
			t.Fatal(err)
		}
		after(time.Minute, "two.test", "refused", "three.test") // it holds the same
		cancel()
		<-done
	})
}

func TestTickets(t *testing.T) {
	var keys Tickets
	now := time.Now()
	if len(keys.Keys()) != 0 || !keys.Turn(now) || keys.Turn(now.Add(TicketTurn-1)) || len(keys.Keys()) != 1 {
		t.Fatalf("the first turn gives %d keys", len(keys.Keys()))
	}
	first := keys.Keys()[0]
	for n := 1; n <= ticketKeys; n++ {
		if now = now.Add(TicketTurn); !keys.Turn(now) {
			t.Fatalf("no turn after %v", TicketTurn)
		}
		all := keys.Keys()
		if len(all) != min(n+1, ticketKeys) || bytes.Equal(all[0], all[1]) {
			t.Errorf("turn %d: %d keys", n, len(all))
		}
		if opens := bytes.Equal(all[len(all)-1], first); opens != (n < ticketKeys) {
			t.Errorf("turn %d: the first key opens tickets: %t", n, opens)
		}
	}
}
