package worker

import (
	"runtime"
	"testing"
	"time"
)

// A goroutine that computes without a pause makes the others wait for up to the
// 10 ms that the runtime gives it.
func TestBeatsThatAreLate(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	var s schedWaits
	for _, ms := range []int{100, 200, 307, 401, 399 + 100} {
		s.beat(at(ms), 100*time.Millisecond)
	}
	if s.worst != 7*time.Millisecond {
		t.Errorf("worst %v, want 7ms", s.worst)
	}
	s.worst = 0
	for _, ms := range []int{1000, 1100, 1201} { // stood still; the ticker goes on from there
		s.beat(at(ms), 100*time.Millisecond)
	}
	if s.worst != 400*time.Millisecond {
		t.Errorf("worst %v, want 400ms", s.worst)
	}
}

func TestSchedWaitShowsALoop(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var waits schedWaits
	wakeUps := func(n int) {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		waits = schedWaits{before: waits.before}
		for range n {
			<-tick.C
			waits.beat(time.Now(), 20*time.Millisecond)
		}
	}
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			if n%1000 == 0 {
				select {
				case <-stop:
					return
				default:
				}
			}
		}
	}()
	var beside time.Duration
	for range 20 { // a tick may come just when the loop is interrupted anyway
		wakeUps(11)
		if beside = waits.last(); beside >= 3*time.Millisecond {
			break
		}
	}
	close(stop)
	<-ended
	if beside < 3*time.Millisecond {
		t.Errorf("beside a loop goroutines wait for %v, want about 10 ms", beside)
	}
	var idle time.Duration
	for range 20 { // other processes may take the processor away
		wakeUps(5)
		if idle = waits.last(); idle < 3*time.Millisecond {
			return
		}
	}
	t.Errorf("without one they wait for %v", idle)
}
