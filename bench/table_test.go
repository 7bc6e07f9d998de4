package main

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{4}, 4},
		{[]float64{9, 1}, 5},
		{[]float64{9, 1, 2}, 2},
		{[]float64{8, 1, 2, 4}, 3},
	} {
		if got := median(tt.values); got != tt.want {
			t.Errorf("median(%v) = %v, want %v", tt.values, got, tt.want)
		}
	}
}

// sample has two rounds of one load on drover and nginx, one of them on the C
// loop, which then failed, and Bun, which is not there.
func sample() report {
	return report{
		Seconds: 2,
		Servers: []entry{{"drover", "drover"}, {"nginx", "nginx"}, {"c", "C epoll loop"}, {"bun", "Bun"}},
		Runs: []result{
			{Load: "close-c64", Server: "drover", Round: 1, CPUPerRequest: 10, PerSecond: 100, P50: 1, P99: 2, RSS: 20, Foreign: 0.01},
			{Load: "close-c64", Server: "nginx", Round: 1, CPUPerRequest: 20, PerSecond: 150, P50: 2, P99: 3, RSS: 10, Foreign: 0.02},
			{Load: "close-c64", Server: "nginx", Round: 2, CPUPerRequest: 50, PerSecond: 150, P50: 2, P99: 3, RSS: 10, Foreign: 0.05},
			{Load: "close-c64", Server: "drover", Round: 2, CPUPerRequest: 30, PerSecond: 300, P50: 1, P99: 4, RSS: 20},
			{Load: "close-c64", Server: "C epoll loop", Round: 1, CPUPerRequest: 5, PerSecond: 150, P50: 0.25, P99: 3, RSS: 1},
			{Load: "idle-10k", Server: "drover", Round: 1, CPUPerRequest: 10, Idle: &quiet{10000, 4096, 0.002}},
		},
		Failures: []failure{{"idle-10k", "C epoll loop", "it fell\nits last lines: oh"}},
		Calls: []calls{{Load: "close-c64", Server: "drover", Requests: 100,
			Count: map[string]int64{"read": 110, "write": 100, "futex": 5, "brk": 1}, Errors: map[string]int64{"read": 10}}},
		Machine: machine{CPU: "a CPU", Missing: map[string]string{"Bun": "bun: not found (npm install --global bun)"}},
	}
}

func TestMarkdown(t *testing.T) {
	got := sample().markdown()
	for _, want := range []string{
		"### A connection per request, 64 at a time\n",
		"| drover | 20.0 | 10.0..30.0 | 1.00 | 1.00..1.00 | 200 | 1.00 | 3.00 | 20.0 | 1 % | 2 |\n",
		"| nginx | 35.0 | 20.0..50.0 | 0.55 | 0.50..0.60 | 150 | 2.00 | 3.00 | 10.0 | 5 % | 2 |\n", // of the rounds, not of the medians
		"| C epoll loop | 5.00 | 5.00..5.00 | 2.00 | 2.00..2.00 | 150 | 0.25 | 3.00 | 1.0 | 0 % | 1 |\n",
		"| C epoll loop | failed |",
		"The 10000 idle connections by themselves, outside the kernel:\n\n| server | bytes each | of one CPU |\n|---|--:|--:|\n| drover | 4096 | 0.20 % |\n",
		"| A connection per request, 64 at a time | nginx | 0.55 | 0.50..0.60 | ≤ 0.90 | ≤ 0.80 | met |\n",
		"| A connection per request, 64 at a time | C epoll loop | 2.00 | 2.00..2.00 | ≤ 1.30 | ≤ 1.10 | **missed** |\n",
		"| close-c64 | drover | 2.160 | 1.100 | 0.100 | 1.000 | 0.000 | 0.000 | 0.050 | 0.000 | 0.010 |\n",
		"Not compared with Bun: bun: not found (npm install --global bun).\n",
		"C epoll loop failed under idle-10k: it fell.\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestVerdict(t *testing.T) {
	b := bound{must: 1.25, aim: 1.1}
	for ratio, want := range map[float64]string{1.1: "met", 1.2: "met, aim missed", 1.25: "met, aim missed", 1.26: "**missed**"} {
		if got := b.verdict(ratio); got != want {
			t.Errorf("%v: %s, want %s", ratio, got, want)
		}
	}
	if got := (bound{must: 0.5}).verdict(0.4); got != "met" {
		t.Errorf("without an aim: %s", got)
	}
}

func TestSummaryIsInTheReadme(t *testing.T) {
	r := sample()
	before := "# title\n" + readmeBegin + "old\n" + readmeEnd + "rest\n"
	got, err := between(before, r.summary())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# title\n" + readmeBegin + "![", "| server | close-c64 | idle-10k |\n|---|--:|--:|\n",
		"| drover | 20.0 | 10.0 |\n", "| C epoll loop | 5.00 |  |\n", "Not compared with Bun", readmeEnd + "rest\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "old") {
		t.Errorf("the old text stayed:\n%s", got)
	}
	if again, err := between(got, r.summary()); err != nil || again != got {
		t.Errorf("a second time it differs: %v", err)
	}
	for _, bad := range []string{"", readmeBegin, readmeEnd + readmeBegin} {
		if _, err := between(bad, "x"); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

// The chart is well-formed, has a bar for each server that was measured, none
// beyond its panel, and says when one was cut.
func TestChart(t *testing.T) {
	r := sample()
	r.Servers[1].Name = "ng<in>x"
	r.Runs[1].Server, r.Runs[1].CPUPerRequest = "ng<in>x", 900
	text := r.chart()
	bars := 0
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if want := 1 + 4; bars != want { // the background, and one for each server and load
		t.Errorf("%d rectangles, want %d", bars, want)
	}
	for _, want := range []string{"→ 900<", "ng&lt;in&gt;x", ">20.0<", ">5.00<", "A connection per request", `width="230.0"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	if err := sample().write(dir); err != nil {
		t.Fatal(err)
	}
	back, err := readReport(dir + "/runs.json")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := back.markdown(), sample().markdown(); got != want {
		t.Errorf("read back it is\n%s\nwant\n%s", got, want)
	}
	if _, err := readReport(dir + "/chart.svg"); err == nil {
		t.Error("an SVG was read as results")
	}
}
