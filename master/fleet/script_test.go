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
//	begin workers=2         start a fleet
//	ready LIFE…             each says that it is ready
//	say LIFE online|leaving|closed
//	exit LIFE [code=N] [signal=N] [err=WHY]
//	reload GENERATION · restart SLOT · scale N · stop · stop-now
//	wait DURATION           let time pass; deadlines are met on the way
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
	t     *testing.T
	fleet *Fleet
	now   time.Time
	begun time.Time
	out   []string
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
		workers := 0
		fmt.Sscanf(cmd[1], "workers=%d", &workers)
		s.fleet = New(Policy{}, Want{Workers: workers, Generation: 1})
		s.begun = time.Unix(0, 0)
		s.now = s.begun
		s.step(Tick{})
	case "ready":
		for i := range cmd[1:] {
			s.step(Said{LifeID(number(i + 1)), SaysReady})
		}
	case "say":
		s.step(Said{LifeID(number(1)), map[string]Word{"online": SaysOnline, "leaving": SaysLeaving, "closed": SaysClosed}[cmd[2]]})
	case "exit":
		e := Exit{}
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
			}
		}
		s.step(Exited{LifeID(number(1)), e})
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
			s.step(Started{a.Life, 100 + int(a.Life)})
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
		return fmt.Sprintf("kill life %d of slot %d: %s", a.Life, a.Slot, a.Why)
	case Mute:
		return "refuse new connections"
	case Release:
		return "close the sockets"
	case Finish:
		return fmt.Sprintf("finish with exit code %d: %s", a.Code, a.Why)
	case BecameReady:
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
	case Objection:
		return fmt.Sprintf("· life %d of slot %d: %s", a.Life, a.Slot, a.Why)
	}
	return fmt.Sprintf("%T%+v", act, act)
}

// No app, however broken, makes the master fork without end: all slots die at
// their start, though one life was ready once. Each slot's own backoff allows ten
// starts in ten seconds (at once twice, then after 25 ms doubling to 3.2 s), the
// herd's floor twenty, and each start by the floor puts the slot's own off.
func TestForksOfABrokenAppAreBounded(t *testing.T) {
	for workers := 1; workers <= 8; workers++ {
		f := New(Policy{}, Want{Workers: workers, Generation: 1})
		now := time.Unix(0, 0)
		broken := false
		starts := 0
		var step func(Event)
		step = func(ev Event) {
			for _, act := range f.Step(now, ev) {
				if a, ok := act.(Start); ok {
					starts++
					step(Started{a.Life, 1})
					if broken {
						step(Exited{a.Life, Exit{Code: 1}})
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
			step(Exited{LifeID(id + 1), Exit{Code: 1}})
		}
		for end := now.Add(10 * time.Second); f.Deadline().Before(end); {
			now = f.Deadline()
			step(Tick{})
		}
		most := 20 + 7*workers
		if workers > 3 {
			most = 10 + 10*workers
		}
		if starts > most {
			t.Errorf("%d workers: %d starts in 10 s, want at most %d", workers, starts, most)
		} else {
			t.Logf("%d workers: %d starts in 10 s (at most %d)", workers, starts, most)
		}
	}
}
