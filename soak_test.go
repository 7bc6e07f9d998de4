package drover_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/internal/load"
)

var (
	soak     = flag.Duration("soak", 0, "how long to run random faults; scripts/soak says 5m")
	soakSeed = flag.Uint64("soak-seed", 0, "which faults; 0 takes another each time")
)

// TestSoak does to a herd under load whatever the other tests do, at random, and
// expects that it ends as it began.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("runs for minutes: scripts/soak")
	}
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	random := rand.New(rand.NewPCG(seed, seed))
	t.Logf("seed %d", seed)
	fmt.Fprintf(os.Stderr, "soak: %s, seed %d\n", *soak, seed)
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_HANG_TIMEOUT=1s", "HERD_DRAIN=5s")
	h.start()

	whole := func(what string) {
		t.Helper()
		h.await("two workers after "+what, func([]event) bool {
			s := h.status()
			return s.State == "running" && len(s.Workers) == 2 && len(h.ready()) == 2
		})
	}
	anyone := func() int {
		ready := h.ready()
		if len(ready) == 0 {
			return 0
		}
		return ready[random.IntN(len(ready))].PID
	}
	kill := func(pid int, sig syscall.Signal) {
		if pid != 0 {
			_ = syscall.Kill(pid, sig) // it may have ended meanwhile
		}
	}
	reload := func(do string) {
		h.deploy(do)
		_ = h.client().Reload(context.Background()) // a bad one fails, and is rolled back
	}
	faults := []struct {
		name string
		do   func()
	}{
		{"kill -9", func() { kill(anyone(), syscall.SIGKILL) }},
		{"kill -9 of all", func() {
			for _, w := range h.ready() {
				kill(w.PID, syscall.SIGKILL)
			}
		}},
		{"a storm of kills", func() {
			for range 10 {
				kill(anyone(), syscall.SIGKILL)
				wait(time.Now().Add(100 * time.Millisecond))
			}
		}},
		{"TERM of a worker", func() { kill(anyone(), syscall.SIGTERM) }},
		{"STOP for a moment", func() {
			pid := anyone()
			kill(pid, syscall.SIGSTOP)
			wait(time.Now().Add(time.Duration(random.IntN(800)) * time.Millisecond))
			kill(pid, syscall.SIGCONT)
		}},
		{"STOP for good", func() {
			before := count(h.happened(), "exit")
			kill(anyone(), syscall.SIGSTOP)
			h.await("its end", func(e []event) bool { return count(e, "exit") > before })
		}},
		{"a reload", func() { reload("good") }},
		{"a generation that exits", func() { reload("exit"); h.deploy("good") }},
		{"a generation that dies soon", func() { reload("dies soon"); h.deploy("good") }},
		{"scaling", func() {
			for _, n := range []int{3, 1, 2} {
				if err := h.client().Scale(context.Background(), n); err != nil {
					t.Error(err)
				}
			}
		}},
		{"a restart", func() { _ = h.client().Restart(context.Background(), random.IntN(2)) }},
		{"bad packets", func() {
			for _, kind := range []string{"empty", "truncated", "oversize", "descriptors", "wrong slot"} {
				h.askFor("/misbehave/0/" + strings.ReplaceAll(kind, " ", "_"))
				h.askFor("/misbehave/1/" + strings.ReplaceAll(kind, " ", "_"))
			}
		}},
	}
	footprint := func() string {
		pid := h.master.Process.Pid
		return fmt.Sprintf("%d descriptors, %d threads, %d goroutines", len(descriptors(t, pid)), threads(t, pid), h.status().Master.Goroutines)
	}
	whole("the start")
	r := load.Start(load.Load{Addr: h.addr})
	defer r.Stop()
	if err := r.AwaitOK(500); err != nil {
		t.Fatal(err)
	}
	// Faults once of each kind are the warm-up.
	for _, f := range faults {
		f.do()
		whole(f.name)
	}
	fds, size, goroutines := len(descriptors(t, h.master.Process.Pid)), rss(t, h.master.Process.Pid), h.status().Master.Goroutines
	t.Logf("at first: %s, %d KiB", footprint(), size>>10)
	done := map[string]int{}
	for end := time.Now().Add(*soak); time.Now().Before(end); {
		f := faults[random.IntN(len(faults))]
		done[f.name]++
		f.do()
		whole(f.name)
		wait(time.Now().Add(time.Duration(random.IntN(300)) * time.Millisecond))
	}
	c := r.Stop()
	whole("the end")
	open := 0
	for _, e := range pick(h.happened(), "exit") {
		if !e.Planned {
			open += e.Connections + 1
		}
	}
	lost(t, r, c, open)
	if n := len(descriptors(t, h.master.Process.Pid)); n > fds {
		t.Errorf("the master's descriptors went from %d to %d", fds, n)
	}
	// One that answers a status may still run.
	h.await("no more goroutines than at first", func([]event) bool { return h.status().Master.Goroutines <= goroutines+goroutines/20 })
	if is := rss(t, h.master.Process.Pid); is > size+size/20+1<<20 {
		t.Errorf("the master's memory went from %d to %d KiB", size>>10, is>>10)
	}
	t.Logf("at the end: %s, %d KiB; %v; %s", footprint(), rss(t, h.master.Process.Pid)>>10, done, c)
	h.stop()
	if out, _ := exec.Command("pgrep", "-f", h.program).Output(); len(out) > 0 {
		t.Errorf("processes are left: %s", out)
	}
}

// askFor asks once, whatever comes.
func (h *herd) askFor(path string) {
	if conn, _, err := load.Dial(h.addr, 10*time.Second); err == nil {
		_, _ = conn.Get(path, false, 10*time.Second, "ok")
		conn.Close()
	}
}
