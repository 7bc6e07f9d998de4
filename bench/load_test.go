package main

import (
	"strings"
	"testing"
	"time"
)

const wrkOutput = `Running 1s test @ http://127.0.0.1:34567/plaintext
  2 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   180.44us  320.52us   8.11ms   94.40%
    Req/Sec    28.94k     5.22k   44.58k    76.19%
  Latency Distribution
     50%  114.00us
     75%  171.00us
     90%  279.00us
     99%    1.67ms
  60453 requests in 1.10s, 8.42MB read
Requests/sec:  54979.76
Transfer/sec:      7.66MB
`

func TestParseWrk(t *testing.T) {
	with := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(wrkOutput) }
	report := func(p99 time.Duration) wrkReport {
		return wrkReport{requests: 60453, perSecond: 54979.76, p50: 114 * time.Microsecond, p99: p99}
	}
	for _, tt := range []struct {
		name, out string
		want      wrkReport
		err       string // part of it
	}{
		{name: "ms", out: wrkOutput, want: report(1670 * time.Microsecond)},
		{name: "us", out: with("  1.67ms", "890.00us"), want: report(890 * time.Microsecond)},
		{name: "s", out: with("  1.67ms", "   1.25s "), want: report(1250 * time.Millisecond)},
		{
			name: "socket errors", out: with("Requests/sec", "  Socket errors: connect 0, read 3, write 0, timeout 1\nRequests/sec"),
			err: "Socket errors: connect 0, read 3, write 0, timeout 1",
		},
		{
			name: "not found", out: with("Requests/sec", "  Non-2xx or 3xx responses: 60453\nRequests/sec"),
			err: "Non-2xx or 3xx responses: 60453",
		},
		{name: "no median", out: with("50%  114.00us", ""), err: "nothing matches"},
		{name: "no request", out: with("60453 requests", "0 requests"), err: "no request"},
		{name: "without --latency", out: with("99%    1.67ms", ""), err: "nothing matches"},
		{name: "nothing", out: "", err: "nothing matches"},
		{name: "an unknown unit", out: with("1.67ms", "1.67parsec"), err: "unknown unit"},
	} {
		got, err := parseWrk(tt.out)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %+v, %v; want %+v, %q", tt.name, got, err, tt.want, tt.err)
		}
	}
}

func TestPick(t *testing.T) {
	for _, tt := range []struct{ names, want string }{
		{"close-c64,keepalive-c64", "keepalive-c64 close-c64"},
		{"redis-c64", "redis-c64"},
		{"c64", "error"},
		{"keepalive-c64,", "error"},
	} {
		picked, err := pick(strings.Split(tt.names, ",")...)
		var names []string
		for _, l := range picked {
			names = append(names, l.name)
		}
		got := strings.Join(names, " ")
		if err != nil {
			got = "error"
		}
		if got != tt.want {
			t.Errorf("pick %s: %s, want %s", tt.names, got, tt.want)
		}
	}
}
