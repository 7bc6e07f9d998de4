// Package keyring reads the certificates and private keys of an app's addresses,
// says what is wrong with them, notices when their files change, and makes the keys
// of session tickets. It starts no goroutine.
package keyring

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"syscall"
	"time"

	"drover/config"
	"drover/ipc"
)

// Ring is what the addresses of an app are encrypted with, as their files were when
// it was read. It never changes.
type Ring struct {
	listen []config.Listen
	tls    []*ipc.TLS // by index in listen; nil is plain text
	facts  []Fact
	files  string // what is known of the files, without reading them
}

// Fact is what is to be known of a certificate.
type Fact struct {
	Listen      int // index of the address
	Address     string
	File        string
	Names       []string // hosts that it is for
	From, Until time.Time
	bits        int // of an RSA key; 0 is another kind
}

// Warning says what clients object to, or soon will; it is empty where all is well.
// Soon is when nine tenths of its time are over: whoever renews it should have.
func (f Fact) Warning(now time.Time) string {
	const minute = "2006-01-02 15:04 MST"
	what := ""
	switch left := f.Until.Sub(now); {
	case left <= 0:
		what = fmt.Sprintf("has expired, at %s: clients refuse it", f.Until.Format(minute))
	case now.Before(f.From):
		what = fmt.Sprintf("is not valid before %s: clients refuse it until then", f.From.Format(minute))
	case len(f.Names) == 0:
		what = "names no host (subjectAltName): clients refuse it"
	case f.bits > 0 && f.bits < 2048:
		what = fmt.Sprintf("has a key of %d bits: clients refuse it: want at least 2048", f.bits)
	case left < f.Until.Sub(f.From)/10:
		what = fmt.Sprintf("expires soon, at %s: want it renewed", f.Until.Format(minute))
	default:
		return ""
	}
	return "certificate " + f.File + " " + what
}

// Read reads the files of all addresses. It gives nil where none is encrypted. Its
// error is a *config.Error: the address, the file, and what would be right.
func Read(listen []config.Listen) (*Ring, error) {
	r := &Ring{listen: listen, tls: make([]*ipc.TLS, len(listen))}
	r.files = r.stamp() // before they are read: what changes meanwhile is another stamp
	any := false
	for i, l := range listen {
		if l.TLS == nil {
			continue
		}
		any = true
		t, facts, err := read(l.TLS)
		if err != nil {
			return nil, &config.Error{Field: "tls on " + l.Address, Why: err.Error()}
		}
		for _, f := range facts {
			f.Listen, f.Address = i, l.Address
			r.facts = append(r.facts, f)
		}
		r.tls[i] = t
	}
	if !any {
		return nil, nil
	}
	return r, nil
}

// TLS is what each address is encrypted with, by its place among them; nil is plain
// text.
func (r *Ring) TLS() []*ipc.TLS { return r.tls }

// Facts tell of each certificate, in the order of addresses and files; a nil ring has
// none.
func (r *Ring) Facts() []Fact {
	if r == nil {
		return nil
	}
	return r.facts
}

// read reads the files of one address.
func read(c *config.TLS) (*ipc.TLS, []Fact, error) {
	t := &ipc.TLS{
		ClientOptional: c.ClientAuth == config.ClientOptional,
		Only13:         c.MinVersion == "1.3",
		PostQuantum:    c.PostQuantum,
	}
	var facts []Fact
	for _, files := range c.Certificates {
		pair, fact, err := readPair(files)
		if err != nil {
			return nil, nil, err
		}
		t.Pairs, facts = append(t.Pairs, pair), append(facts, fact)
	}
	if c.ClientCA != "" {
		blocks, err := readPEM("client CA", c.ClientCA, "CERTIFICATE")
		if err != nil {
			return nil, nil, err
		}
		for _, der := range blocks {
			if _, err := x509.ParseCertificate(der); err != nil {
				return nil, nil, fmt.Errorf("client CA %s: %w", c.ClientCA, err)
			}
			t.ClientCAs = append(t.ClientCAs, der)
		}
	}
	return t, facts, nil
}

