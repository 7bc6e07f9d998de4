package drover_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/internal/load"
)

// stopped stops processes and waits until the kernel has.
func stopped(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	for _, pid := range pids {
		for deadline := time.Now().Add(time.Minute); !allStopped(pid); {
			if time.Now().After(deadline) {
				t.Fatalf("process %d does not stop", pid)
			}
		}
	}
}

// resume has stopped processes run on.
func resume(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
}

// allStopped reports whether every thread of a process is stopped.
func allStopped(pid int) bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(tasks) == 0 {
		return false
	}
	for _, task := range tasks {
		if stat, err := os.ReadFile(task); err != nil || !strings.Contains(string(stat), ") T ") {
			return false
		}
	}
	return true
}

// A stopped worker is fostered, killed after the hang timeout, and replaced.
// Only what it had accepted is lost: nothing is late, though clients wait for
// two seconds only.
func TestStoppedWorkerIsFosteredAndReplaced(t *testing.T) {
	inTurn(t, func(t *testing.T, engine string) {
		h := newPlainHerd(t, engine)
		h.env = append(h.env, "HERD_HANG_TIMEOUT=1s")
		h.start()
		var at time.Time
		r, c := h.underLoad(func(r *load.Run) {
			victim := h.ready()[0]
			wait(time.Now().Add(250 * time.Millisecond)) // a master that was held up by the question blames nobody for a while
			at = time.Now()
			stopped(t, victim.PID)
			h.await("successor", func(e []event) bool { return count(e, "exit") == 1 && serving(e) == 2 })
			if err := r.AwaitOK(500); err != nil {
				t.Fatal(err)
			}
		})
		events := h.happened()
		exit, late := pick(events, "exit")[0], pick(events, "late")
		lost(t, r, c, exit.Connections+1)
		if len(late) != 1 || late[0].PID != 0 && late[0].PID != exit.PID {
			t.Fatalf("late: %+v", late)
		}
		if age := late[0].AgeMS; age > 400 {
			t.Errorf("fostered %d ms after its last heartbeat, want 400", age)
		}
		if !strings.Contains(exit.Why, "no heartbeat for") || exit.Planned {
			t.Errorf("the log tells of %+v", exit)
		}
		if log := h.log(); !strings.Contains(log, "SIGQUIT: quit") || !strings.Contains(log, "goroutine ") {
			t.Error("the log has no dump of the goroutines")
		}
		t.Logf("fostered after %v, gone after %v: %s", late[0].Time.Sub(at), exit.Time.Sub(at), c)
		h.stop()
	})
}

// The control: where nobody fosters, what is queued at a stopped worker waits
// until the clients give up. One worker has no sibling.
func TestStoppedLoneWorkerIsReplaced(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_HANG_TIMEOUT=1s", "HERD_WORKERS=1")
	h.launch()
	h.await("a ready worker", func(e []event) bool { return serving(e) == 1 })
	victim := h.ready()[0]
	stopped(t, victim.PID)
	conns, _ := load.Queue(h.addr, "/", 20, time.Second)
	if got := load.Answers(conns, "ok"); got[load.TimedOut] != 20 {
		t.Errorf("%s: nobody should have answered within a second", got)
	}
	h.await("successor", func(e []event) bool { return count(e, "exit") == 1 && serving(e) == 1 })
	h.get("/")
	h.stop()
}

// When the whole machine stands still, nobody is to blame.
func TestHostThatStandsStillKillsNobody(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_HANG_TIMEOUT=1s")
	h.start()
	pids := append(h.living(), h.master.Process.Pid)
	stopped(t, pids...)
	wait(time.Now().Add(3 * time.Second))
	slices.Reverse(pids) // the master first: it sees the others late
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	h.await("suspicion", func(e []event) bool { return count(e, "suspect") > 0 })
	wait(time.Now().Add(1500 * time.Millisecond)) // half as long again as a hang may last
	if e := h.happened(); count(e, "kill") != 0 || count(e, "exit") != 0 {
		t.Error("somebody was killed")
	}
	h.get("/")
	h.stop()
}

var setClock = flag.Bool("clock", false, "let a test set the machine's clock an hour forth and back; needs root")

