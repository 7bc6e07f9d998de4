package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/examples/internal/start"
	"drover/internal/authority"
)

func TestMain(m *testing.M) { start.Main(m, main) }

func TestHTTPS(t *testing.T) {
	for engine, protocol := range map[string]string{"fasthttp": "HTTP/1.1", "nethttp": "HTTP/2.0"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			a, dir := authority.New(), t.TempDir()
			certificate, key := a.Write(dir, "server", "127.0.0.1")
			ca := filepath.Join(dir, "ca.pem")
			if err := os.WriteFile(ca, a.PEM(), 0o600); err != nil {
				t.Fatal(err)
			}
			p := start.Example(t, "ENGINE="+engine, "CERTIFICATE="+certificate, "KEY="+key, "CLIENT_CA="+ca)
			friend, err := tls.X509KeyPair(a.Issue(time.Now().Add(time.Hour), "friend.test"))
			if err != nil {
				t.Fatal(err)
			}
			foe, err := tls.X509KeyPair(authority.New().Issue(time.Now().Add(time.Hour), "friend.test"))
			if err != nil {
				t.Fatal(err)
			}
			ask := func(shown ...tls.Certificate) (string, error) {
				transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: a.Pool(), MinVersion: tls.VersionTLS12,
					GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
						if len(shown) == 0 {
							return new(tls.Certificate), nil
						}
						return &shown[0], nil // whoever its authority is
					}}}
				defer transport.CloseIdleConnections()
				answer, err := (&http.Client{Transport: transport, Timeout: start.Patience}).Get(strings.Replace(p.URL, "http:", "https:", 1))
				if err != nil {
					return "", err
				}
				defer answer.Body.Close()
				body, err := io.ReadAll(answer.Body)
				return string(body), err
			}
			for who, shown := range map[string][]tls.Certificate{"stranger": nil, "friend.test": {friend}} {
				if got, err := ask(shown...); got != "hello "+who+", by "+protocol+" over TLS 1.3\n" {
					t.Errorf("%s: %q, %v", who, got, err)
				}
			}
			if got, err := ask(foe); err == nil {
				t.Errorf("a certificate of nobody's is taken: %q", got)
			}
		})
	}
}
