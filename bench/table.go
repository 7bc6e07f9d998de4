package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// markdown is everything, as tables.
func (r report) markdown() string {
	var b strings.Builder
	for _, l := range r.ran() {
		b.WriteString(r.table(l) + "\n")
	}
	if text := r.promises(); text != "" {
		b.WriteString("### What drover promises\n\n" + text + "\n")
	}
	if len(r.Calls) > 0 {
		b.WriteString("### System calls per request\n\n" + callsTable(r.Calls) + "\n")
	}
	b.WriteString(r.notes())
	return b.String()
}

// table is a load's results. The first server is the one that the others are
// compared with; one without results is named, and so is the reason.
func (r report) table(l load) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", l.title)
	b.WriteString("| server | CPU µs/request | min..max | drover's ratio to it | min..max | requests/s | p50 ms | p99 ms | RSS MiB | foreign CPU at most | rounds |\n")
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	crowds := ""
	for _, s := range r.Servers {
		runs := r.of(l.name, s.Name)
		if len(runs) == 0 {
			for _, f := range r.Failures {
				if f.Load == l.name && f.Server == s.Name {
					fmt.Fprintf(&b, "| %s | failed | | | | | | | | | 0 |\n", s.Name)
				}
			}
			continue
		}
		cpu, foreign := each(runs, cpuOf), each(runs, func(r result) float64 { return r.Foreign })
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %.0f | %s | %s | %.1f | %.0f %% | %d |\n", s.Name,
			digits(median(cpu)), span(cpu), ratio(r.ratios(l.name, s.Name)),
			median(each(runs, func(r result) float64 { return r.PerSecond })),
			digits(median(each(runs, func(r result) float64 { return r.P50 }))),
			digits(median(each(runs, func(r result) float64 { return r.P99 }))),
			median(each(runs, func(r result) float64 { return r.RSS })),
			slices.Max(foreign)*100, len(runs))
		if l.idle > 0 {
			crowds += fmt.Sprintf("| %s | %.0f | %.2f %% |\n", s.Name,
				median(each(runs, func(r result) float64 { return r.Idle.Bytes })),
				median(each(runs, func(r result) float64 { return r.Idle.CPU }))*100)
		}
	}
	if crowds != "" {
		fmt.Fprintf(&b, "\nThe %d idle connections by themselves, outside the kernel:\n\n| server | bytes each | of one CPU |\n|---|--:|--:|\n%s", l.idle, crowds)
	}
	return b.String()
}

// promises are the bounds of what was measured.
func (r report) promises() string {
	var b strings.Builder
	for _, bound := range bounds {
		name := r.name(bound.server)
		ratios := r.ratios(bound.load, name)
		l, err := pick(bound.load)
		switch {
		case err != nil:
			panic(err) // the tables of loads and bounds differ
		case len(r.of(bound.load, r.Servers[0].Name)) == 0 || name == "":
		case len(ratios) == 0:
			fmt.Fprintf(&b, "| %s | %s | not measured | | %s | %s | |\n", l[0].title, name, limit(bound.must), limit(bound.aim))
		default:
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", l[0].title, name, ratio(ratios), limit(bound.must), limit(bound.aim), bound.verdict(median(ratios)))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "| load | drover beside | ratio of CPU time per request | min..max | must | aim | |\n|---|---|--:|--:|--:|--:|---|\n" + b.String()
}

func limit(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("≤ %.2f", v)
}

// summary is the README's part: the chart, CPU time per request of every server
// and load, and the promises.
func (r report) summary() string {
	var b strings.Builder
	b.WriteString("![CPU time per request of each server and load](bench/results/chart.svg)\n\n")
	b.WriteString("CPU µs per request, medians; [all figures](bench/results/results.md), [every run](bench/results/runs.json).\n\n| server |")
	rule := "|---|"
	ran := r.ran()
	for _, l := range ran {
		b.WriteString(" " + l.name + " |")
		rule += "--:|"
	}
	b.WriteString("\n" + rule + "\n")
	for _, s := range r.Servers {
		row := ""
		for _, l := range ran {
			cell := ""
			if runs := r.of(l.name, s.Name); len(runs) > 0 {
				cell = digits(median(each(runs, cpuOf)))
			}
			row += " " + cell + " |"
		}
		if strings.Trim(row, " |") != "" {
			b.WriteString("| " + s.Name + " |" + row + "\n")
		}
	}
	if text := r.promises(); text != "" {
		b.WriteString("\nWhat is promised, as ratios within a round:\n\n" + text)
	}
	b.WriteString("\n" + r.notes())
	return b.String()
}

// notes say how, on what, and beside whom it was not measured.
func (r report) notes() string {
	var b strings.Builder
	if len(r.Runs) > 0 {
		rounds := 0
		for _, run := range r.Runs {
			rounds = max(rounds, run.Round)
		}
		fmt.Fprintf(&b, "Medians of %d rounds of %.0f s each, in alternated order, every server freshly started; CPU is user and system time of all its processes; "+
			"a ratio is the median of the rounds' own; RSS counts what processes share once for each. wrk runs on the same machine.\n\n", rounds, r.Seconds)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Machine.Missing)) {
		fmt.Fprintf(&b, "Not compared with %s: %s.\n\n", name, oneLine(r.Machine.Missing[name]))
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "%s failed under %s: %s.\n\n", f.Server, f.Load, oneLine(f.Reason))
	}
	fmt.Fprintf(&b, "`%s`: %s\n", strings.TrimSpace("scripts/bench "+strings.Join(r.Arguments, " ")), r.Machine)
	return b.String()
}

// oneLine is the first line of a reason.
func oneLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.TrimRight(line, ".:")
}

// digits writes a figure with three or so of them.
func digits(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func span(values []float64) string {
	return digits(slices.Min(values)) + ".." + digits(slices.Max(values))
}

// ratio is two cells: the median and the range.
func ratio(values []float64) string {
	if len(values) == 0 {
		return "– | "
	}
	return fmt.Sprintf("%.2f | %.2f..%.2f", median(values), slices.Min(values), slices.Max(values))
}
