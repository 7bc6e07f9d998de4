package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// calls are the system calls of all of a server's processes under a load.
type calls struct {
	Load     string           `json:"load"`
	Server   string           `json:"server"`
	Requests int64            `json:"requests"`
	Count    map[string]int64 `json:"count"`  // by name
	Errors   map[string]int64 `json:"errors"` // of reads: EAGAIN, for the most part
}

// traces counts the system calls of each server under each load. It says nothing
// of time: strace stops a process at each call.
func (t *trial) traces(ctx context.Context) ([]calls, error) {
	if _, err := exec.LookPath("strace"); err != nil {
		fmt.Fprintf(os.Stderr, "bench: system calls are not counted: %v (apt-get install strace)\n", err)
		return nil, nil
	}
	var all []calls
	for _, l := range t.loads {
		if !slices.Contains([]kind{keepalive, closing, redis, pipelined}, l.kind) {
			continue
		}
		for _, s := range t.servers {
			if s.missing != nil || s.optional || !s.serves(l) || t.failed(s, l) {
				continue
			}
			c, err := t.trace(ctx, l, s)
			if ctx.Err() != nil {
				return all, context.Cause(ctx)
			}
			if err != nil {
				err = fmt.Errorf("count the system calls of %s, %s: %w", s.name, l.name, err)
				fmt.Fprintln(os.Stderr, "bench:", err)
				t.failures = append(t.failures, failure{l.name, s.name, err.Error()})
				continue
			}
			fmt.Fprintf(os.Stderr, "strace  %-14s  %-22s  %6.2f system calls per request\n", l.name, s.name, c.per(slices.Collect(maps.Keys(c.Count))...))
			all = append(all, c)
		}
	}
	return all, nil
}

// trace starts a server, attaches strace to all its processes, loads it for a
// second, and stops both.
func (t *trial) trace(ctx context.Context, l load, s server) (c calls, err error) {
	if t.want == nil {
		t.want = map[string]*answer{}
	}
	if t.want[l.name] == nil {
		t.want[l.name] = new(answer)
	}
	if l.kind == redis {
		helper, err := t.site.startRedis(ctx)
		if err != nil {
			return c, err
		}
		defer func() { err = errors.Join(err, helper.stop()) }()
	}
	r, err := s.start(t.site.dir, l)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	if err := r.up(ctx); err != nil {
		return c, err
	}
	if err := t.agrees(ctx, r, l); err != nil {
		return c, err
	}
	if _, err := l.run(ctx, r.address(), t.site.script, time.Second); err != nil {
		return c, fmt.Errorf("warm: %w", err)
	}
	ps, err := tree(r.cmd.Process.Pid)
	if err != nil {
		return c, err
	}
	a, err := attach(ctx, t.site.dir, pids(ps))
	if err != nil {
		return c, err
	}
	report, err := l.run(ctx, r.address(), t.site.script, time.Second)
	summary, detachErr := a.detach()
	if err := errors.Join(err, detachErr); err != nil {
		return c, err
	}
	c = calls{Load: l.name, Server: s.name, Requests: report.requests}
	c.Count, c.Errors, err = parseStrace(summary)
	return c, err
}

// attached is an strace that counts.
type attached struct {
	cmd     *exec.Cmd
	summary string // the file that it writes at its end
}

// attach returns when strace follows all of the processes.
func attach(ctx context.Context, dir string, pids []int) (*attached, error) {
	summary, said := filepath.Join(dir, "strace"), filepath.Join(dir, "strace-said")
	args := []string{"-f", "-c", "-o", summary}
	for _, pid := range pids {
		args = append(args, "-p", strconv.Itoa(pid))
	}
	output, err := os.Create(said)
	if err != nil {
		return nil, fmt.Errorf("make a file for what strace prints: %w", err)
	}
	defer output.Close()
	a := &attached{exec.Command("strace", args...), summary}
	a.cmd.Stdout, a.cmd.Stderr = output, output
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start strace: %w", err)
	}
	text := []byte(nil)
	err = until(ctx, 5*time.Second, func() (bool, error) {
		var err error
		text, err = os.ReadFile(said)
		return strings.Count(string(text), " attached") >= len(pids), err
	})
	if err != nil {
		_, detachErr := a.detach()
		return nil, errors.Join(fmt.Errorf("attach strace to %v: %w: it says %q", pids, err, text), detachErr)
	}
	return a, nil
}

// detach ends strace, which lets its processes go on, and returns what it
// counted.
func (a *attached) detach() (string, error) {
	if err := a.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return "", fmt.Errorf("end strace: %w", err)
	}
	_ = a.cmd.Wait() // by its signal
	data, err := os.ReadFile(a.summary)
	if err != nil {
		return "", fmt.Errorf("read what strace counted: %w", err)
	}
	return string(data), nil
}

// parseStrace reads the table of strace -c: % time, seconds, usecs/call, calls,
// errors, which may be empty, and the name.
func parseStrace(text string) (count, failed map[string]int64, err error) {
	count, failed = map[string]int64{}, map[string]int64{}
	_, rows, ok := strings.Cut(text, "\n------")
	if !ok {
		return nil, nil, fmt.Errorf("strace printed no table: %q", text)
	}
	for _, line := range strings.Split(rows, "\n")[1:] {
		fields := strings.Fields(line)
		if len(fields) < 5 || strings.HasPrefix(line, "---") || fields[len(fields)-1] == "total" {
			continue
		}
		name := fields[len(fields)-1]
		if count[name], err = strconv.ParseInt(fields[3], 10, 64); err == nil && len(fields) == 6 {
			failed[name], err = strconv.ParseInt(fields[4], 10, 64)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("line %q of strace's table: %w", line, err)
		}
	}
	if len(count) == 0 {
		return nil, nil, fmt.Errorf("strace counted nothing: %q", text)
	}
	return count, failed, nil
}

// per is how often calls of those names were made per request.
func (c calls) per(names ...string) float64 {
	var n int64
	for _, name := range names {
		n += c.Count[name]
	}
	return float64(n) / float64(c.Requests)
}

var (
	reads  = []string{"read", "readv", "recvfrom", "recvmsg"}
	writes = []string{"write", "writev", "sendto", "sendmsg", "sendfile"}
	waits  = []string{"epoll_wait", "epoll_pwait", "epoll_pwait2"}
	sleeps = []string{"nanosleep", "clock_nanosleep"}
	opens  = []string{"accept", "accept4", "close", "shutdown", "setsockopt", "getsockopt", "getsockname", "getpeername", "epoll_ctl", "fcntl", "ioctl"}
)

// callsTable shows what servers ask of the kernel for a request.
func callsTable(all []calls) string {
	var b strings.Builder
	b.WriteString("| load | server | all | reads | reads without data | writes | epoll_wait | accept, close, options, epoll_ctl | futex | sleeps | others |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, c := range all {
		var empty int64
		for _, name := range reads {
			empty += c.Errors[name]
		}
		total := c.per(slices.Collect(maps.Keys(c.Count))...)
		known := slices.Concat(reads, writes, waits, sleeps, opens, []string{"futex"})
		fmt.Fprintf(&b, "| %s | %s | %.3f | %.3f | %.3f | %.3f | %.3f | %.3f | %.3f | %.3f | %.3f |\n", c.Load, c.Server, total,
			c.per(reads...), float64(empty)/float64(c.Requests), c.per(writes...), c.per(waits...), c.per(opens...),
			c.per("futex"), c.per(sleeps...), total-c.per(known...))
	}
	return b.String()
}
