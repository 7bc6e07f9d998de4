package fleet

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the outputs in testdata; read each before you commit it")

// TestScripts plays the scripts in testdata, which are the manual of what
// happens when. A script is commands, each followed by ---- and what came of it:
//
//	begin workers=2 [hang=10s] [requests=N] [age=1h] [sticky] [foreign [tells]]   start a fleet
//	ready LIFE…             each says that it is ready
//	say LIFE online|leaving|closed|coming
//	exit LIFE [code=N] [signal=N] [err=WHY]
//	reload GENERATION · restart SLOT · scale N · stop · stop-now
//	wait DURATION           let time pass without heartbeats being read; deadlines are met on the way
//	beat DURATION [stuck=LIFE,…]   let time pass, in which all but the stuck beat, and answer 10 requests a second
//	  [slept=DURATION]             the host has slept so long before
//	  [old=DURATION wait=DURATION] life 1 has so old a request; its goroutines wait so long for a processor
//	until ready             let all that is started be ready at once, and time pass, until nothing is to be done
//	lives                   who there is
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := rerun(t, string(text))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got != string(text) {
				t.Errorf("%s says\n%s\nbut what happens is\n%s", path, text, got)
			}
		})
	}
}

// rerun plays a script and returns it with the outputs that it has now.
func rerun(t *testing.T, text string) string {
	var out strings.Builder
	s := &script{t: t}
	lines := bufio.NewScanner(strings.NewReader(text))
	expecting := false
	for lines.Scan() {
		line := lines.Text()
		switch {
		case expecting && line != "":
			continue // the old output
		case line == "":
			expecting = false
			out.WriteString("\n")
		case strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
		case line == "----":
			expecting = true
			out.WriteString(line + "\n" + s.flush())
		default:
			out.WriteString(line + "\n")
			s.do(strings.Fields(line))
		}
	}
	return out.String()
}

// script is one under way.
type script struct {
	t      *testing.T
	fleet  *Fleet
	now    time.Time
	begun  time.Time
	beaten map[LifeID]time.Time
	out    []string

	foreign, tells bool // what is started is, or does
}

func (s *script) flush() string {
	if len(s.out) == 0 {
		return "nothing\n"
	}
	text := strings.Join(s.out, "\n") + "\n"
	s.out = nil
	return text
}

