package drover_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/internal/load"
)

// descriptors are what a process has open, without what the Go runtime opened
// for itself.
func descriptors(t *testing.T, pid int) []string {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, l := range links {
		target, err := os.Readlink(l)
		if err != nil || strings.Contains(target, "eventpoll") || strings.Contains(target, "eventfd") || strings.HasPrefix(target, "/sys/fs/cgroup") {
			continue
		}
		kind, _, _ := strings.Cut(target, ":[")
		open = append(open, kind)
	}
	slices.Sort(open)
	return open
}

func TestWorkersDescriptorsAreExactlyThese(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		// A careless parent leaves something open in the master.
		leak, err := os.Open("/dev/zero")
		if err != nil {
			t.Fatal(err)
		}
		defer leak.Close()
		h := newHerd(t, engine)
		h.inherit = leak
		h.start()
		if open := descriptors(t, h.master.Process.Pid); !slices.Contains(open, "/dev/zero") {
			t.Fatalf("the control: the master has %v, without what it inherited", open)
		}
		// stdin; stdout and stderr; the channel, our own socket twice (to accept on,
		// and to keep), the sibling's.
		want := []string{"/dev/null", "pipe", "pipe", "socket", "socket", "socket", "socket"}
		for _, w := range h.ready() {
			if open := descriptors(t, w.PID); !slices.Equal(open, want) {
				t.Errorf("worker %d has %v, want %v", w.Slot, open, want)
			}
		}
		h.stop()
	})
}

// cpu is how long the threads of a process have run so far, in nanoseconds of the
// scheduler's. The ticks of /proc/PID/stat would be wrong for what wakes by a
// timer and is short: whoever runs at the tick gets all of it.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("process %d has no threads: %v", pid, err)
	}
	var total time.Duration
	for _, task := range tasks {
		stat, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has just ended
		}
		ran, _, _ := strings.Cut(string(stat), " ") // the first field (Documentation/scheduler/sched-stats.rst)
		ns, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		total += time.Duration(ns)
	}
	return total
}

// leastCPU is how long processes run in a span of time in which nothing is asked
// of them. What else runs on the machine makes each wake-up dearer, and what was
// asked before may have left work, never less: the best of three spans counts, or
// the first in which none took more than enough.
func leastCPU(t *testing.T, span, enough time.Duration, pids ...int) map[int]time.Duration {
	t.Helper()
	least := map[int]time.Duration{}
	for range 3 {
		before := map[int]time.Duration{}
		for _, pid := range pids {
			before[pid] = cpu(t, pid)
		}
		wait(time.Now().Add(span))
		worst := time.Duration(0)
		for _, pid := range pids {
			used := cpu(t, pid) - before[pid]
			if was, known := least[pid]; !known || used < was {
				least[pid] = used
			}
			worst = max(worst, least[pid])
		}
		if worst <= enough {
			break
		}
	}
	return least
}

func rss(t *testing.T, pid int) int {
	t.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(statm))[1])
	return pages * os.Getpagesize()
}

// idler is a process that does nothing but wake as often as a worker's runtime and its
// heartbeat do. It ends with the test.
func idler(t *testing.T) int {
	t.Helper()
	path, err := plainApp()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), "HERD_IDLE=1", "GOMAXPROCS=1", "GODEBUG=schedtrace=2147483647") // master/launch, schedTrace
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd.Process.Pid
}

