package node

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// This file is about prom-client, whose AggregatorRegistry of a worker answers a
// primary that asks for its metrics.

// AskMetrics is the message by which a primary asks; the answers carry the same
// number.
func AskMetrics(request int) json.RawMessage {
	return fmt.Appendf(nil, `{"type":"prom-client:getMetricsReq","requestId":%d}`, request)
}

// Metric is one metric of a worker, as prom-client has it in JSON.
type Metric struct {
	Name       string        `json:"name"`
	Help       string        `json:"help"`
	Type       string        `json:"type"`
	Aggregator string        `json:"aggregator"` // sum, first, min, max, average or omit
	Values     []MetricValue `json:"values"`
}

// MetricValue is one value of a Metric.
type MetricValue struct {
	Value  float64               `json:"value"`
	Labels map[string]labelValue `json:"labels"`
	Name   string                `json:"metricName"` // of a part of a histogram or summary, else empty
}

// labelValue is a label's value: text, or a number, as bounds of buckets are.
type labelValue string

func (v *labelValue) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		*v = labelValue(text)
		return nil
	}
	var number float64
	if err := json.Unmarshal(data, &number); err != nil {
		return fmt.Errorf("label %.40s is neither text nor a number", data)
	}
	*v = labelValue(strconv.FormatFloat(number, 'g', -1, 64))
	return nil
}

// MetricsAnswer is a worker's answer to AskMetrics.
type MetricsAnswer struct {
	Type      string     `json:"type"`
	RequestID int        `json:"requestId"`
	Error     string     `json:"error"`
	Metrics   [][]Metric `json:"metrics"` // of each registry
}

// ParseMetrics gives a message that is an answer to AskMetrics, or false.
func ParseMetrics(value json.RawMessage) (a MetricsAnswer, ok bool) {
	return a, json.Unmarshal(value, &a) == nil && a.Type == "prom-client:getMetricsRes"
}

// MergeMetrics makes one of what several workers answered, as each metric says:
// their values of the same labels are summed, averaged, the least, greatest or
// first of them taken, or the metric is left out.
func MergeMetrics(answers []MetricsAnswer) []Metric {
	type key struct{ metric, part, labels string }
	merged := map[string]*Metric{}
	at := map[key]int{} // in its metric's Values
	counts := map[key]int{}
	for _, answer := range answers {
		for _, m := range slices.Concat(answer.Metrics...) {
			if m.Aggregator == "omit" {
				continue
			}
			into := merged[m.Name]
			if into == nil {
				into = &Metric{Name: m.Name, Help: m.Help, Type: m.Type, Aggregator: m.Aggregator}
				merged[m.Name] = into
			}
			for _, v := range m.Values {
				labels := ""
				for _, name := range slices.Sorted(maps.Keys(v.Labels)) {
					labels += strconv.Quote(name) + strconv.Quote(string(v.Labels[name]))
				}
				k := key{m.Name, v.Name, labels}
				i, known := at[k]
				if !known {
					at[k], counts[k] = len(into.Values), 1
					into.Values = append(into.Values, v)
					continue
				}
				was := &into.Values[i].Value
				counts[k]++
				switch into.Aggregator {
				case "first":
				case "min":
					*was = min(*was, v.Value)
				case "max":
					*was = max(*was, v.Value)
				case "average":
					*was += (v.Value - *was) / float64(counts[k])
				default:
					*was += v.Value
				}
			}
		}
	}
	return slices.SortedFunc(func(yield func(Metric) bool) {
		for _, m := range merged {
			if !yield(*m) {
				return
			}
		}
	}, func(a, b Metric) int { return cmp.Compare(a.Name, b.Name) })
}
