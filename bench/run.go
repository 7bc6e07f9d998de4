package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// result is what one run measured. Times of processes are user and system time.
type result struct {
	Load          string  `json:"load"`
	Server        string  `json:"server"`
	Round         int     `json:"round"` // from 1
	Requests      int64   `json:"requests"`
	CPUSeconds    float64 `json:"cpu_seconds"`    // of all its processes, the master's too
	CPUPerRequest float64 `json:"cpu_us_per_req"` // microseconds
	PerSecond     float64 `json:"requests_per_s"` // as wrk counts
	P50           float64 `json:"p50_ms"`         // as wrk says
	P99           float64 `json:"p99_ms"`
	RSS           float64 `json:"rss_mib"`         // of all its processes, at the end of the load
	Processes     int     `json:"processes"`       // master and workers
	Sockets       int     `json:"listen_sockets"`  // before and after the load
	Foreign       float64 `json:"foreign_cpu"`     // share of all CPUs that others used, from 0 to 1
	Repeats       int     `json:"repeats"`         // runs thrown away before, for foreign CPU
	LoadSeconds   float64 `json:"loaded_for_s"`    // as asked of wrk
	WarmSeconds   float64 `json:"warmed_up_for_s"` // before it
	Idle          *quiet  `json:"idle,omitempty"`  // of loads with idle connections
}

// quiet is what idle connections cost.
type quiet struct {
	Connections int     `json:"connections"`
	Bytes       float64 `json:"rss_bytes_each"`
	CPU         float64 `json:"cpu_share"` // of one CPU, while nothing is asked
}

// failure is a server that could not be measured under a load.
type failure struct {
	Load   string `json:"load"`
	Server string `json:"server"`
	Reason string `json:"reason"`
}

const (
	quietEnough = 0.06 // the share of foreign CPU above which a run is repeated
	mostRepeats = 2
)

// trial is a series of rounds.
type trial struct {
	plan
	site    *site
	servers []server
	want    map[string]*answer // of each load: what the first server answered

	results  []result
	failures []failure
}

// rounds measures every server under every load, in another order each round.
// It begins no load later than plan.within after its own beginning: the loads
// that come late then have a round less. A server that fails under a load is
// left out of it from then on; only when drover fails does that end the trial.
func (t *trial) rounds(ctx context.Context) error {
	t.want = map[string]*answer{}
	for _, l := range t.loads {
		t.want[l.name] = new(answer)
	}
	begun := time.Now()
	for round := range t.plan.rounds {
		for _, l := range t.loads {
			if round > 0 && time.Since(begun) > t.within {
				fmt.Fprintf(os.Stderr, "round %d/%d  %s is left out: %v are over\n", round+1, t.plan.rounds, l.name, t.within)
				continue
			}
			able := slices.DeleteFunc(slices.Clone(t.servers), func(s server) bool {
				return s.missing != nil || !s.serves(l) || t.failed(s, l)
			})
			for i := range able {
				s := able[(round+i)%len(able)]
				res, err := t.steady(ctx, l, s)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err != nil {
					err = fmt.Errorf("%s, %s, round %d: %w", s.name, l.name, round+1, err)
					if s.key == "drover" {
						return err
					}
					fmt.Fprintln(os.Stderr, "bench:", err)
					t.failures = append(t.failures, failure{l.name, s.name, err.Error()})
					continue
				}
				res.Round = round + 1
				t.results = append(t.results, res)
				fmt.Fprintf(os.Stderr, "round %d/%d  %-14s  %-22s  %7.2f µs/request  %7.0f requests/s  p99 %7.2f ms  %6.1f MiB  foreign %2.0f %%\n",
					res.Round, t.plan.rounds, l.name, s.name, res.CPUPerRequest, res.PerSecond, res.P99, res.RSS, res.Foreign*100)
			}
		}
	}
	return nil
}

func (t *trial) failed(s server, l load) bool {
	return slices.ContainsFunc(t.failures, func(f failure) bool { return f.Server == s.name && f.Load == l.name })
}

// steady measures once, and again while others use the machine: the run that
// they disturbed least counts.
func (t *trial) steady(ctx context.Context, l load, s server) (result, error) {
	best, err := t.once(ctx, l, s)
	for n := 1; err == nil && best.Foreign > quietEnough && n <= t.repeats; n++ {
		var again result
		if again, err = t.once(ctx, l, s); err == nil && again.Foreign < best.Foreign {
			best = again
		}
		best.Repeats = n
	}
	return best, err
}

