package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// report is all that a run of this program found: what runs.json holds.
type report struct {
	Machine   machine   `json:"machine"`
	Arguments []string  `json:"arguments"`
	Seconds   float64   `json:"seconds"` // of each load
	Servers   []entry   `json:"servers"` // drover first
	Runs      []result  `json:"runs"`
	Failures  []failure `json:"failures"`
	Calls     []calls   `json:"system_calls"`
}

type entry struct {
	Key  string `json:"key"`
	Name string `json:"name"`
}

func readReport(path string) (report, error) {
	var r report
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err == nil && len(r.Servers) == 0 {
		err = fmt.Errorf("it names no server")
	}
	if err != nil {
		return r, fmt.Errorf("read the results of %s: %w", path, err)
	}
	return r, nil
}

// write puts runs.json, results.md and chart.svg into a directory.
func (r report) write(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	err = os.MkdirAll(dir, 0o777)
	for name, text := range map[string]string{"runs.json": string(data) + "\n", "results.md": r.markdown(), "chart.svg": r.chart()} {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666)
		}
	}
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

// Between these the README's chart and tables stand.
const (
	readmeBegin = "<!-- what scripts/bench --readme wrote -->\n"
	readmeEnd   = "<!-- its end -->\n"
)

func updateReadme(path, text string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("put the results into the README: %w", err)
	}
	after, err := between(string(data), text)
	if err != nil {
		return fmt.Errorf("put the results into %s: %w", path, err)
	}
	if err := os.WriteFile(path, []byte(after), 0o666); err != nil {
		return fmt.Errorf("put the results into the README: %w", err)
	}
	return nil
}

// between replaces what stands between the two marks, which must be there once.
func between(document, text string) (string, error) {
	before, rest, begun := strings.Cut(document, readmeBegin)
	_, after, ended := strings.Cut(rest, readmeEnd)
	if !begun || !ended {
		return "", fmt.Errorf("want a line %q and then a line %q", strings.TrimSpace(readmeBegin), strings.TrimSpace(readmeEnd))
	}
	return before + readmeBegin + text + readmeEnd + after, nil
}

// of are the runs of a load on a server.
func (r report) of(load, server string) []result {
	return slices.DeleteFunc(slices.Clone(r.Runs), func(x result) bool { return x.Load != load || x.Server != server })
}

func (r report) name(key string) string {
	for _, s := range r.Servers {
		if s.Key == key {
			return s.Name
		}
	}
	return ""
}

// ran are the loads that there are runs of.
func (r report) ran() []load {
	return slices.DeleteFunc(slices.Clone(loads), func(l load) bool {
		return !slices.ContainsFunc(r.Runs, func(x result) bool { return x.Load == l.name })
	})
}

// ratios are drover's CPU time per request over another server's, of each round
// that has both: times drift from round to round, ratios less.
func (r report) ratios(load, server string) []float64 {
	var all []float64
	for _, ours := range r.of(load, r.Servers[0].Name) {
		for _, theirs := range r.of(load, server) {
			if ours.Round == theirs.Round {
				all = append(all, ours.CPUPerRequest/theirs.CPUPerRequest)
			}
		}
	}
	return all
}

func each(runs []result, of func(result) float64) []float64 {
	var values []float64
	for _, r := range runs {
		values = append(values, of(r))
	}
	return values
}

func cpuOf(r result) float64 { return r.CPUPerRequest }

// median panics without values.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
