package drover_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/internal/load"
)

// lost checks that no more was lost than allowed: by kind, and cut and stale
// together at most so many.
func lost(t *testing.T, r *load.Run, c load.Counts, cutAndStale int) {
	t.Helper()
	for _, kind := range []load.Kind{load.Refused, load.Reset, load.TimedOut, load.Wrong} {
		if c[kind] != 0 {
			t.Errorf("%s: %d, want 0", kind, c[kind])
		}
	}
	if n := c[load.Cut] + c[load.Stale]; n > cutAndStale {
		t.Errorf("cut %d and stale %d, want at most %d together", c[load.Cut], c[load.Stale], cutAndStale)
	}
	if t.Failed() {
		t.Logf("%s; the first losses:\n%s", c, r.Losses())
	}
}

// underLoad runs clients against the herd while act does what it does.
func (h *herd) underLoad(act func(r *load.Run)) (*load.Run, load.Counts) {
	h.t.Helper()
	r := load.Start(load.Load{Addr: h.addr})
	defer r.Stop()
	if err := r.AwaitOK(200); err != nil {
		h.t.Fatal(err)
	}
	act(r)
	return r, r.Stop()
}

// wait waits for an instant: the load goes on meanwhile.
func wait(until time.Time) { <-time.After(time.Until(until)) }

func TestKilledWorkerCostsWhatItHadAccepted(t *testing.T) {
	inTurn(t, func(t *testing.T, engine string) {
		h := newPlainHerd(t, engine)
		h.start()
		const seed = 1
		random := rand.New(rand.NewPCG(seed, seed))
		var slowest time.Duration
		open := 0
		kills := 20
		r, c := h.underLoad(func(r *load.Run) {
			next := time.Now()
			for n := range kills {
				victim := h.ready()[random.IntN(2)]
				if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				events := h.await("successor", func(e []event) bool {
					return count(e, "exit") > n && count(e, "ready") > n+2
				})
				exits, readies := pick(events, "exit"), pick(events, "ready")
				exit := exits[len(exits)-1]
				open += exit.Connections + 1
				slowest = max(slowest, readies[len(readies)-1].Time.Sub(exit.Time))
				if exit.PID != victim.PID || exit.Reason != "signal: killed" {
					t.Errorf("the log tells of %+v, killed was %d", exit, victim.PID)
				}
				next = next.Add(1200*time.Millisecond + time.Duration(random.IntN(100))*time.Millisecond) // each has served for a second
				wait(next)
			}
		})
		lost(t, r, c, open)
		if slowest > 100*time.Millisecond {
			t.Errorf("the slowest successor served after %v, want 100 ms", slowest)
		}
		t.Logf("%d kills, seed %d: %s; connections that the victims had open %d; slowest successor %v", kills, seed, c, open-kills, slowest)

		// The counts differ by what was in flight at the kills, and no more.
		total := int(h.status().Totals.Requests)
		if total < c[load.OK] || total > c[load.OK]+c.Lost() {
			// A request may be counted and its answer lost, or answered and not yet counted.
			if diff := c[load.OK] - total; diff > open {
				t.Errorf("counted %d, clients had %d answers", total, c[load.OK])
			}
		}
		h.stop()
	})
}

func TestStormOfKills(t *testing.T) {
	inTurn(t, func(t *testing.T, engine string) {
		h := newPlainHerd(t, engine)
		h.start()
		kills := 0
		r, c := h.underLoad(func(r *load.Run) {
			begun := time.Now()
			for n := 1; n <= 30; n++ {
				if living := h.living(); len(living) > 0 && syscall.Kill(living[0], syscall.SIGKILL) == nil {
					kills++
				}
				wait(begun.Add(time.Duration(n) * 100 * time.Millisecond))
			}
			h.await("two workers after the storm", func(e []event) bool {
				return len(e) > 0 && serving(e) == 2
			})
		})
		open := 0
		for _, e := range pick(h.happened(), "exit") {
			open += e.Connections + 1
		}
		lost(t, r, c, open)
		t.Logf("%d kills: %s; connections open at them %d", kills, c, open-kills)
		h.stop()
	})
}

// serving is how many workers the events say are ready.
func serving(events []event) int {
	ready := map[int]bool{}
	for _, e := range events {
		switch e.Event {
		case "ready":
			ready[e.Life] = true
		case "exit":
			delete(ready, e.Life)
		}
	}
	return len(ready)
}

func TestQueueOfAKilledWorkerIsAnswered(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newHerd(t, engine)
		h.start()
		victim := h.ready()[0]
		stopped(t, victim.PID)
		conns, counts := load.Queue(h.addr, "/", 200, 10*time.Second)
		if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if got := load.Answers(conns, "ok"); got != (load.Counts{load.OK: 200}) || counts.Lost() != 0 {
			t.Errorf("%s; while queueing %s", got, counts)
		}
		h.stop()
	})
}

