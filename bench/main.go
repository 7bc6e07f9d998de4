// Command bench loads drover and its peers with wrk, one after another in
// alternated order, and prints what a request costs each of them. Run it as
// scripts/bench.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// plan is what is to be run.
type plan struct {
	rounds   int           // 0 measures nothing
	duration time.Duration // of a load, in whole seconds
	warm     time.Duration // of the same load before it, uncounted; 0 is none
	within   time.Duration // no further round of a load begins later
	repeats  int           // of disturbed runs, in all
	loads    []load
	keys     []string // of servers
	trace    bool     // count system calls, after the rounds
	out      string   // directory for raw results, tables and chart, absolute; empty is none
	readme   string   // file whose chart and tables are replaced; empty is none
	render   string   // raw results of an earlier run, to be shown without a new one; empty is none
}

// init holds main's goroutine on one thread, for server.start. And it asks for a
// SIGTERM when the parent ends: go run does not pass on its own.
func init() {
	runtime.LockOSThread()
	syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0)
}

func main() {
	p, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, p); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var (
	usual    = []string{"drover", "prefork", "fasthttp", "nethttp", "nginx", "nginx-deferred", "c", "node", "drover-unguarded"}
	compared = []string{"drover", "prefork", "nginx", "nginx-deferred", "c", "node"} // those of the bounds
)

// list is a flag that may be given several times, or several values with commas
// between them.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = append(*l, strings.Split(s, ",")...)
	return nil
}

// parse makes the plan of the command line.
func parse(args []string) (plan, error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var wantedLoads, wantedPeers list
	rounds := flags.Int("rounds", 0, "how often each server is started and loaded (default 5)")
	seconds := flags.Int("seconds", 0, "how long each load lasts (default 2)")
	quick := flags.Bool("quick", false, "within 3 minutes: 2 rounds of keepalive-c64, pipelined-16 and close-c64, of the servers that drover's bounds name")
	smoke := flags.Bool("smoke", false, "1 round of 1 s without warming, of keepalive-c64: only proves that it runs")
	trace := flags.Bool("strace", false, "measure no time, only count system calls per request, by strace")
	readme := flags.Bool("readme", false, "put chart and tables into README.md too; --out is bench/results then, unless given")
	flags.Var(&wantedLoads, "load", "the loads to run, of "+loadNames())
	flags.Var(&wantedPeers, "peer", "the servers to run beside drover, of "+strings.Join(keys[1:], ", "))
	out := flags.String("out", "", "directory for runs.json, results.md and chart.svg")
	render := flags.String("render", "", "a runs.json to make tables and chart of, without a new run")
	from := flags.String("from", ".", "directory that relative file names start from; scripts/bench gives its own")
	if err := flags.Parse(args); err != nil {
		return plan{}, err
	}
	if flags.NArg() > 0 {
		return plan{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	p := plan{rounds: 5, duration: 2 * time.Second, warm: time.Second, within: 24 * time.Minute, repeats: 40, loads: loads, keys: keys, trace: true}
	few, err := pick("keepalive-c64", "pipelined-16", "close-c64")
	switch {
	case err != nil:
		return plan{}, err
	case *quick && *smoke:
		return plan{}, errors.New("--quick and --smoke exclude each other")
	case *quick:
		p.rounds, p.within, p.repeats, p.loads, p.keys, p.trace = 2, 2*time.Minute, 6, few, compared, false
	case *smoke:
		p.rounds, p.duration, p.warm, p.repeats, p.loads, p.keys, p.trace = 1, time.Second, 0, 0, few[:1], compared, false
	}
	if *rounds < 0 || *seconds < 0 {
		return plan{}, errors.New("--rounds and --seconds must be at least 1")
	}
	p.rounds = cmp.Or(*rounds, p.rounds)
	p.duration = cmp.Or(time.Duration(*seconds)*time.Second, p.duration)
	if *trace {
		p.rounds, p.trace, p.keys = 0, true, usual
		if p.loads, err = pick("keepalive-c64", "close-c64", "redis-c64"); err != nil {
			return plan{}, err
		}
	}
	if wantedLoads != nil {
		if p.loads, err = pick(wantedLoads...); err != nil {
			return plan{}, err
		}
	}
	if wantedPeers != nil {
		for _, key := range wantedPeers {
			if !slices.Contains(keys, key) {
				return plan{}, fmt.Errorf("peer %q: want one of %s", key, strings.Join(keys[1:], ", "))
			}
		}
		p.keys = append([]string{"drover"}, wantedPeers...)
	}
	absolute := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(*from, path)
	}
	p.out, p.render = absolute(*out), absolute(*render)
	if *readme {
		p.readme, p.out = filepath.Join("..", "README.md"), cmp.Or(p.out, "results")
	}
	return p, nil
}

// bench runs a plan in the working directory, which must be this module's.
func bench(ctx context.Context, p plan) error {
	if p.render != "" {
		r, err := readReport(p.render)
		if err != nil {
			return err
		}
		return p.show(r)
	}
	if p.readme != "" { // told now, and not after half an hour
		text, err := os.ReadFile(p.readme)
		if err == nil {
			_, err = between(string(text), "")
		}
		if err != nil {
			return fmt.Errorf("--readme: %s: %w", p.readme, err)
		}
	}
	if _, err := exec.LookPath("wrk"); err != nil {
		return fmt.Errorf("%w (scripts/bench installs it on Debian)", err)
	}
	dir, err := os.MkdirTemp("", "drover-bench-")
	if err != nil {
		return fmt.Errorf("make a temporary directory: %w", err)
	}
	defer os.RemoveAll(dir)
	s, err := newSite(dir, runtime.GOMAXPROCS(0))
	if err != nil {
		return err
	}
	servers, err := s.peers(ctx, p.keys)
	if err != nil {
		return err
	}
	for _, s := range servers {
		if s.missing != nil {
			fmt.Fprintf(os.Stderr, "bench: not compared with %s, which cannot be had: %v\n", s.name, s.missing)
		}
	}
	t := &trial{plan: p, site: s, servers: servers}
	r := report{Machine: thisMachine(servers), Arguments: typed(os.Args[1:]), Seconds: p.duration.Seconds()}
	for _, s := range servers {
		r.Servers = append(r.Servers, entry{s.key, s.name})
	}
	failed := t.rounds(ctx)
	if failed == nil && p.trace {
		r.Calls, failed = t.traces(ctx)
	}
	r.Runs, r.Failures = t.results, t.failures
	if len(r.Runs) == 0 && len(r.Calls) == 0 {
		return cmp.Or(failed, errors.New("nothing was measured"))
	}
	// What was measured before a failure is shown all the same, though it
	// replaces nothing.
	if failed != nil {
		p.readme = ""
	}
	if err := p.show(r); err != nil {
		return errors.Join(failed, err)
	}
	if failed == nil && len(r.Failures) > 0 {
		failed = fmt.Errorf("%d servers failed under a load: see above", len(r.Failures))
	}
	return failed
}

// show prints a report, and writes its files.
func (p plan) show(r report) error {
	fmt.Print(r.markdown())
	if p.out != "" {
		if err := r.write(p.out); err != nil {
			return err
		}
	}
	if p.readme == "" {
		return nil
	}
	return updateReadme(p.readme, r.summary())
}

// typed are the arguments without the one that scripts/bench puts in front.
func typed(args []string) []string {
	if len(args) >= 2 && args[0] == "--from" {
		return args[2:]
	}
	return args
}
