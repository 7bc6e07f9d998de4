package drover_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover"
	"drover/config"
	"drover/internal/authority"
	"drover/internal/load"
	"drover/worker/proxy"
)

// proxyApp is a worker that proxies all to HERD_UPSTREAM.
func proxyApp(w *drover.Worker) error {
	p, err := proxy.New(proxy.Config{Routes: []config.Proxy{{Prefix: "/", Upstreams: []string{os.Getenv("HERD_UPSTREAM")}}}, Draining: w.Draining()})
	if err != nil {
		return err
	}
	defer p.Close()
	return w.Serve(drover.NetHTTP(p))
}

// A proxy's connections begin with who its client is, plain and under TLS; one without
// is closed and counted; anybody else's are as they are.
func TestProxyProtocol(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newHerd(t, engine)
		h.env = append(h.env, "HERD_WORKERS=1", "HERD_PROXIES=127.0.0.1")
		a := authority.New()
		if engine == "nethttp" {
			certificate, key := a.Write(t.TempDir(), "live", "herd.test")
			h.env = append(h.env, "HERD_TLS="+certificate+":"+key)
		}
		h.launch()
		h.await("a ready worker", func(e []event) bool { return count(e, "ready") >= 1 })
		ask := func(from, header string) string {
			t.Helper()
			c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}).Dial("tcp", h.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(c, header)
			if engine == "nethttp" {
				c = tls.Client(c, &tls.Config{RootCAs: a.Pool(), ServerName: "herd.test"})
			}
			_, _ = io.WriteString(c, "GET /client HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			answer, _ := io.ReadAll(c)
			_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
			return body
		}
		for header, want := range map[string]string{
			"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n":                                                      "203.0.113.7:56324",
			"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n":                                                          "[2001:db8::7]:1",
			"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x10\x0a\x00\x00\x01\xc0\x00\x02\x01\x12\x34\x00\x50\x04\x00\x01x": "10.0.0.1:4660",
			"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00":                                                              "127.0.0.1:",
			"":                                                                                                    "",
		} {
			if got := ask("127.0.0.1", header); got != want && !(strings.HasSuffix(want, ":") && strings.HasPrefix(got, want)) {
				t.Errorf("%q: %q, want %q", header, got, want)
			}
		}
		if got := ask("127.0.0.2", ""); !strings.HasPrefix(got, "127.0.0.2:") {
			t.Errorf("who is no proxy: %q, want its own address", got)
		}
		s := h.status()
		if n := s.Workers[0].Requests; n != 6 {
			t.Errorf("%d requests are counted, want 6, the refused one too", n)
		}
		h.stop()
	})
}

// While bodies of 1 MiB are proxied, a reload costs nobody anything, and a killed
// worker what it had accepted.
func TestProxyUnderFaults(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 1<<16)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(up.Close)
	h := newPlainHerd(t, "proxy")
	h.env = append(h.env, "HERD_UPSTREAM="+up.URL, "HERD_MIN_UPTIME=100ms")
	h.launch()
	h.await("two ready workers", func(e []event) bool { return count(e, "ready") >= 2 })
	r := load.Start(load.Load{Addr: h.addr, KeepAlive: 3, PerRequest: 3, Slow: 1, Body: body})
	defer r.Stop()
	if err := r.AwaitOK(20); err != nil {
		t.Fatal(err)
	}
	if err := h.client().Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	if c := r.Counts(); c.Lost() != 0 {
		t.Errorf("a reload: %s; the first losses:\n%s", c, r.Losses())
	}
	before := r.Counts()
	if err := syscall.Kill(h.ready()[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.await("a successor", func(e []event) bool { return count(e, "ready") >= 5 })
	exit := pick(h.happened(), "exit")
	if err := r.AwaitOK(20); err != nil {
		t.Error(err)
	}
	lost(t, r, r.Stop().Minus(before), exit[len(exit)-1].Connections+1)
	h.stop()
}
