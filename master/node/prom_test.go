package node

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What two workers answer becomes one, as each metric says.
func TestMetricsAreMerged(t *testing.T) {
	answer := func(n string) MetricsAnswer {
		t.Helper()
		text := `{"type":"prom-client:getMetricsRes","requestId":1,"metrics":[[` + strings.ReplaceAll(`
			{"name":"b_total","help":"b","type":"counter","aggregator":"sum","values":[{"value":#,"labels":{"x":"1"}},{"value":1,"labels":{"worker":"#"}}]},
			{"name":"a_min","help":"a","type":"gauge","aggregator":"min","values":[{"value":#,"labels":{}}]},
			{"name":"c_max","help":"c","type":"gauge","aggregator":"max","values":[{"value":#,"labels":{}}]},
			{"name":"d_first","help":"d","type":"gauge","aggregator":"first","values":[{"value":#,"labels":{}}]},
			{"name":"e_avg","help":"e","type":"gauge","aggregator":"average","values":[{"value":#,"labels":{}}]},
			{"name":"f_omit","help":"f","type":"gauge","aggregator":"omit","values":[{"value":#,"labels":{}}]}],[
			{"name":"g","help":"g","type":"histogram","aggregator":"sum","values":[{"value":#,"labels":{"le":0.5},"metricName":"g_bucket"},{"value":#,"labels":{},"metricName":"g_sum"}]}`, "#", n) + `]]}`
		a, ok := ParseMetrics(json.RawMessage(text))
		if !ok {
			t.Fatalf("it is no answer: %s", text)
		}
		return a
	}
	value := func(v float64, name string, labels ...string) MetricValue {
		m := MetricValue{Value: v, Name: name, Labels: map[string]labelValue{}}
		for i := 0; i < len(labels); i += 2 {
			m.Labels[labels[i]] = labelValue(labels[i+1])
		}
		return m
	}
	want := []Metric{
		{"a_min", "a", "gauge", "min", []MetricValue{value(2, "")}},
		{"b_total", "b", "counter", "sum", []MetricValue{value(15, "", "x", "1"), value(1, "", "worker", "2"), value(1, "", "worker", "9"), value(1, "", "worker", "4")}},
		{"c_max", "c", "gauge", "max", []MetricValue{value(9, "")}},
		{"d_first", "d", "gauge", "first", []MetricValue{value(2, "")}},
		{"e_avg", "e", "gauge", "average", []MetricValue{value(5, "")}},
		{"g", "g", "histogram", "sum", []MetricValue{value(15, "g_bucket", "le", "0.5"), value(15, "g_sum")}},
	}
	if diff := cmp.Diff(want, MergeMetrics([]MetricsAnswer{answer("2"), answer("9"), answer("4")})); diff != "" {
		t.Error(diff)
	}
	if MergeMetrics(nil) != nil {
		t.Error("of nothing comes something")
	}
}

func FuzzMetrics(f *testing.F) {
	f.Add([]byte(`{"type":"prom-client:getMetricsRes","requestId":1,"metrics":[[{"name":"a","values":[{"value":1,"labels":{"le":0.5}}]}]]}`))
	f.Add([]byte(`{"type":"prom-client:getMetricsRes","metrics":[null,[{"values":null}]]}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		if a, ok := ParseMetrics(value); ok {
			MergeMetrics([]MetricsAnswer{a, a})
		}
	})
}