// An idle process takes under 0.5 % of a CPU: 0.2 to 0.3 % where the machine is
// quiet. Where each wake-up is so dear that a program which does nothing else takes as
// much, it takes little more than that one. A heartbeat that was missed once, as any may be, changes nothing for good,
// also where workers do not beat at the same time.
func TestIdleCostsNothing(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.start()
	late := h.ready()[0].PID
	wait(time.Now().Add(250 * time.Millisecond)) // of the beat, which comes every 100
	if err := syscall.Kill(h.ready()[1].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.await("a new worker, which beats at its own times", func(e []event) bool { return count(e, "exit") == 1 && serving(e) == 2 })
	stopped(t, late)
	wait(time.Now().Add(250 * time.Millisecond)) // two beats and a half
	if err := syscall.Kill(late, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	const span = 10 * time.Second
	nothing := idler(t)
	cost, most := map[int]time.Duration{}, time.Duration(0)
	for range 3 {
		worst := time.Duration(0)
		for pid, used := range leastCPU(t, span, span, append(h.living(), h.master.Process.Pid, nothing)...) { // of one span
			if was, known := cost[pid]; known {
				used = min(used, was)
			}
			cost[pid] = used
			worst = max(worst, used)
		}
		if most = max(span/200, cost[nothing]*5/4); worst <= most {
			break
		}
	}
	for pid, used := range cost {
		t.Logf("process %d used %v in %v idle, of at most %v", pid, used, span, most)
		if used > most {
			t.Errorf("process %d used %v in %v idle", pid, used, span)
		}
	}
	if size := rss(t, h.master.Process.Pid); size > 25<<20 {
		t.Errorf("the master takes %d MiB", size>>20)
	} else {
		t.Logf("the master takes %.1f MiB", float64(size)/(1<<20))
	}
	h.stop()
}

// TestMillionRequestsLeaveNothingBehind drives the herd with pipelined requests
// on a few connections, which is fast enough for a test.
func TestMillionRequestsLeaveNothingBehind(t *testing.T) {
	inTurn(t, func(t *testing.T, engine string) {
		h := newPlainHerd(t, engine)
		h.start()
		const total = 1_000_000
		answered := 0
		drive := func(n int) {
			t.Helper()
			const clients, batch = 16, 20
			errs := make(chan error)
			for range clients {
				go func() { errs <- pipeline(h.addr, n/clients/batch, batch) }()
			}
			for range clients {
				if err := <-errs; err != nil {
					t.Fatal(err)
				}
			}
			answered += n / clients / batch * clients * batch
		}
		idle := func() {
			h.await("closed connections", func([]event) bool {
				for _, w := range h.ready() {
					if w.Connections != 0 {
						return false
					}
				}
				return true
			})
		}
		drive(total / 4) // warm-up: the heap and fasthttp's pools grow to their size
		idle()
		type size struct {
			fds, rss, threads int
		}
		measure := func(pid int) size {
			return size{len(descriptors(t, pid)), rss(t, pid), threads(t, pid)}
		}
		before := map[int]size{}
		for _, w := range h.ready() {
			before[w.PID] = measure(w.PID)
		}
		goroutines := h.goroutines()
		drive(total)
		idle()
		for _, w := range h.ready() {
			was, is := before[w.PID], measure(w.PID)
			if is.fds != was.fds || is.threads > was.threads+2 || is.rss > was.rss+was.rss/10 {
				t.Errorf("worker %d went from %+v to %+v", w.Slot, was, is)
			}
		}
		// fasthttp keeps idle goroutines for ten seconds.
		deadline := time.Now().Add(30 * time.Second)
		for h.goroutines() > goroutines && time.Now().Before(deadline) {
			wait(time.Now().Add(100 * time.Millisecond))
		}
		if n := h.goroutines(); n > goroutines {
			t.Errorf("goroutines went from %d to %d", goroutines, n)
		}
		// What the clients counted, less what we asked for goroutines.
		if got := int(h.status().Totals.Requests) - h.asked; got != answered {
			t.Errorf("%d requests were counted, the clients had %d answers", got, answered)
		}
		h.stop()
	})
}

// goroutines is how many the workers have, all together: each is asked until
// both have answered.
func (h *herd) goroutines() int {
	h.t.Helper()
	by := map[string]int{}
	for range 200 {
		slot, n, _ := strings.Cut(h.get("/goroutines"), " ")
		h.asked++
		by[slot], _ = strconv.Atoi(n)
		if len(by) == 2 {
			return by["0"] + by["1"]
		}
	}
	h.t.Fatalf("200 connections all went to worker %v", by)
	return 0
}

// pipeline asks batches of requests on one connection.
func pipeline(addr string, batches, batch int) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	ask := bytes.Repeat([]byte("GET / HTTP/1.1\r\nHost: load\r\n\r\n"), batch)
	buf := make([]byte, 64<<10)
	// The length of one answer is that of all: the date has a fixed width.
	if _, err := c.Write(ask[:len(ask)/batch]); err != nil {
		return err
	}
	one, err := c.Read(buf)
	if err != nil || !bytes.HasSuffix(buf[:one], []byte("\r\n\r\nok")) {
		return fmt.Errorf("%q, %v", buf[:one], err)
	}
	left := batches*batch - 1
	for left > 0 {
		n := min(batch, left)
		if _, err := c.Write(ask[:len(ask)/batch*n]); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf[:one*n]); err != nil {
			return err
		}
		if !bytes.HasSuffix(buf[:one*n], []byte("\r\n\r\nok")) {
			return fmt.Errorf("%q", buf[:one*n])
		}
		left -= n
	}
	return nil
}