// Whoever sets the clock by an hour changes nothing: nobody is late, and what
// dies is replaced at once.
func TestClockIsSet(t *testing.T) {
	if !*setClock {
		t.Skip("sets the machine's clock: go test -run TestClockIsSet -clock .")
	}
	off := 0 // seconds, from what is right
	set := func(to int) {
		t.Helper()
		// ADJ_SETOFFSET of linux/timex.h adds: what was right is so again to the
		// microsecond.
		change := syscall.Timex{Modes: 0x0100, Time: syscall.Timeval{Sec: int64(to - off)}}
		if _, err := syscall.Adjtimex(&change); err != nil {
			t.Fatalf("set the clock by %d s: %v", to-off, err)
		}
		off = to
	}
	defer func() { set(0) }()
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_HANG_TIMEOUT=1s")
	h.start()
	deaths := 0
	r, c := h.underLoad(func(r *load.Run) {
		for _, to := range []int{3600, 0, -3600, 0} {
			set(to)
			if err := syscall.Kill(h.ready()[deaths%2].PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			deaths++
			h.await("successor", func(e []event) bool { return count(e, "exit") == deaths && serving(e) == 2 })
			wait(time.Now().Add(1500 * time.Millisecond)) // longer than a hang may last
		}
	})
	open := 0
	for _, e := range pick(h.happened(), "exit") {
		open += e.Connections + 1
	}
	lost(t, r, c, open)
	for _, kind := range []string{"late", "suspect", "kill"} {
		if n := count(h.happened(), kind); n != 0 {
			t.Errorf("%d times %q in the log", n, kind)
		}
	}
	h.stop()
}

// A handler that loops, or blocks for ever, hangs no worker: it beats, and the
// others of its worker are answered.
func TestStuckHandlersHangNoWorker(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		for _, kind := range []string{"/spin", "/block", "/deadlock"} {
			t.Run(kind[1:], func(t *testing.T) {
				t.Parallel()
				h := newPlainHerd(t, engine)
				h.env = append(h.env, "HERD_HANG_TIMEOUT=1s", "HERD_WORKERS=1", "HERD_DRAIN=100ms")
				h.launch()
				h.await("a ready worker", func(e []event) bool { return serving(e) == 1 })
				conns, _ := load.Queue(h.addr, kind, 1, time.Minute)
				defer conns[0].Close()
				h.await("a stuck request", func([]event) bool { return h.ready()[0].InFlight == 1 })
				wait(time.Now().Add(1500 * time.Millisecond))
				h.get("/")
				if e := h.happened(); count(e, "kill") != 0 || count(e, "exit") != 0 {
					t.Error("the worker was killed")
				}
				h.stop()
			})
		}
	})
}

// One that blocks in a way that the runtime does not know of, as C code does,
// keeps the worker's only processor: nothing runs there any more. That is a hang.
func TestCapturedProcessorIsAHang(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_HANG_TIMEOUT=1s")
	h.start()
	r, c := h.underLoad(func(r *load.Run) {
		conns, _ := load.Queue(h.addr, "/capture", 1, time.Minute)
		defer conns[0].Close()
		h.await("successor", func(e []event) bool { return count(e, "exit") == 1 && serving(e) == 2 })
		if err := r.AwaitOK(500); err != nil {
			t.Fatal(err)
		}
	})
	exit := pick(h.happened(), "exit")[0]
	lost(t, r, c, exit.Connections+1)
	if count(h.happened(), "late") != 1 || !strings.Contains(exit.Why, "no heartbeat for") {
		t.Errorf("%+v", exit)
	}
	// Of the goroutine itself the runtime may have no stack, since it runs on
	// another thread than the one that got the signal.
	if log := h.log(); !strings.Contains(log, "SIGQUIT: quit") || !strings.Contains(log, "goroutine 1 ") {
		t.Error("the log does not show where the worker was")
	}
	if log := h.log(); strings.Contains(log, "schedtick=") {
		t.Error("the log shows what schedtrace prints")
	}
	h.stop()
}

// With request_timeout, such a worker gets a successor. The log names the
// request, says whether it computes or waits, and shows where.
func TestRequestTimeoutReplacesAStuckWorker(t *testing.T) {
	for path, verdict := range map[string]string{
		"/deadlock": `more than request_timeout: GET "/deadlock"`,
		"/spin":     `more than request_timeout: GET "/spin"; goroutines wait`,
	} {
		t.Run(path[1:], func(t *testing.T) {
			both(t, func(t *testing.T, engine string) {
				h := newPlainHerd(t, engine)
				h.env = append(h.env, "HERD_REQUEST_TIMEOUT=1500ms", "HERD_DRAIN=2s")
				h.start()
				var slowest float64
				r, c := h.underLoad(func(r *load.Run) {
					conns, _ := load.Queue(h.addr, path, 1, time.Minute)
					defer conns[0].Close()
					h.await("replacement", func(e []event) bool {
						for _, w := range h.ready() {
							slowest = max(slowest, w.SchedWaitMilliseconds)
						}
						return count(e, "recycle") == 1 && count(e, "exit") == 1 && serving(e) == 2
					})
				})
				lost(t, r, c, 0)
				if e := pick(h.happened(), "recycle")[0]; !strings.Contains(e.Why, verdict) {
					t.Errorf("the log says %q, want %q", e.Why, verdict)
				}
				if path == "/spin" && slowest < 3 {
					t.Errorf("goroutines waited %v ms for a processor beside an endless loop", slowest)
				}
				if !strings.Contains(h.log(), "drover_test.answer(") {
					t.Error("the log does not show where the handler was")
				}
				h.stop()
			})
		})
	}
}