// readPair reads a certificate and its key.
func readPair(files config.Certificate) (ipc.KeyPair, Fact, error) {
	fail := func(err error) (ipc.KeyPair, Fact, error) { return ipc.KeyPair{}, Fact{}, err }
	chain, err := readPEM("certificate", files.Certificate, "CERTIFICATE")
	if err != nil {
		return fail(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return fail(fmt.Errorf("certificate %s: %w", files.Certificate, err))
	}
	keys, err := readPEM("key", files.Key, "PRIVATE KEY")
	if err != nil {
		return fail(err)
	}
	// X509KeyPair knows every kind of key, and whether it is the certificate's.
	pair, err := tls.X509KeyPair(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keys[0]}),
	)
	if err != nil {
		return fail(fmt.Errorf("certificate %s with key %s: %s", files.Certificate, files.Key, strings.TrimPrefix(err.Error(), "tls: ")))
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return fail(fmt.Errorf("key %s: %w", files.Key, err))
	}
	fact := Fact{File: files.Certificate, Names: leaf.DNSNames, From: leaf.NotBefore, Until: leaf.NotAfter}
	for _, ip := range leaf.IPAddresses {
		fact.Names = append(fact.Names, ip.String())
	}
	if public, is := leaf.PublicKey.(*rsa.PublicKey); is {
		fact.bits = public.N.BitLen()
	}
	return ipc.KeyPair{Chain: chain, Key: key}, fact, nil
}

// maxFile bounds a file of certificates, in bytes.
const maxFile = 1 << 20

// readPEM gives the blocks of a file that are of a type, or of one that ends so (EC
// PRIVATE KEY); there is at least one. Others, such as a curve's parameters, are
// passed over.
func readPEM(what, path, kind string) ([][]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	case len(data) > maxFile:
		return nil, fmt.Errorf("%s %s: more than %d bytes: want a file in PEM format", what, path, maxFile)
	}
	var found [][]byte
	others := ""
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY", block.Headers["DEK-Info"] != "":
			return nil, fmt.Errorf("%s %s: it is encrypted: want it without a passphrase, which nobody could type at a restart", what, path)
		case strings.HasSuffix(block.Type, kind):
			found = append(found, block.Bytes)
		default:
			others = block.Type
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case others != "":
		return nil, fmt.Errorf("%s %s: it holds %s, but no %s: are two files mixed up?", what, path, strings.ToLower(others), strings.ToLower(kind))
	}
	return nil, fmt.Errorf("%s %s: it holds no %s: want PEM format, which begins with -----BEGIN", what, path, strings.ToLower(kind))
}

// stamp is what the file system says of all files, links followed: another one means
// that some may have changed.
func (r *Ring) stamp() string {
	var b strings.Builder
	look := func(path string) {
		if path == "" {
			return
		}
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", path, err)
			return
		}
		s := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s: %d %d %d %v %v\n", path, s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim)
	}
	for _, l := range r.listen {
		if l.TLS == nil {
			continue
		}
		for _, c := range l.TLS.Certificates {
			look(c.Certificate)
			look(c.Key)
		}
		look(l.TLS.ClientCA)
	}
	return b.String()
}

// lookEvery is how often Watch looks at the files.
const lookEvery = time.Second

// Watch calls changed with the ring as it is now, whenever its files have changed
// what they hold, or with why they cannot be used. A change is looked at once it has
// stood still for a second: certificate and key are seldom replaced in one moment.
// Watch blocks until ctx ends.
func (r *Ring) Watch(ctx context.Context, changed func(*Ring, error)) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	known, last := r.files, r.files
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := r.stamp()
		settled := now == last
		last = now
		if now == known || !settled {
			continue
		}
		known = now
		next, err := Read(r.listen)
		switch {
		case err != nil:
			changed(nil, err)
		case !reflect.DeepEqual(next.tls, r.tls):
			r = next
			changed(next, nil)
		}
	}
}
