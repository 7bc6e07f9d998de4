package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const rest = " S 7 42 42 0 -1 4194560 900 0 3 0 250 125 9 9 20 0 6 0 98765 1234567 3 18446744073709551615 1 1 0 0\n"
	page := int64(os.Getpagesize())
	want := process{pid: 42, parent: 7, state: 'S', start: 98765, cpu: 3750 * time.Millisecond, rss: 3 * page}
	for _, tt := range []struct {
		line string
		ok   bool
	}{
		{"42 (drover)" + rest, true},
		{"42 (tmux: server)" + rest, true},
		{"42 (a) R 1 (b)" + rest, true},
		{"42 ())" + rest, true},
		{"42 ()" + rest, true},
		{"42 drover" + rest, false},
		{"x (drover)" + rest, false},
		{"42 (drover) S 7 42 42", false},
		{"42 (drover", false},
		{"", false},
	} {
		got, err := parseStat(tt.line)
		if (err == nil) != tt.ok {
			t.Errorf("parseStat(%q): error %v", tt.line, err)
		}
		if tt.ok && got != want {
			t.Errorf("parseStat(%q) = %+v, want %+v", tt.line, got, want)
		}
	}
}

func TestTreeHoldsThisProcess(t *testing.T) {
	for _, root := range []int{os.Getpid(), os.Getppid()} {
		ps, err := tree(root)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(pids(ps), os.Getpid()) {
			t.Errorf("tree(%d) is %v, without this process, %d", root, pids(ps), os.Getpid())
		}
	}
}

func TestDescendants(t *testing.T) {
	all := []process{{pid: 30, parent: 20}, {pid: 1}, {pid: 10, parent: 1}, {pid: 20, parent: 10}, {pid: 11, parent: 1}, {pid: 12, parent: 10}}
	if got, want := pids(descendants(all, 10)), []int{10, 12, 20, 30}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := descendants([]process{{pid: 12, parent: 10}, {pid: 1}}, 99); len(got) != 0 {
		t.Errorf("descendants of nobody: %v", got)
	}
}

func TestSpent(t *testing.T) {
	before := []process{{pid: 1, start: 5, cpu: time.Second}, {pid: 2, start: 6, cpu: time.Second}}
	for _, tt := range []struct {
		name          string
		before, after []process
		want          time.Duration
		ok            bool
	}{
		{"sum of all", before, []process{{pid: 1, start: 5, cpu: 2 * time.Second}, {pid: 2, start: 6, cpu: 4 * time.Second}}, 4 * time.Second, true},
		{"one died", before, before[:1], 0, false},
		{"one was replaced under its pid", before, []process{before[0], {pid: 2, start: 7}}, 0, false},
		{"none", nil, nil, 0, false},
	} {
		got, err := spent(tt.before, tt.after)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
	}
}

// A process's clock counts what it burns, and finer than the ticks of its stat
// line.
func TestClock(t *testing.T) {
	before, err := clock(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	usageBefore, sum := own(), uint64(0)
	for own()-usageBefore < 5*time.Millisecond {
		for i := range uint64(1000) {
			sum += i * sum
		}
	}
	after, err := clock(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	usage := own() - usageBefore
	if d := after - before - usage; d < -time.Millisecond || d > 5*time.Millisecond {
		t.Errorf("the clock went on by %v, getrusage by %v (%d)", after-before, usage, sum)
	}
	if before%tick == 0 && after%tick == 0 {
		t.Errorf("%v and %v are whole ticks", before, after)
	}
}

func TestClockOfNobody(t *testing.T) {
	cmd := exec.Command("/bin/true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if d, err := clock(cmd.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the clock of a process that ended: %v, %v", d, err)
	}
}

func TestParseBusy(t *testing.T) {
	for _, tt := range []struct {
		text string
		want time.Duration
		ok   bool
	}{
		{"cpu  100 10 50 9000 800 3 4 5 60 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n", 1720 * time.Millisecond, true},
		{"cpu  1 0 0 0 0 0 0 0", 10 * time.Millisecond, true},
		{"cpu0 100 10 50 9000 800 3 4 5", 0, false},
		{"cpu  100 10 50", 0, false},
		{"cpu  100 10 x 9000 800 3 4 5", 0, false},
		{"", 0, false},
	} {
		if got, err := parseBusy(tt.text); got != tt.want || (err == nil) != tt.ok {
			t.Errorf("parseBusy(%q) = %v, %v", tt.text, got, err)
		}
	}
}

func TestForeign(t *testing.T) {
	if got := foreign(3*time.Second, 2*time.Second, 2*time.Second, 2); got != 0.25 {
		t.Errorf("1 s of 4: %v", got)
	}
	if got := foreign(2*time.Second, 3*time.Second, 2*time.Second, 2); got != 0 {
		t.Errorf("less than ours: %v", got)
	}
}
