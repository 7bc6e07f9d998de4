package master

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"drover/master/admin"
	"drover/master/fleet"
	"drover/master/node"
)

// metricsPatience is how long Node workers get to tell their metrics.
const metricsPatience = time.Second

// gathering is a question for the metrics of Node workers that is under way.
type gathering struct {
	asked   int
	answers map[fleet.LifeID]node.MetricsAnswer
	done    chan []node.MetricsAnswer // gets one
}

// AppMetrics asks the Node workers for what their prom-client counts, and merges
// it. Workers that do not answer within a second, as those without prom-client's
// AggregatorRegistry, are left out. It blocks as long, and may be called from any
// goroutine.
func (m *Master) AppMetrics(ctx context.Context) []admin.Family {
	done := make(chan []node.MetricsAnswer, 1)
	request := 0
	if !m.post(func() { request = m.askMetrics(done) }) {
		return nil
	}
	timeout := time.NewTimer(metricsPatience)
	defer timeout.Stop()
	var answers []node.MetricsAnswer
	select {
	case answers = <-done:
	case <-ctx.Done():
		m.post(func() { m.stopGathering(request) })
		return nil
	case <-timeout.C:
		if m.post(func() { m.stopGathering(request) }) {
			answers = <-done
		}
	}
	return families(node.MergeMetrics(answers))
}

// askMetrics asks every Node worker that listens, and gives the question's number.
func (m *Master) askMetrics(done chan []node.MetricsAnswer) int {
	g := &gathering{done: done, answers: map[fleet.LifeID]node.MetricsAnswer{}}
	if m.node == nil {
		done <- nil
		return 0
	}
	m.node.requests++
	request := m.node.requests
	for _, l := range m.lives {
		if l.node != nil && m.node.primary.Seat(l.worker()) >= 0 {
			g.asked++
			m.tellNode(l, node.AskMetrics(request))
		}
	}
	if g.asked == 0 {
		done <- nil
		return request
	}
	m.node.gathering[request] = g
	return request
}

// metricsOf takes a worker's answer.
func (m *Master) metricsOf(l *life, a node.MetricsAnswer) {
	g := m.node.gathering[a.RequestID]
	if g == nil {
		return // too late
	}
	g.answers[l.id] = a
	if len(g.answers) == g.asked {
		m.stopGathering(a.RequestID)
	}
}

// stopGathering ends a question with the answers that have come.
func (m *Master) stopGathering(request int) {
	if m.node == nil {
		return
	}
	if g := m.node.gathering[request]; g != nil {
		delete(m.node.gathering, request)
		var answers []node.MetricsAnswer
		for _, id := range slices.Sorted(maps.Keys(g.answers)) {
			answers = append(answers, g.answers[id])
		}
		g.done <- answers
	}
}

var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	labelName  = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	metricType = regexp.MustCompile(`^(counter|gauge|histogram|summary)$`)
)

// families makes what the control socket tells of a program's metrics. What
// Prometheus would not read is left out, since it would refuse the whole, and what
// has a name of drover's.
func families(metrics []node.Metric) []admin.Family {
	var all []admin.Family
	for _, m := range metrics {
		if strings.HasPrefix(m.Name, "drover_") || !metricName.MatchString(m.Name) || !metricType.MatchString(m.Type) {
			continue
		}
		f := admin.Family{Name: m.Name, Help: m.Help, Type: m.Type}
	values:
		for _, v := range m.Values {
			s := admin.Sample{Name: m.Name, Labels: map[string]string{}, Value: v.Value}
			if v.Name != "" {
				s.Name = v.Name
			}
			if !metricName.MatchString(s.Name) {
				continue
			}
			for name, value := range v.Labels {
				if !labelName.MatchString(name) {
					continue values
				}
				s.Labels[name] = string(value)
			}
			f.Samples = append(f.Samples, s)
		}
		all = append(all, f)
	}
	return all
}
