package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drover/examples/internal/start"
)

func TestMain(m *testing.M) { start.Main(m, main) }

// listener accepts, and has each connection done with.
func listener(t *testing.T, with func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			with(c)
		}
	}()
	return l.Addr().String()
}

func TestErrorsAreToldApart(t *testing.T) {
	released := make(chan struct{})
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/body":
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			<-released
		case "/header":
			<-released
		case "/cut":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
		}
	}))
	secure := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	t.Cleanup(func() { close(released) })
	secure.Config.ErrorLog = nil

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	reset := listener(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	})
	silent := listener(t, func(c net.Conn) { t.Cleanup(func() { c.Close() }) })
	nobody := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network") }}

	const short = 50 * time.Millisecond
	for _, c := range []struct {
		name   string
		client Client
		url    string
		want   Failure
	}{
		{"refused", Client{}, "http://" + closed.Addr().String(), Refused},
		{"reset", Client{}, "http://" + reset, Reset},
		{"cut", Client{}, plain.URL + "/cut", Reset},
		{"no name", Client{}, "http://nothing.invalid", DNS},
		{"a stranger's certificate", Client{}, secure.URL, TLS},
		{"no TLS", Client{}, strings.Replace(plain.URL, "http:", "https:", 1), TLS},
		{"handshake", Client{TLS: short}, "https://" + silent, TimedOut},
		{"header", Client{Header: short}, plain.URL + "/header", TimedOut},
		{"body", Client{Body: short}, plain.URL + "/body", TimedOut},
		{"total", Client{Total: short}, plain.URL + "/body", TimedOut},
		{"total, before the header", Client{Total: short}, plain.URL + "/header", TimedOut},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := c.client.start(nil, nobody)
			defer client.http.CloseIdleConnections()
			r, err := http.NewRequestWithContext(t.Context(), "POST", c.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := client.Do(r)
			if err == nil {
				_, err = io.ReadAll(answer.Body)
				answer.Body.Close()
			}
			if err == nil || Kind(err) != c.want {
				t.Errorf("%q: %v, want %q", Kind(err), err, c.want)
			}
		})
	}
	pool := x509.NewCertPool()
	pool.AddCert(secure.Certificate())
	client := new(Client).start(&tls.Config{RootCAs: pool}, nil)
	r, err := http.NewRequest("GET", secure.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := client.Do(r); err != nil {
		t.Errorf("a known certificate: %v", err)
	} else {
		answer.Body.Close()
	}
	client.http.CloseIdleConnections()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Do(r.WithContext(ctx)); Kind(err) != Canceled {
		t.Errorf("%q: %v, want canceled", Kind(err), err)
	}
}

// A request that may be repeated is, with its body; another is not.
func TestTries(t *testing.T) {
	for _, c := range []struct {
		method string
		body   io.Reader
		asked  int32
		status int
	}{
		{"GET", nil, 3, 200},
		{"PUT", strings.NewReader("text"), 3, 200},
		{"PUT", io.MultiReader(strings.NewReader("text")), 1, 503}, // which cannot be read again
		{"POST", strings.NewReader("text"), 1, 503},
	} {
		var asked atomic.Int32
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, err := io.ReadAll(r.Body)
			if want := map[bool]string{true: "text"}[c.body != nil]; string(text) != want || err != nil {
				t.Errorf("%s: the body is %q, %v, want %q", c.method, text, err, want)
			}
			if asked.Add(1) < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		client := (&Client{Tries: 5, Pause: time.Millisecond}).start(nil, nil)
		r, err := http.NewRequest(c.method, s.URL, c.body)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil || answer.StatusCode != c.status || asked.Load() != c.asked {
			t.Errorf("%s: %v, %v, asked %d times, want %d and %d times", c.method, answer, err, asked.Load(), c.status, c.asked)
		} else {
			answer.Body.Close()
		}
		client.http.CloseIdleConnections()
		s.Close()
	}
}

// Bodies pass through as they arrive.
func TestPassingOn(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/x-echo")
		_, _ = io.Copy(w, r.Body)
	}))
	defer upstream.Close()
	p := start.Example(t, "UPSTREAM="+upstream.URL)
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	answer := p.Do(t, p.Request(t, "PUT", "/echo", body))
	if text, err := io.ReadAll(answer.Body); err != nil || !bytes.Equal(text, body) || answer.Header.Get("Content-Type") != "text/x-echo" {
		t.Errorf("%s: %d bytes, %v, want %d", answer.Status, len(text), err, len(body))
	}
	upstream.Close()
	answer = p.Do(t, p.Request(t, "GET", "/", nil))
	if text, err := io.ReadAll(answer.Body); answer.StatusCode != http.StatusBadGateway || err != nil || string(text) != "refused\n" {
		t.Errorf("without the upstream: %s %q, %v", answer.Status, text, err)
	}
}
