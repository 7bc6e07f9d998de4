package config

import "path/filepath"

// TLS says how the connections of an address are encrypted: by TLS 1.3, or 1.2 with
// AEAD suites only; nothing older is spoken. All files are in PEM format. The
// master reads them, and gives what they hold to the workers, who need not be
// allowed to; it looks each second whether they have changed, and the workers
// then use the new ones without a restart.
type TLS struct {
	// Certificates are served by the name that a client asks for. The first is for
	// those that ask for none, or for one that none of them is for.
	Certificates []Certificate `json:"certificates"`
	// ClientCA is a file with the authorities whose certificates clients show.
	// Empty asks them for none.
	ClientCA string `json:"client_ca,omitempty"`
	// ClientAuth is ClientRequire, also when empty, where a client without a good
	// certificate is refused; or ClientOptional, where one that shows none is let in
	// and the handler looks (http.Request.TLS, RequestCtx.TLSConnectionState).
	ClientAuth string `json:"client_auth,omitempty"`
	// MinVersion is the oldest version that is spoken: "1.2", also when empty, or "1.3".
	MinVersion string `json:"min_version,omitempty"`
	// PostQuantum also offers the key exchange X25519MLKEM768, which clients that
	// know it then take: what is recorded today stays secret should there be a
	// quantum computer one day. A full handshake then costs 1.4 times the CPU time
	// (281 to 396 µs, connection and request included). False offers X25519, P-256 and P-384.
	PostQuantum bool `json:"post_quantum,omitempty"`
}

// Certificate is a pair of files.
type Certificate struct {
	// Certificate holds the certificate, and behind it those between it and its root.
	Certificate string `json:"certificate"`
	// Key holds its private key: RSA, ECDSA or Ed25519, not encrypted.
	Key string `json:"key"`
}

// What TLS.ClientAuth may be.
const (
	ClientRequire  = "require"
	ClientOptional = "optional"
)

func checkClientAuth(auth string) error {
	return oneOf("client auth", auth, ClientRequire, ClientOptional)
}

func checkMinVersion(version string) error { return oneOf("min version", version, "1.2", "1.3") }

func (c Certificate) check() error {
	const want = "want both, such as {certificate: cert.pem, key: key.pem}"
	switch {
	case c.Certificate == "":
		return wrong("tls", "key %q without a certificate: %s", c.Key, want)
	case c.Key == "":
		return wrong("tls", "certificate %q without a key: %s", c.Certificate, want)
	}
	return nil
}

// check says what is wrong with a TLS, without looking at its files.
func (t *TLS) check() error {
	if len(t.Certificates) == 0 {
		return wrong("tls", "no certificate: want one and its key, such as {certificate: cert.pem, key: key.pem}")
	}
	for _, c := range t.Certificates {
		if err := c.check(); err != nil {
			return err
		}
	}
	if err := checkClientAuth(t.ClientAuth); err != nil {
		return err
	}
	if t.ClientAuth != "" && t.ClientCA == "" {
		return wrong("client auth", "%q without authorities: want client_ca too, a file with their certificates", t.ClientAuth)
	}
	return checkMinVersion(t.MinVersion)
}

// Below gives t with absolute paths: those that were not are below dir. Of nil it
// gives nil.
func (t *TLS) Below(dir string) *TLS {
	if t == nil {
		return nil
	}
	below := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	moved := *t
	moved.Certificates = nil
	for _, c := range t.Certificates {
		moved.Certificates = append(moved.Certificates, Certificate{below(c.Certificate), below(c.Key)})
	}
	moved.ClientCA = below(t.ClientCA)
	return &moved
}

// CheckForeign says what is wrong where a program that is not built on drover, of that
// name, is to have an address with TLS, or the PROXY protocol: it is the workers who
// speak them.
func (c Config) CheckForeign(program string) error {
	for _, l := range c.Listen {
		if l.TLS != nil {
			return wrong("tls", "on %s: %s is not built on drover, and does not encrypt by it: want the address without tls, and the program's own", l.Address, program)
		}
		if l.ProxyProtocol {
			return wrong("proxy protocol", "on %s: %s is not built on drover, and does not take it off: want the address without it, and the program's own", l.Address, program)
		}
	}
	return nil
}