// The control: of a server that holds no socket for its workers, the same kill
// loses what is queued.
func TestQueueOfAKilledPreforkWorkerIsLost(t *testing.T) {
	h := newHerd(t, "prefork")
	cmd := exec.Command(h.program)
	cmd.Env = h.env
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill() // its workers watch it, and end too
	var pids []int
	for lines := bufio.NewScanner(out); len(pids) < runtime.GOMAXPROCS(0) && lines.Scan(); {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	victim := pids[0]
	if err := syscall.Kill(victim, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	conns, _ := load.Queue(h.addr, "/", 200, 10*time.Second)
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	got := load.Answers(conns, "ok")
	if fair := 200 / len(pids); got.Lost() < fair/2 {
		t.Errorf("%s: the control lost fewer than %d", got, fair/2)
	}
	t.Logf("fasthttp's prefork: %s", got)
}

func TestAllWorkersKilledAtOnce(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newPlainHerd(t, engine)
		h.start()
		r, c := h.underLoad(func(r *load.Run) {
			for n := range 3 {
				for _, w := range h.ready() {
					if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
				}
				h.await("two successors", func(e []event) bool { return count(e, "exit") == 2*(n+1) && serving(e) == 2 })
				if err := r.AwaitOK(500); err != nil {
					t.Fatal(err)
				}
			}
		})
		open := 0
		for _, e := range pick(h.happened(), "exit") {
			open += e.Connections + 1
		}
		lost(t, r, c, open)
		h.stop()
	})
}

func TestReloadsLoseNothing(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newHerd(t, engine)
		h.start()
		r, c := h.underLoad(func(r *load.Run) {
			for range 5 {
				h.deploy("good")
				if err := h.client().Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		})
		lost(t, r, c, 0)
		if s := h.status(); s.Generation != 6 {
			t.Errorf("generation %d serves, want 6", s.Generation)
		}
		h.stop()
	})
}

// Reloads that are asked for faster than they can be done are merged, and lose
// nothing: some by signal, some by the command.
func TestManyReloadRequestsLoseNothing(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newPlainHerd(t, engine)
		h.start()
		answers := make(chan error, 10)
		r, c := h.underLoad(func(*load.Run) {
			begun := time.Now()
			for n := range 20 {
				if n%2 == 0 {
					if err := h.master.Process.Signal(syscall.SIGHUP); err != nil {
						t.Fatal(err)
					}
				} else {
					client := h.client()
					go func() { answers <- client.Reload(t.Context()) }()
				}
				wait(begun.Add(time.Duration(n+1) * 200 * time.Millisecond))
			}
			for range 10 {
				if err := <-answers; err != nil {
					t.Errorf("reload: %v", err)
				}
			}
			h.await("the last generation", func([]event) bool { return h.status().State == "running" })
		})
		lost(t, r, c, 0)
		reloads := count(h.happened(), "reloaded")
		if g := h.status().Generation; g != 21 || reloads >= 20 {
			t.Errorf("after 20 requests generation %d serves, after %d reloads: want 21, and fewer reloads than requests", g, reloads)
		}
		t.Logf("%d reloads for 20 requests: %s", reloads, c)
		h.stop()
	})
}

func TestBadGenerationIsRolledBack(t *testing.T) {
	for _, bad := range []struct {
		do      string
		timeout string
		want    string // in the reason
	}{
		{"exit", "", "exit status 1"},
		{"never", "2s", "not ready within 2s"},
		{"second fails", "", "worker 1 of generation 2"},
		{"dies soon", "", "exit status 9"},
	} {
		t.Run(bad.do, func(t *testing.T) {
			t.Parallel()
			both(t, func(t *testing.T, engine string) {
				h := newHerd(t, engine)
				h.env = append(h.env, "HERD_READY_TIMEOUT="+bad.timeout)
				h.start()
				r, c := h.underLoad(func(r *load.Run) {
					h.deploy(bad.do)
					err := h.client().Reload(t.Context())
					if err == nil || !strings.Contains(err.Error(), bad.want) {
						t.Errorf("reload: %v, want a reason with %q", err, bad.want)
					}
					h.await("the old generation everywhere", func([]event) bool {
						ready := h.ready()
						return len(ready) == 2 && ready[0].Generation == 1 && ready[1].Generation == 1
					})
					if err := r.AwaitOK(500); err != nil {
						t.Error(err)
					}
				})
				open := 0
				for _, e := range pick(h.happened(), "exit") {
					if !e.Planned {
						open += e.Connections + 1
					}
				}
				if bad.do != "dies soon" {
					open = 0
				}
				lost(t, r, c, open)
				if s := h.status(); s.Generation != 1 || s.State != "running" {
					t.Errorf("%s with generation %d, want running with 1", s.State, s.Generation)
				}
				h.stop()
			})
		})
	}
}