func TestCountersEqualTheClients(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newHerd(t, engine)
		h.start()
		r, c := h.underLoad(func(r *load.Run) {
			if err := r.AwaitOK(3000); err != nil {
				t.Fatal(err)
			}
			if err := h.client().Reload(t.Context()); err != nil { // ended lives count too
				t.Fatal(err)
			}
		})
		lost(t, r, c, 0)
		if got := int(h.status().Totals.Requests); got != c[load.OK] {
			t.Errorf("%d requests were counted, the clients had %d answers", got, c[load.OK])
		}
		h.stop()
	})
}

// After a good start the database goes away: all slots die at their start until
// it is back. Connections wait meanwhile, and are answered.
func TestBrokenHerdIsRepaired(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.start()
	var broken string
	for _, kv := range h.env {
		if path, ok := strings.CutPrefix(kv, "HERD_BROKEN="); ok {
			broken = path
		}
	}
	wait(time.Now().Add(1100 * time.Millisecond)) // ready for min_uptime: late deaths
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, w := range h.ready() {
		if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	started := count(h.happened(), "started")
	h.await("an end of both", func(e []event) bool { return count(e, "exit") >= 2 })
	conns, counts := load.Queue(h.addr, "/", 50, 30*time.Second)
	wait(begun.Add(10 * time.Second))
	if forks := count(h.happened(), "started") - started; forks > 20+7*2 {
		t.Errorf("%d forks in 10 s, want at most %d", forks, 20+7*2)
	} else {
		t.Logf("%d forks in 10 s", forks)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	if got := load.Answers(conns, "ok"); got != (load.Counts{load.OK: 50}) || counts.Lost() != 0 {
		t.Errorf("%s; while queueing %s", got, counts)
	}
	h.stop()
}

// A reload follows a `current` symlink that was moved.
func TestReloadFollowsAMovedLink(t *testing.T) {
	h := newHerd(t, "fasthttp")
	releases := t.TempDir()
	current := filepath.Join(releases, "current")
	release := func(name string) {
		dir := filepath.Join(releases, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		h.program = filepath.Join(dir, "app")
		h.deploy(name)
		_ = os.Remove(current)
		if err := os.Symlink(dir, current); err != nil {
			t.Fatal(err)
		}
		h.program = filepath.Join(current, "app")
	}
	release("good")
	h.start()
	release("second")
	if body := h.get("/"); body != "ok" {
		t.Errorf("before the reload: %q", body)
	}
	if err := h.client().Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if body := h.get("/"); body != "second" {
			t.Fatalf("after it: %q", body)
		}
	}
	h.stop()
}

// Ctrl-C at a terminal reaches the master's process group: nothing is lost, and
// the master ends with exit code 0; a second one ends at once.
func TestCtrlC(t *testing.T) {
	if _, err := exec.LookPath("script"); err != nil {
		t.Skip("script(1) of util-linux is not installed")
	}
	h := newHerd(t, "fasthttp")
	h.wrap = []string{"script", "-qec", "exec " + h.program + " 2>" + h.program + ".log", "/dev/null"}
	h.launchOnTerminal()
	r := load.Start(load.Load{Addr: h.addr})
	if err := r.AwaitOK(300); err != nil {
		t.Fatal(err)
	}
	if _, err := h.keys.Write([]byte{3}); err != nil { // ^C
		t.Fatal(err)
	}
	h.exited(0)
	c := r.Stop()
	if c[load.Reset]+c[load.Stale]+c[load.Cut]+c[load.Wrong]+c[load.TimedOut] != 0 {
		t.Errorf("%s\n%s", c, r.Losses())
	}
}

// threads is how many threads a process has.
func threads(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "Threads:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
