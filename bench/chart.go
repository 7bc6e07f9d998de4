package main

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
)

// Measures of the chart, in its own units. Panels stand in two columns, a load
// each, with a bar for each server.
const (
	panelWidth = 470
	barHeight  = 14
	barPitch   = 20
	nameWidth  = 150
	valueWidth = 90
	headHeight = 34
	clipped    = 4.0 // a bar is cut at this many times drover's
)

// chart is an SVG of CPU time per request: medians as bars, the range of the
// rounds as a line on it.
func (r report) chart() string {
	var panels strings.Builder
	y, rowHeight := 40, 0
	ran := r.ran()
	for i, l := range ran {
		text, height := r.panel(l, (i%2)*(panelWidth+20)+10, y)
		panels.WriteString(text)
		rowHeight = max(rowHeight, height)
		if i%2 == 1 || i == len(ran)-1 {
			y, rowHeight = y+rowHeight+14, 0
		}
	}
	width := 2*panelWidth + 40
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="system-ui, sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="#ffffff"/>
<text x="10" y="24" font-size="16" font-weight="600" fill="#1b1f24">CPU µs per request: less is better</text>
%s</svg>
`, width, y, width, y, panels.String())
}

// panel is a load's part, and its height. The servers stand in order of what
// they take.
func (r report) panel(l load, x, y int) (string, int) {
	type bar struct {
		name              string
		median, low, high float64
	}
	var bars []bar
	for _, s := range r.Servers {
		if cpu := each(r.of(l.name, s.Name), cpuOf); len(cpu) > 0 {
			bars = append(bars, bar{s.Name, median(cpu), slices.Min(cpu), slices.Max(cpu)})
		}
	}
	slices.SortStableFunc(bars, func(a, b bar) int {
		switch {
		case a.median < b.median:
			return -1
		case a.median > b.median:
			return 1
		}
		return 0
	})
	longest, ours := 0.0, r.Servers[0].Name
	for _, b := range bars {
		longest = max(longest, b.high)
	}
	if own := r.of(l.name, ours); len(own) > 0 {
		longest = min(longest, clipped*median(each(own, cpuOf)))
	}
	scale := func(v float64) float64 {
		return min(v/longest, 1) * (panelWidth - nameWidth - valueWidth)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<text x="%d" y="%d" font-weight="600" fill="#1b1f24">%s</text>`+"\n", x, y+16, escaped(l.title))
	for i, bar := range bars {
		top := y + headHeight + i*barPitch
		left, middle := float64(x+nameWidth), float64(top)+barHeight/2.0
		fill, weight := "#b3bcc7", "400"
		if bar.name == ours {
			fill, weight = "#12805c", "600"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" font-weight="%s" fill="#1b1f24">%s</text>`+"\n", x+nameWidth-6, top+11, weight, escaped(bar.name))
		fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left, top, scale(bar.median), barHeight, fill)
		end := left + scale(bar.high)
		text := digits(bar.median)
		if bar.median > longest {
			text = "→ " + text
		} else {
			fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#1b1f24"/>`+"\n", left+scale(bar.low), end, middle, middle)
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" font-weight="%s" fill="#1b1f24">%s</text>`+"\n", end+5, top+11, weight, text)
	}
	return b.String(), headHeight + len(bars)*barPitch
}

func escaped(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		panic(err) // a strings.Builder takes everything
	}
	return b.String()
}
