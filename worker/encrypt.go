package worker

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"drover/ipc"
)

// encrypt takes what our addresses are encrypted with from now on.
func (w *Worker) encrypt(fd int) error {
	secrets, err := ipc.Unseal(fd)
	if err != nil {
		return err
	}
	if len(secrets.TLS) > len(w.listeners) {
		return fmt.Errorf("the master sent certificates for %d addresses, but named %d", len(secrets.TLS), len(w.listeners))
	}
	for i, t := range secrets.TLS {
		if t == nil {
			continue
		}
		c, err := tlsConfig(t)
		if err == nil {
			err = w.listeners[i].encrypt(c, ticketKeys(t, secrets.Tickets))
		}
		if err != nil {
			return fmt.Errorf("certificates for %s: %w", w.listeners[i].address, err)
		}
	}
	return nil
}

// suites are those of TLS 1.2: forward secret and AEAD (RFC 9325, section 4.2). Those
// of TLS 1.3 are all so, and not to be chosen from.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// tlsConfig is what an address is encrypted with, as crypto/tls takes it.
func tlsConfig(t *ipc.TLS) (*tls.Config, error) {
	c := &tls.Config{
		MinVersion:       tls.VersionTLS12,
		CipherSuites:     suites,
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384}, // crypto/tls has an order of its own
	}
	if t.Only13 {
		c.MinVersion = tls.VersionTLS13
	}
	if t.PostQuantum {
		c.CurvePreferences = append(c.CurvePreferences, tls.X25519MLKEM768)
	}
	if len(t.Pairs) == 0 {
		return nil, errors.New("there is none")
	}
	for _, p := range t.Pairs {
		pair, err := certificate(p)
		if err != nil {
			return nil, err
		}
		c.Certificates = append(c.Certificates, pair)
	}
	if len(t.ClientCAs) == 0 {
		return c, nil
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	if t.ClientOptional {
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	c.ClientCAs = x509.NewCertPool()
	for _, der := range t.ClientCAs {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("a client CA: %w", err)
		}
		c.ClientCAs.AddCert(ca)
	}
	return c, nil
}

func certificate(p ipc.KeyPair) (tls.Certificate, error) {
	key, err := x509.ParsePKCS8PrivateKey(p.Key)
	if err != nil {
		return tls.Certificate{}, errors.New("a private key: it is none in PKCS #8") // the cause might quote it
	}
	if len(p.Chain) == 0 {
		return tls.Certificate{}, errors.New("a certificate came without its bytes")
	}
	leaf, err := x509.ParseCertificate(p.Chain[0]) // once, and not in each handshake
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("a certificate: %w", err)
	}
	return tls.Certificate{Certificate: p.Chain, PrivateKey: key, Leaf: leaf}, nil
}

// ticketKeys are an address's own, made of those that the whole app has: a ticket says
// which client certificate was shown, and is worth nothing where other authorities are
// trusted.
func ticketKeys(t *ipc.TLS, tickets [][]byte) (own [][ipc.TicketSize]byte) {
	for _, key := range tickets {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "session tickets, client optional: %t", t.ClientOptional)
		for _, ca := range t.ClientCAs {
			sum := sha256.Sum256(ca)
			mac.Write(sum[:])
		}
		own = append(own, [ipc.TicketSize]byte(mac.Sum(nil)))
	}
	return own
}