func TestCrashBetweenDeployAndReloadRunsTheOldCode(t *testing.T) {
	h := newHerd(t, "fasthttp")
	h.start()
	h.deploy("new")
	if err := syscall.Kill(h.ready()[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.await("successor", func(e []event) bool { return count(e, "ready") == 3 })
	for range 20 {
		if body := h.get("/"); body != "ok" {
			t.Fatalf("a crash restart runs the new code: %q", body)
		}
	}
	if err := h.client().Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if body := h.get("/"); body != "new" {
			t.Fatalf("after the reload: %q", body)
		}
	}
	h.stop()
}

func TestTermUnderLoadAnswersWhatWasAccepted(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newHerd(t, engine)
		h.start()
		r := load.Start(load.Load{Addr: h.addr})
		if err := r.AwaitOK(500); err != nil {
			t.Fatal(err)
		}
		if err := h.master.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		h.exited(0)
		c := r.Stop()
		// After the end everything is refused; what was dropped on the way may
		// have waited for its second SYN.
		if c[load.Reset]+c[load.Stale]+c[load.Cut]+c[load.Wrong]+c[load.TimedOut] != 0 {
			t.Errorf("%s\n%s", c, r.Losses())
		}
		if n := len(h.living()); n != 0 {
			t.Errorf("%d workers are left", n)
		}
	})
}

func TestStopAnswersWhatIsQueued(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newHerd(t, engine)
		h.start()
		for _, w := range h.ready() {
			if err := syscall.Kill(w.PID, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		conns, counts := load.Queue(h.addr, "/", 100, 20*time.Second)
		if err := h.master.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		h.await("the stop's beginning", func(e []event) bool { return count(e, "stop") == 1 })
		for _, pid := range h.living() {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
		}
		if got := load.Answers(conns, "ok"); got != (load.Counts{load.OK: 100}) || counts.Lost() != 0 {
			t.Errorf("%s; while queueing %s", got, counts)
		}
		h.exited(0)
	})
}

func TestSecondTermEndsAtOnce(t *testing.T) {
	h := newHerd(t, "fasthttp")
	h.start()
	for _, w := range h.ready() { // stopped, they would not drain within 30 s
		if err := syscall.Kill(w.PID, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	for n := 1; n <= 2; n++ {
		if err := h.master.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		h.await(fmt.Sprintf("TERM %d", n), func(e []event) bool { return count(e, "stop") == n })
	}
	begun := time.Now()
	h.exited(0)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestNeverReadyGivesUpWithTheLastLines(t *testing.T) {
	h := newHerd(t, "fasthttp")
	h.deploy("exit")
	h.launch()
	h.exited(3)
	gaveUp := pick(h.happened(), "gave_up")
	if len(gaveUp) != 1 || !strings.Contains(strings.Join(gaveUp[0].LastLines, "\n"), "no such table: users") {
		t.Errorf("%+v: want the program's last lines", gaveUp)
	}
	if n := count(h.happened(), "started"); n > 8 {
		t.Errorf("%d starts before it gave up", n)
	}
}

func TestKilledMasterIsSucceeded(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newHerd(t, engine)
		h.start()
		r, c := h.underLoad(func(r *load.Run) {
			old := h.living()
			if err := h.master.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			<-h.ended
			if err := r.AwaitOK(500); err != nil { // served by orphans, who log to nobody
				t.Fatal(err)
			}
			h.start()
			h.await("the orphans' relief", func(e []event) bool { return count(e, "relieved") == len(old) })
			if err := r.AwaitOK(500); err != nil {
				t.Fatal(err)
			}
		})
		lost(t, r, c, 0)
		h.stop()
	})
}

func TestSecondMasterIsRefused(t *testing.T) {
	h := newHerd(t, "fasthttp")
	h.start()
	for name, want := range map[string]string{h.name: `name "herd" is taken`, "other": fmt.Sprintf(`address already in use by drover "herd" (pid %d)`, h.master.Process.Pid)} {
		other := &herd{t: t, program: h.program, env: append(slices.Clone(h.env), "HERD_NAME="+name), name: name, dir: h.dir, addr: h.addr}
		other.launch()
		other.exited(1)
		if log := other.log(); !strings.Contains(log, want) {
			t.Errorf("a second master named %s says %q, want %q", name, log, want)
		}
		if n := count(other.happened(), "started"); n != 0 {
			t.Errorf("it started %d workers", n)
		}
	}
	if body := h.get("/"); body != "ok" {
		t.Error(body)
	}
	h.stop()
}
