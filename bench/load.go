package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind is what a load needs of a server.
type kind string

const (
	keepalive kind = "keepalive"
	crowded   kind = "crowded" // keep-alive, on many connections
	pipelined kind = "pipelined"
	closing   kind = "closing" // a connection for each request
	jsonKind  kind = "json"
	file      kind = "file"
	encrypted kind = "tls"
	shaking   kind = "handshake" // a connection over TLS for each request
	resuming  kind = "resume"    // the same, its session resumed
	idling    kind = "idling"
	redis     kind = "redis"
)

// load is one way to ask a server.
type load struct {
	name        string
	title       string
	kind        kind
	path        string
	connections int
	pipeline    int // requests sent at once on each connection; 0 is 1
	idle        int // connections besides, that have asked once and are quiet
}

var loads = []load{
	{name: "keepalive-c64", title: "Keep-alive, 64 connections", kind: keepalive, path: "/plaintext", connections: 64},
	{name: "keepalive-c512", title: "Keep-alive, 512 connections", kind: crowded, path: "/plaintext", connections: 512},
	{name: "pipelined-16", title: "Pipelined, 16 requests at a time on 64 connections", kind: pipelined, path: "/plaintext", connections: 64, pipeline: 16},
	{name: "close-c64", title: "A connection per request, 64 at a time", kind: closing, path: "/plaintext", connections: 64},
	{name: "json-c64", title: "JSON, encoded for each request, 64 connections", kind: jsonKind, path: "/json", connections: 64},
	{name: "file-64k", title: "A file of 64 KiB, 64 connections", kind: file, path: "/64k.bin", connections: 64},
	{name: "file-1m", title: "A file of 1 MiB, 16 connections", kind: file, path: "/1m.bin", connections: 16},
	{name: "tls-c64", title: "Keep-alive over TLS 1.3, 64 connections", kind: encrypted, path: "/plaintext", connections: 64},
	{name: "tls-full", title: "A full handshake per request, X25519, 16 at a time", kind: shaking, path: "/plaintext", connections: 16},
	{name: "tls-resume", title: "A resumed handshake per request, 16 at a time", kind: resuming, path: "/plaintext", connections: 16},
	{name: "idle-10k", title: "Keep-alive, 64 connections, beside 10,000 idle ones", kind: idling, path: "/plaintext", connections: 64, idle: 10_000},
	{name: "redis-c64", title: "A handler with one round trip to Redis, 64 connections", kind: redis, path: "/redis", connections: 64},
}

// pick are the loads of those names, in the order of loads, and an error that
// names the one that there is not.
func pick(names ...string) ([]load, error) {
	var picked []load
	for _, l := range loads {
		for _, name := range names {
			if l.name == name {
				picked = append(picked, l)
			}
		}
	}
	for _, name := range names {
		if !strings.Contains(" "+loadNames()+",", " "+name+",") {
			return nil, fmt.Errorf("load %q: want one of %s", name, loadNames())
		}
	}
	return picked, nil
}

func loadNames() string {
	names := make([]string, len(loads))
	for i, l := range loads {
		names[i] = l.name
	}
	return strings.Join(names, ", ")
}

// wrkThreads is wrk's -t.
const wrkThreads = 2

// pipelineScript makes wrk send all requests of a batch at once. It counts each
// answer.
const pipelineScript = `local batch
init = function(args)
  local all = {}
  for i = 1, tonumber(args[1]) do all[i] = wrk.format() end
  batch = table.concat(all)
end
request = function() return batch end
`

// run loads a server with wrk for a time of whole seconds, or with a client of ours
// where wrk cannot. script is the file of pipelineScript.
func (l load) run(ctx context.Context, address, script string, duration time.Duration) (wrkReport, error) {
	if l.kind == shaking || l.kind == resuming {
		return l.handshakes(ctx, address, duration)
	}
	ctx, cancel := context.WithTimeout(ctx, duration+10*time.Second)
	defer cancel()
	args := []string{
		"-t" + strconv.Itoa(wrkThreads), "-c" + strconv.Itoa(l.connections),
		"-d" + strconv.Itoa(int(duration/time.Second)), "--latency",
	}
	if l.kind == closing {
		args = append(args, "-H", "Connection: close")
	}
	if l.pipeline > 1 {
		args = append(args, "-s", script)
	}
	args = append(args, l.scheme()+"://"+address+l.path)
	if l.pipeline > 1 {
		args = append(args, "--", strconv.Itoa(l.pipeline))
	}
	cmd := exec.CommandContext(ctx, "wrk", args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return wrkReport{}, fmt.Errorf("wrk was ended: %w", context.Cause(ctx))
	}
	if err != nil {
		return wrkReport{}, fmt.Errorf("wrk: %w: %s", err, strings.TrimSpace(string(out)))
	}
	r, err := parseWrk(string(out))
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return r, err
}

// encrypted reports whether it is over TLS.
func (l load) encrypted() bool { return slices.Contains([]kind{encrypted, shaking, resuming}, l.kind) }

func (l load) scheme() string {
	if l.encrypted() {
		return "https"
	}
	return "http"
}

// wrkReport is what wrk says of a load in which nothing failed.
type wrkReport struct {
	requests  int64
	perSecond float64
	p50, p99  time.Duration
	cpu       time.Duration // user and system time of wrk itself
}

var (
	wrkRequests  = regexp.MustCompile(`(?m)^ +(\d+) requests in `)
	wrkPerSecond = regexp.MustCompile(`(?m)^Requests/sec: +([\d.]+)$`)
	wrkP50       = regexp.MustCompile(`(?m)^ +50% +([\d.]+[a-z]+) *$`) // wrk fills "s" up with a space
	wrkP99       = regexp.MustCompile(`(?m)^ +99% +([\d.]+[a-z]+) *$`)
	wrkFailures  = regexp.MustCompile(`(?m)^ +(Socket errors: .*|Non-2xx or 3xx responses: .*)$`)
)

// parseWrk reads what wrk --latency prints. Anything that failed is an error.
func parseWrk(out string) (wrkReport, error) {
	if m := wrkFailures.FindStringSubmatch(out); m != nil {
		return wrkReport{}, fmt.Errorf("wrk saw failures: %s", m[1])
	}
	var r wrkReport
	var errs [4]error
	r.requests, errs[0] = figure(out, wrkRequests, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) })
	r.perSecond, errs[1] = figure(out, wrkPerSecond, func(s string) (float64, error) { return strconv.ParseFloat(s, 64) })
	r.p50, errs[2] = figure(out, wrkP50, time.ParseDuration) // wrk's us, ms, s, m and h are Go's
	r.p99, errs[3] = figure(out, wrkP99, time.ParseDuration)
	if err := errors.Join(errs[:]...); err != nil {
		return wrkReport{}, fmt.Errorf("read what wrk printed: %w\n%s", err, out)
	}
	if r.requests == 0 {
		return wrkReport{}, errors.New("wrk counted no request")
	}
	return r, nil
}

func figure[T any](out string, re *regexp.Regexp, parse func(string) (T, error)) (T, error) {
	m := re.FindStringSubmatch(out)
	if m == nil {
		var none T
		return none, fmt.Errorf("nothing matches %s", re)
	}
	return parse(m[1])
}
