package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const every = "keepalive-c64 keepalive-c512 pipelined-16 close-c64 json-c64 file-64k file-1m tls-c64 tls-full tls-resume idle-10k redis-c64"
	allKeys := strings.Join(keys, " ")
	few := strings.Join(compared, " ")
	for _, tt := range []struct{ args, want string }{
		{"", "5 rounds of 2s after 1s: " + every + "; " + allKeys + "; strace"},
		{"--rounds 2 --seconds 7", "2 rounds of 7s after 1s: " + every + "; " + allKeys + "; strace"},
		{"--quick", "2 rounds of 2s after 1s: keepalive-c64 pipelined-16 close-c64; " + few},
		{"--quick --rounds 4", "4 rounds of 2s after 1s: keepalive-c64 pipelined-16 close-c64; " + few},
		{"--smoke", "1 rounds of 1s after 0s: keepalive-c64; " + few},
		{"--strace", "0 rounds of 2s after 1s: keepalive-c64 close-c64 redis-c64; " + strings.Join(usual, " ") + "; strace"},
		{"--smoke --load close-c64,tls-c64 --load file-1m", "1 rounds of 1s after 0s: close-c64 file-1m tls-c64; " + few},
		{"--smoke --peer c,gnet", "1 rounds of 1s after 0s: keepalive-c64; drover c gnet"},
		{"--from /tmp --out o --smoke --peer c", "1 rounds of 1s after 0s: keepalive-c64; drover c, to /tmp/o"},
		{"--from /tmp --out /var/o --smoke --peer c", "1 rounds of 1s after 0s: keepalive-c64; drover c, to /var/o"},
		{"--smoke --readme --peer c", "1 rounds of 1s after 0s: keepalive-c64; drover c, to results, to ../README.md"},
		{"--quick --smoke", "error: --quick and --smoke exclude each other"},
		{"--rounds -1", "error: --rounds and --seconds must be at least 1"},
		{"--load c9", `error: load "c9": want one of ` + loadNames()},
		{"--peer apache", `error: peer "apache": want one of ` + strings.Join(keys[1:], ", ")},
		{"fast", `error: unexpected argument "fast"`},
	} {
		p, err := parse(strings.Fields(tt.args))
		got := fmt.Sprintf("%d rounds of %v after %v:", p.rounds, p.duration, p.warm)
		for _, l := range p.loads {
			got += " " + l.name
		}
		got += "; " + strings.Join(p.keys, " ")
		if p.trace {
			got += "; strace"
		}
		for _, path := range []string{p.out, p.readme} {
			if path != "" {
				got += ", to " + path
			}
		}
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.args, got, tt.want)
		}
	}
}

// Every bound is of a load and a server that there are, and that fit each other.
func TestBoundsAreMeasured(t *testing.T) {
	s := &site{dir: t.TempDir(), built: true, workers: 1}
	for _, b := range bounds {
		picked, err := pick(b.load)
		if err != nil {
			t.Error(err)
			continue
		}
		var of server
		switch b.server { // those that make would build are known by their kinds
		case "prefork":
			of = s.goPeer(t.Context(), "", "prefork", 1, all)
		case "c":
			of.kinds = most
		case "drover-unguarded":
			of.kinds = withGuard
		default:
			of = s.make(t.Context(), b.server)
		}
		if !of.serves(picked[0]) {
			t.Errorf("%s is bounded by %s, which does not serve it", b.load, b.server)
		}
		if b.must <= 0 || b.aim > b.must {
			t.Errorf("%+v: want an aim below what must be", b)
		}
	}
}
