package drover_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// metrics asks the control socket for them.
func (h *herd) metrics() string {
	h.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(h.dir, h.name+".sock"))
	}}}
	resp, err := client.Get("http://drover/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

func TestMetrics(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newHerd(t, engine)
		h.start()
		for range 5 {
			h.get("/")
		}
		text := h.metrics()
		for _, line := range []string{`drover_requests_total{class="2xx"} 5`, `drover_request_duration_seconds_count 5`, `drover_worker_ready{slot="1"} 1`, `drover_state{state="running"} 1`} {
			if !strings.Contains(text, line+"\n") {
				t.Errorf("no line %s in\n%s", line, text)
			}
		}
		if !strings.HasPrefix(text, "# HELP drover_requests_total ") {
			t.Errorf("it begins with %.60q", text)
		}
		h.stop()
	})
}

// What Node workers answer as prom-client does is merged; what Prometheus would
// refuse, or has a name of drover's, is left out.
func TestNodeMetrics(t *testing.T) {
	h := newNodeHerd(t)
	h.start()
	text := h.metrics()
	for _, line := range []string{`app_requests_total{path="/"} 14`, `app_uptime_seconds 7`, "# TYPE app_uptime_seconds gauge", `drover_worker_ready{slot="1"} 1`} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
	if strings.Contains(text, "not a name") || strings.Contains(text, "drover_generation 99") {
		t.Errorf("what Prometheus refuses, or is drover's, is told:\n%s", text)
	}
	if log := h.log(); strings.Contains(log, "they go nowhere") {
		t.Error("the answers were taken for messages that go nowhere")
	}
	h.stop()
}
