package usage

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestMeasureOwnProcess(t *testing.T) {
	var m Meter
	u, ok := m.Measure([]int{os.Getpid()})[os.Getpid()]
	if !ok || u.RSSBytes < 1<<20 || u.RSSBytes > 1<<40 || u.CPUPercent < 0 {
		t.Errorf("own process: %+v, %v", u, ok)
	}
}

// A process that is gone takes nothing, and is forgotten.
func TestMeasureOneThatIsGone(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	var m Meter
	if _, ok := m.Measure([]int{pid})[pid]; !ok {
		t.Error("a living process was not found")
	}
	cmd.Process.Kill()
	cmd.Wait()
	if u, ok := m.Measure([]int{pid})[pid]; ok {
		t.Errorf("a process that is gone takes %+v", u)
	}
	if len(m.last) != 0 {
		t.Errorf("it is remembered: %+v", m.last)
	}
}

// The status may be asked for often: nothing is opened that stays open.
func TestMeasureOpensNothing(t *testing.T) {
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	var m Meter
	m.Measure([]int{os.Getpid()})
	before := open()
	for range 100 {
		m.Measure([]int{os.Getpid()})
	}
	if after := open(); after > before {
		t.Errorf("%d descriptors are open, %d before 100 measures", after, before)
	}
}

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		cpu  float64
		span float64 // seconds
		want float64
	}{{0, 1, 0}, {1, 1, 100}, {3, 2, 150}, {1, 0, 0}, {-1, 1, 0}} {
		if got := percent(c.cpu, seconds(c.span)); got != c.want {
			t.Errorf("%v s of CPU in %v s: %v %%, want %v", c.cpu, c.span, got, c.want)
		}
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func TestDescriptors(t *testing.T) {
	before := Descriptors(os.Getpid())
	if before == 0 {
		t.Skip("this kernel does not tell")
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n := Descriptors(os.Getpid()); n != before+1 {
		t.Errorf("%d descriptors, then one more: %d", before, n)
	}
	if n := Descriptors(-1); n != 0 {
		t.Errorf("no process has %d", n)
	}
}
