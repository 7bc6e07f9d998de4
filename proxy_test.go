package drover_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"drover"
	"drover/config"
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