// A crash-looping slot costs the others nothing: its sibling accepts for it.
func TestCrashLoopOfOneSlotIsFostered(t *testing.T) {
	inTurn(t, func(t *testing.T, engine string) {
		h := newPlainHerd(t, engine)
		h.start()
		var healthy, looping int
		r, c := h.underLoad(func(r *load.Run) {
			healthy = rate(r, 3*time.Second)

			if err := os.WriteFile(h.brokenSlot, []byte("1"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(h.ready()[1].PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			h.await("two deaths", func(e []event) bool { return count(e, "exit") >= 2 })
			looping = rate(r, 3*time.Second)
			if err := os.Remove(h.brokenSlot); err != nil {
				t.Fatal(err)
			}
			h.await("repair", func(e []event) bool { return serving(e) == 2 })
		})
		lost(t, r, c, pick(h.happened(), "exit")[0].Connections+1)
		if looping < healthy*95/100 {
			t.Errorf("%d answers in 100 ms while slot 1 loops, %d before: want 95 %%", looping, healthy)
		}
		t.Logf("%d answers in 100 ms while slot 1 loops, %d before", looping, healthy)
		h.stop()
	})
}

// rate is how many requests are answered in 100 ms: the median over the span, so
// that another program that takes the machine for a moment does not count.
func rate(r *load.Run, span time.Duration) int {
	const window = 100 * time.Millisecond
	var answered []int
	last, end := r.Counts()[load.OK], time.Now().Add(span)
	for at := time.Now().Add(window); at.Before(end); at = at.Add(window) {
		wait(at)
		now := r.Counts()[load.OK]
		answered = append(answered, now-last)
		last = now
	}
	slices.Sort(answered)
	return answered[len(answered)/2]
}

// Scaling up and down under load, and with connections that nobody has accepted
// yet, loses nothing.
func TestScalingLosesNothing(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newPlainHerd(t, engine)
		h.start()
		r, c := h.underLoad(func(*load.Run) {
			end := time.Now().Add(5 * time.Second)
			for n := 1; time.Now().Before(end); n++ {
				at := time.Now()
				pids := []int{}
				for _, w := range h.ready() {
					pids = append(pids, w.PID)
				}
				stopped(t, pids...)
				conns, queued := load.Queue(h.addr, "/", 200, 10*time.Second)
				for _, pid := range pids {
					if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
						t.Fatal(err)
					}
				}
				if err := h.client().Scale(context.Background(), 1+n%2); err != nil {
					t.Fatal(err)
				}
				if got := load.Answers(conns, "ok"); got != (load.Counts{load.OK: 200}) || queued.Lost() != 0 {
					t.Errorf("%s; while queueing %s", got, queued)
				}
				wait(at.Add(300 * time.Millisecond))
			}
		})
		lost(t, r, c, 0)
		t.Logf("%d scalings: %s", count(h.happened(), "scaled"), c)
		h.stop()
	})
}

// What is queued at a slot that is scaled away is answered by its siblings.
func TestQueueOfARemovedSlotIsAnswered(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newPlainHerd(t, engine)
		h.start()
		victim := h.ready()[1]
		stopped(t, victim.PID)
		conns, _ := load.Queue(h.addr, "/", 200, 10*time.Second)
		if err := h.client().Scale(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
		if got := load.Answers(conns, "ok"); got != (load.Counts{load.OK: 200}) {
			t.Errorf("%s", got)
		}
		if err := syscall.Kill(victim.PID, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		h.await("the end of slot 1", func(e []event) bool { return count(e, "exit") == 1 })
		conns, _ = load.Queue(h.addr, "/", 200, 10*time.Second)
		if got := load.Answers(conns, "ok"); got != (load.Counts{load.OK: 200}) {
			t.Errorf("after it: %s", got)
		}
		h.stop()
	})
}

// Limits replace workers one after the other, and lose nothing.
func TestMaxRequestsLosesNothing(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newPlainHerd(t, engine)
		h.env = append(h.env, "HERD_MAX_REQUESTS=1000")
		h.start()
		r, c := h.underLoad(func(*load.Run) {
			h.await("four recyclings", func(e []event) bool { return count(e, "exit") >= 4 })
		})
		lost(t, r, c, 0)
		for _, e := range pick(h.happened(), "exit") {
			if !e.Planned {
				t.Errorf("%+v", e)
			}
		}
		h.stop()
	})
}

func TestMaxMemoryReplacesAGrownWorker(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_MAX_MEMORY=100000000")
	h.start()
	h.get("/grow") // by 200 MB
	e := h.await("replacement", func(e []event) bool { return count(e, "exit") == 1 && serving(e) == 2 })
	if why := pick(e, "recycle")[0].Why; !strings.Contains(why, "max_memory") {
		t.Errorf("replaced, since %q", why)
	}
	h.stop()
}