func (s *script) do(cmd []string) {
	s.t.Helper()
	number := func(i int) int {
		n, err := strconv.Atoi(cmd[i])
		if err != nil {
			s.t.Fatalf("%v: %v", cmd, err)
		}
		return n
	}
	switch cmd[0] {
	case "begin":
		policy, workers := Policy{}, 0
		for _, arg := range cmd[1:] {
			name, value, _ := strings.Cut(arg, "=")
			switch name {
			case "workers":
				workers, _ = strconv.Atoi(value)
			case "hang":
				policy.HangTimeout, _ = time.ParseDuration(value)
			case "requests":
				policy.MaxRequests, _ = strconv.ParseInt(value, 10, 64)
			case "age":
				policy.MaxAge, _ = time.ParseDuration(value)
			case "request":
				policy.RequestTimeout, _ = time.ParseDuration(value)
			case "sticky":
				policy.Sticky = true
			case "foreign":
				s.foreign = true
			case "tells":
				s.tells = true
			}
		}
		s.fleet = New(policy, Want{Workers: workers, Generation: 1})
		s.begun = time.Unix(0, 0)
		s.beaten = map[LifeID]time.Time{}
		s.now = s.begun
		s.step(Tick{})
	case "ready":
		for i := range cmd[1:] {
			s.step(Said{LifeID(number(i + 1)), SaysReady})
		}
	case "say":
		s.step(Said{LifeID(number(1)), map[string]Word{"online": SaysOnline, "listening": SaysListening, "leaving": SaysLeaving, "closed": SaysClosed, "coming": SaysComing}[cmd[2]]})
	case "exit":
		e, tells := Exit{}, false
		for _, arg := range cmd[2:] {
			name, value, _ := strings.Cut(arg, "=")
			n, _ := strconv.Atoi(value)
			switch name {
			case "code":
				e.Code = n
			case "signal":
				e.Signal = n
			case "err":
				e.Err = value
			case "tells":
				tells = true
			}
		}
		s.step(Exited{LifeID(number(1)), e, tells})
	case "reload":
		s.step(Reload{number(1)})
	case "restart":
		s.step(Restart{number(1)})
	case "scale":
		s.step(Scale{number(1)})
	case "stop":
		s.step(Stop{})
	case "stop-now":
		s.step(StopNow{})
	case "wait":
		d, err := time.ParseDuration(cmd[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.pass(s.now.Add(d))
	case "beat":
		d, err := time.ParseDuration(cmd[1])
		if err != nil {
			s.t.Fatal(err)
		}
		stuck, slept, old := "", time.Duration(0), Beat{}
		for _, arg := range cmd[2:] {
			switch name, value, _ := strings.Cut(arg, "="); name {
			case "stuck":
				stuck = "," + value + ","
			case "slept":
				slept, _ = time.ParseDuration(value)
			case "old":
				old.Oldest, _ = time.ParseDuration(value)
				old.OldestIs = "GET /report"
			case "wait":
				old.SchedWait, _ = time.ParseDuration(value)
			}
		}
		for until := s.now.Add(d); s.now.Before(until); {
			s.pass(s.now.Add(100 * time.Millisecond))
			var list []Beat
			for _, l := range s.fleet.Snapshot().Lives {
				if s.beaten[l.ID].IsZero() || !strings.Contains(stuck, fmt.Sprintf(",%d,", l.ID)) {
					s.beaten[l.ID] = s.now
				}
				b := Beat{Life: l.ID, Age: s.now.Sub(s.beaten[l.ID]), Requests: uint64(s.now.Sub(l.ReadyAt) / (100 * time.Millisecond))}
				if l.ID == 1 {
					b.Oldest, b.OldestIs, b.SchedWait = old.Oldest, old.OldestIs, old.SchedWait
				}
				list = append(list, b)
			}
			s.step(Beats{list, slept})
			slept = 0
		}
	case "until":
		for range 100 {
			for _, l := range s.fleet.Snapshot().Lives {
				if l.State.coming() {
					s.step(Said{l.ID, SaysReady})
				}
			}
			d := s.fleet.Deadline()
			if d.IsZero() || d.Sub(s.now) > 5*time.Second {
				return
			}
			s.pass(d)
		}
	case "lives":
		for _, l := range s.fleet.Snapshot().Lives {
			s.out = append(s.out, fmt.Sprintf("slot %d: life %d, generation %d, %s", l.Slot, l.ID, l.Generation, l.State))
		}
	default:
		s.t.Fatalf("unknown command %q", cmd)
	}
}

// pass lets time pass and meets each deadline.
func (s *script) pass(until time.Time) {
	for {
		d := s.fleet.Deadline()
		if d.IsZero() || d.After(until) {
			break
		}
		s.now = d
		s.step(Tick{})
	}
	s.now = until
}

// step steps the fleet, tells what it does, and answers each Start with a
// process.
func (s *script) step(ev Event) {
	for _, act := range s.fleet.Step(s.now, ev) {
		s.out = append(s.out, fmt.Sprintf("%7.3fs %s", s.now.Sub(s.begun).Seconds(), tell(act)))
		if a, ok := act.(Start); ok {
			s.step(Started{a.Life, 100 + int(a.Life), s.foreign, s.tells})
		}
	}
}

func tell(act Action) string {
	switch a := act.(type) {
	case Start:
		return fmt.Sprintf("start life %d in slot %d, generation %d", a.Life, a.Slot, a.Generation)
	case Retire:
		if a.Final {
			return fmt.Sprintf("retire life %d of slot %d for good", a.Life, a.Slot)
		}
		return fmt.Sprintf("retire life %d of slot %d", a.Life, a.Slot)
	case Kill:
		if a.Dump {
			return fmt.Sprintf("kill life %d of slot %d, which is to print its goroutines first: %s", a.Life, a.Slot, a.Why)
		}
		return fmt.Sprintf("kill life %d of slot %d: %s", a.Life, a.Slot, a.Why)
	case Mute:
		return "refuse new connections"
	case Release:
		return "close the sockets"
	case Finish:
		return fmt.Sprintf("finish with exit code %d: %s", a.Code, a.Why)
	case BecameReady:
		if a.Taken {
			return fmt.Sprintf("· life %d of slot %d is taken for ready", a.Life, a.Slot)
		}
		return fmt.Sprintf("· life %d of slot %d is ready", a.Life, a.Slot)
	case Death:
		kind, next := "died", "no successor is needed"
		if a.Planned {
			kind = "left"
		}
		if a.Next >= 0 {
			next = "successor in " + a.Next.Round(time.Millisecond).String()
		}
		if a.Early {
			kind += " early"
		}
		return fmt.Sprintf("· life %d of slot %d %s: %s; %s", a.Life, a.Slot, kind, a.Exit, next)
	case Foster:
		if a.On {
			return fmt.Sprintf("life %d of slot %d accepts for slot %d too", a.Life, a.Slot, a.Of)
		}
		return fmt.Sprintf("life %d of slot %d accepts for slot %d no more", a.Life, a.Slot, a.Of)
	case Steer:
		return fmt.Sprintf("new connections go to slots %v", a.Slots)
	case Late:
		return fmt.Sprintf("· life %d of slot %d is late: no heartbeat for %s", a.Life, a.Slot, a.Age)
	case Recovered:
		return fmt.Sprintf("· life %d of slot %d beats again", a.Life, a.Slot)
	case Recycle:
		return fmt.Sprintf("· life %d of slot %d is to be replaced: %s", a.Life, a.Slot, a.Why)
	case Suspect:
		return fmt.Sprintf("· the master stood still for %s", a.Gap)
	case RolledBack:
		return fmt.Sprintf("· back from generation %d to %d: %s", a.From, a.To, a.Why)
	case Verdict:
		if a.Err != "" {
			return fmt.Sprintf("verdict: generation %d failed: %s", a.Generation, a.Err)
		}
		return fmt.Sprintf("verdict: generation %d serves", a.Generation)
	case Replaced:
		if a.Err != "" {
			return fmt.Sprintf("slot %d was not replaced: %s", a.Slot, a.Err)
		}
		return fmt.Sprintf("slot %d was replaced", a.Slot)
	case Scaled:
		if a.Err != "" {
			return fmt.Sprintf("there are not %d workers: %s", a.Workers, a.Err)
		}
		return fmt.Sprintf("there are %d workers", a.Workers)
	case Objection:
		return fmt.Sprintf("· life %d of slot %d: %s", a.Life, a.Slot, a.Why)
	}
	return fmt.Sprintf("%T%+v", act, act)
}

// No app, however broken, makes the master fork without end: all slots die at
// their start, though one life was ready once. Each slot's own backoff allows
// seven starts in ten seconds (at once twice, then after 25, 100, 400, 1600 and
// 5000 ms), the herd's floor twenty.
func TestForksOfABrokenAppAreBounded(t *testing.T) {
	for workers := 1; workers <= 64; workers++ {
		f := New(Policy{}, Want{Workers: workers, Generation: 1})
		now := time.Unix(0, 0)
		broken := false
		starts := 0
		var step func(Event)
		step = func(ev Event) {
			for _, act := range f.Step(now, ev) {
				if a, ok := act.(Start); ok {
					starts++
					step(Started{Life: a.Life, PID: 1})
					if broken {
						step(Exited{Life: a.Life, Exit: Exit{Code: 1}})
					} else {
						step(Said{a.Life, SaysReady})
					}
				}
			}
		}
		step(Tick{})
		now = now.Add(time.Minute)
		broken, starts = true, 0
		for id := range workers {
			step(Exited{Life: LifeID(id + 1), Exit: Exit{Code: 1}})
		}
		for end := now.Add(10 * time.Second); f.Deadline().Before(end); {
			now = f.Deadline()
			step(Tick{})
		}
		most := 20 + 7*workers
		if starts > most {
			t.Errorf("%d workers: %d starts in 10 s, want at most %d", workers, starts, most)
		} else {
			t.Logf("%d workers: %d starts in 10 s (at most %d)", workers, starts, most)
		}
	}
}
