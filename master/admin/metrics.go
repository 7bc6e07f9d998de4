package admin

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"drover/ipc/scoreboard"
)

// Family is a metric of the app's own programs, to be told beside drover's.
type Family struct {
	Name, Help, Type string
	Samples          []Sample
}

// Sample is one value of a Family. Its name is the family's, or, of a histogram or
// a summary, that with _bucket, _sum or _count.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// metrics writes families in the text format of Prometheus
// (prometheus.io/docs/instrumenting/exposition_formats). It is written here since
// the library for it makes every process of drover start eight milliseconds later.
type metrics struct{ w *bufio.Writer }

// writeMetrics writes what a status says, and the families of the app.
func writeMetrics(w io.Writer, s Status, app []Family) error {
	m := metrics{bufio.NewWriter(w)}
	t := s.Totals
	m.family("drover_requests_total", "counter", "Requests answered since the master's start, by status class.")
	for _, c := range []struct {
		class string
		n     uint64
	}{{"1xx", t.Status.Informational}, {"2xx", t.Status.Success}, {"3xx", t.Status.Redirection}, {"4xx", t.Status.ClientError}, {"5xx", t.Status.ServerError}} {
		m.sample("drover_requests_total", float64(c.n), "class", c.class)
	}
	m.latency("drover_request_duration_seconds", t.Latency)
	m.one("drover_received_bytes_total", "counter", "Bytes of requests, as far as they are known before they are read.", float64(t.BytesIn))
	m.one("drover_sent_bytes_total", "counter", "Bytes of responses' bodies.", float64(t.BytesOut))
	m.one("drover_accepted_connections_total", "counter", "Connections accepted.", float64(t.Connections))
	m.one("drover_panics_total", "counter", "Panics of handlers that were answered 500.", float64(t.Panics))
	m.one("drover_dropped_messages_total", "counter", "Messages between workers that found no room, or nobody.", float64(t.DroppedMessages))
	m.family("drover_state", "gauge", "1 for the state that the app is in.")
	for _, state := range []string{"starting", "running", "reloading", "stopping"} {
		m.sample("drover_state", truth(s.State == state), "state", state)
	}
	m.one("drover_generation", "gauge", "The generation that serves.", float64(s.Generation))
	m.one("drover_master_resident_memory_bytes", "gauge", "Resident memory of the master.", float64(s.Master.RSSBytes))
	m.one("drover_master_goroutines", "gauge", "Goroutines of the master.", float64(s.Master.Goroutines))

	if slices.ContainsFunc(s.Listen, func(l Listen) bool { return len(l.Certificates) > 0 }) {
		m.family("drover_certificate_expiry_timestamp_seconds", "gauge", "Until when the certificate of an address is valid, in seconds since 1970.")
	}
	for _, l := range s.Listen {
		for _, c := range l.Certificates {
			m.sample("drover_certificate_expiry_timestamp_seconds", float64(c.Until.Unix()), "address", l.Address, "names", strings.Join(c.Names, " "))
		}
	}

	m.family("drover_worker_restarts_total", "counter", "Deaths of a slot's workers that were not planned.")
	for _, slot := range s.Slots {
		m.sample("drover_worker_restarts_total", float64(slot.Restarts), "slot", strconv.Itoa(slot.Slot))
	}
	// A slot has two workers while one is replaced.
	for _, g := range []struct {
		name, help string
		of         func(Worker) float64
	}{
		{"drover_worker_ready", "How many workers of a slot serve.", func(w Worker) float64 { return truth(w.State == "ready") }},
		{"drover_worker_late", "How many workers of a slot miss their heartbeat.", func(w Worker) float64 { return truth(w.Late) }},
		{"drover_worker_connections", "Open connections.", func(w Worker) float64 { return float64(w.Connections) }},
		{"drover_worker_sockets", "Open connections that were upgraded, such as WebSockets.", func(w Worker) float64 { return float64(w.Sockets) }},
		{"drover_worker_in_flight", "Requests that are being answered.", func(w Worker) float64 { return float64(w.InFlight) }},
		{"drover_worker_resident_memory_bytes", "Resident memory.", func(w Worker) float64 { return float64(w.RSSBytes) }},
		{"drover_worker_cpu_ratio", "CPU use of the last second or more, 1 for one CPU.", func(w Worker) float64 { return w.CPUPercent / 100 }},
		{"drover_worker_sched_wait_seconds", "For how long goroutines waited for a processor: 99 of 100 no longer, or the worst heartbeat.", func(w Worker) float64 { return w.SchedWaitMilliseconds / 1000 }},
	} {
		m.family(g.name, "gauge", g.help)
		for _, slot := range s.Slots {
			sum := 0.0
			for _, w := range s.Workers {
				if w.Slot == slot.Slot {
					sum += g.of(w)
				}
			}
			m.sample(g.name, sum, "slot", strconv.Itoa(slot.Slot))
		}
	}
	for _, f := range app {
		m.family(f.Name, f.Type, f.Help)
		for _, sample := range f.Samples {
			var labels []string
			for _, name := range slices.Sorted(maps.Keys(sample.Labels)) {
				labels = append(labels, name, sample.Labels[name])
			}
			m.sample(sample.Name, sample.Value, labels...)
		}
	}
	return m.w.Flush()
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// latency writes a histogram, with a bucket for each power of two.
func (m metrics) latency(name string, h scoreboard.Histogram) {
	m.family(name, "histogram", "How long handlers took. The sum is one of the buckets' upper bounds.")
	var count uint64
	sum := 0.0
	for i, n := range h {
		count += n
		bound := scoreboard.UpperBound(i).Seconds()
		if i == len(h)-1 {
			bound = scoreboard.UpperBound(i - 1).Seconds() // it has none itself
		}
		sum += float64(n) * bound
		if i%4 == 3 && i < len(h)-1 {
			m.sample(name+"_bucket", float64(count), "le", strconv.FormatFloat(bound, 'g', -1, 64))
		}
	}
	m.sample(name+"_bucket", float64(count), "le", "+Inf")
	m.sample(name+"_sum", sum)
	m.sample(name+"_count", float64(count))
}

func (m metrics) one(name, kind, help string, value float64) {
	m.family(name, kind, help)
	m.sample(name, value)
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func (m metrics) family(name, kind, help string) {
	fmt.Fprintf(m.w, "# HELP %s %s\n# TYPE %s %s\n", name, escapeHelp.Replace(help), name, kind)
}

// sample writes a value with its labels, each a name and a value.
func (m metrics) sample(name string, value float64, labels ...string) {
	m.w.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		m.w.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(m.w, `%s="%s"`, labels[i], escapeLabel.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		m.w.WriteByte('}')
	}
	fmt.Fprintf(m.w, " %s\n", strconv.FormatFloat(value, 'g', -1, 64))
}
