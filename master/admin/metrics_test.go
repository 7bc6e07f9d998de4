package admin

import (
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"drover/ipc/scoreboard"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// What is written, Prometheus' own parser reads.
func TestMetrics(t *testing.T) {
	dir := t.TempDir()
	f := serve(t, dir, "api")
	board := scoreboard.Private()
	for i := range 3 {
		board.End(board.Begin(time.Now().Add(-time.Duration(i)*time.Second), nil, nil), 200, 0, 0)
	}
	f.status = Status{
		State: "running", Generation: 2, Slots: []Slot{{Slot: 0, Restarts: 4}, {Slot: 1}},
		Workers: []Worker{
			{Slot: 0, State: "draining", Connections: 2, RSSBytes: 100},
			{Slot: 0, State: "ready", Connections: 3, RSSBytes: 1000, CPUPercent: 50},
		},
		Listen: []Listen{{Address: ":80"}, {Address: ":443", Certificates: []Certificate{{[]string{"a.test", "b.test"}, time.Unix(1e9, 0)}}}},
		Totals: Totals{BytesOut: 1 << 60, Latency: board.Snapshot().Latency},
	}
	f.status.Totals.Status.Success = 3
	f.app = []Family{
		{"sales_total", "Sold,\n\"all\" of it.", "counter", []Sample{{"sales_total", map[string]string{"shop": "a\"b\\c\nd", "kind": "x"}, 7}}},
		{"wait_seconds", "", "histogram", []Sample{
			{"wait_seconds_bucket", map[string]string{"le": "0.5"}, 1}, {"wait_seconds_bucket", map[string]string{"le": "+Inf"}, 2},
			{"wait_seconds_sum", nil, 3.5}, {"wait_seconds_count", nil, 2},
		}},
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, Dial: func(string, string) (net.Conn, error) {
		return net.Dial("unix", filepath.Join(dir, "api.sock"))
	}}}
	resp, err := client.Get("http://drover/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	got, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	value := func(name string, labels ...string) float64 {
		t.Helper()
		for _, m := range got[name].GetMetric() {
			has := map[string]string{}
			for _, l := range m.GetLabel() {
				has[l.GetName()] = l.GetValue()
			}
			matches := true
			for i := 0; i < len(labels); i += 2 {
				matches = matches && has[labels[i]] == labels[i+1]
			}
			if matches {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		t.Errorf("no %s with %q", name, labels)
		return -1
	}
	for _, c := range []struct {
		got, want float64
	}{
		{value("drover_requests_total", "class", "2xx"), 3}, {value("drover_sent_bytes_total"), 1 << 60}, {value("drover_state", "state", "running"), 1},
		{value("drover_state", "state", "stopping"), 0}, {value("drover_generation"), 2}, {value("drover_worker_restarts_total", "slot", "0"), 4},
		{value("drover_worker_ready", "slot", "0"), 1}, {value("drover_worker_ready", "slot", "1"), 0}, {value("drover_worker_connections", "slot", "0"), 5},
		{value("drover_worker_resident_memory_bytes", "slot", "0"), 1100}, {value("drover_worker_cpu_ratio", "slot", "0"), 0.5},
		{value("drover_certificate_expiry_timestamp_seconds", "address", ":443", "names", "a.test b.test"), 1e9},
		{value("sales_total", "shop", "a\"b\\c\nd", "kind", "x"), 7},
	} {
		if c.got != c.want {
			t.Errorf("%v, want %v", c.got, c.want)
		}
	}
	if help := got["sales_total"].GetHelp(); help != "Sold,\n\"all\" of it." {
		t.Errorf("help is %q", help)
	}
	for name, want := range map[string]struct {
		count uint64
		sum   float64
	}{"drover_request_duration_seconds": {3, 3}, "wait_seconds": {2, 3.5}} {
		h := got[name].GetMetric()[0].GetHistogram()
		if got[name].GetType() != dto.MetricType_HISTOGRAM || h.GetSampleCount() != want.count || h.GetSampleSum() < want.sum || h.GetSampleSum() > 1.3*want.sum {
			t.Errorf("%s: %v", name, h)
		}
	}
	buckets := got["drover_request_duration_seconds"].GetMetric()[0].GetHistogram().GetBucket()
	for i, b := range buckets[1:] {
		if b.GetCumulativeCount() < buckets[i].GetCumulativeCount() || b.GetUpperBound() <= buckets[i].GetUpperBound() {
			t.Errorf("the buckets do not rise: %v", buckets)
		}
	}
}