// once starts a server, measures it under a load and stops it.
func (t *trial) once(ctx context.Context, l load, s server) (res result, err error) {
	var helper *running
	if l.kind == redis {
		if helper, err = t.site.startRedis(ctx); err != nil {
			return res, err
		}
		defer func() { err = errors.Join(err, helper.stop()) }()
	}
	r, err := s.start(t.site.dir, l)
	if err != nil {
		return res, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nits last lines:\n%s", err, r.said())
		}
		err = errors.Join(err, r.stop())
	}()
	if err := r.up(ctx); err != nil {
		return res, err
	}
	if err := t.agrees(ctx, r, l); err != nil {
		return res, err
	}
	if t.warm > 0 {
		if _, err := l.run(ctx, r.address(), t.site.script, t.warm); err != nil {
			return res, fmt.Errorf("warm: %w", err)
		}
	}
	var idle *quiet
	if l.idle > 0 {
		c, q, err := r.crowd(ctx, l)
		if err != nil {
			return res, err
		}
		defer c.close()
		idle = q
		defer func() { err = errors.Join(err, c.alive(r.address(), l)) }()
	}
	res, err = r.measure(ctx, l, t.site.script, t.duration, helper)
	res.WarmSeconds, res.Idle = t.warm.Seconds(), idle
	return res, err
}

// agrees checks that a server answers as the first of its load did.
func (t *trial) agrees(ctx context.Context, r *running, l load) error {
	got, err := ask(ctx, r.address(), l)
	if err != nil {
		return err
	}
	want := t.want[l.name]
	if want.Status == "" {
		*want = got
	}
	if !got.equal(*want) {
		return fmt.Errorf("it answers\n%+v, where another server answers\n%+v", got, *want)
	}
	return nil
}

// crowd opens the idle connections of a load, and measures what they cost while
// nobody asks. The caller closes them.
func (r *running) crowd(ctx context.Context, l load) (*crowd, *quiet, error) {
	before, err := tree(r.cmd.Process.Pid)
	if err != nil {
		return nil, nil, err
	}
	c, err := gather(ctx, r.address(), l)
	if err != nil {
		return nil, nil, err
	}
	at := time.Now()
	during, err := tree(r.cmd.Process.Pid)
	if err == nil {
		select {
		case <-time.After(time.Second): // the measurement itself
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	wall := time.Since(at)
	after, treeErr := tree(r.cmd.Process.Pid)
	cpu, spentErr := spent(during, after)
	if err := errors.Join(err, treeErr, spentErr); err != nil {
		c.close()
		return nil, nil, err
	}
	return c, &quiet{
		Connections: l.idle,
		Bytes:       float64(resident(after)-resident(before)) / float64(l.idle),
		CPU:         cpu.Seconds() / wall.Seconds(),
	}, nil
}

// measure loads a server that is up. Its processes and its listening sockets
// must be the same after the load as before. helper is what the server asks, if
// anything: its CPU is neither the server's nor foreign.
func (r *running) measure(ctx context.Context, l load, script string, duration time.Duration, helper *running) (result, error) {
	sample := func() (server, beside []process, err error) {
		server, err = tree(r.cmd.Process.Pid)
		if err == nil && helper != nil {
			beside, err = tree(helper.cmd.Process.Pid)
		}
		return server, beside, err
	}
	begun, busyBefore, err := now()
	if err != nil {
		return result{}, err
	}
	ownBefore := own()
	before, besideBefore, err := sample()
	if err != nil {
		return result{}, err
	}
	report, err := l.run(ctx, r.address(), script, duration)
	if err != nil {
		return result{}, err
	}
	after, besideAfter, err := sample()
	if err != nil {
		return result{}, err
	}
	ended, busyAfter, err := now()
	if err != nil {
		return result{}, err
	}
	cpu, err := spent(before, after)
	if err != nil {
		return result{}, err
	}
	ours := cpu + report.cpu + own() - ownBefore
	if helper != nil {
		beside, err := spent(besideBefore, besideAfter)
		if err != nil {
			return result{}, fmt.Errorf("what the server asks: %w", err)
		}
		ours += beside
	}
	n, err := listeningOn(r.port)
	if err != nil {
		return result{}, err
	}
	if n != r.sockets {
		return result{}, fmt.Errorf("%d sockets listen after the load, want %d", n, r.sockets)
	}
	return result{
		Load: l.name, Server: r.name, Requests: report.requests,
		CPUSeconds:    cpu.Seconds(),
		CPUPerRequest: float64(cpu) / float64(time.Microsecond) / float64(report.requests),
		PerSecond:     report.perSecond,
		P50:           float64(report.p50) / float64(time.Millisecond),
		P99:           float64(report.p99) / float64(time.Millisecond),
		RSS:           float64(resident(after)) / (1 << 20),
		Processes:     len(after), Sockets: r.sockets, LoadSeconds: duration.Seconds(),
		Foreign: foreign(busyAfter-busyBefore, ours, ended.Sub(begun), cpus()),
	}, nil
}

// now is the time, and how long the CPUs have been busy.
func now() (time.Time, time.Duration, error) {
	b, err := busy()
	return time.Now(), b, err
}
