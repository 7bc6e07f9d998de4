package fleet

import (
	"strings"
	"testing"
	"time"
)

// Lives that began together do not reach their limits together: each has its own
// bound, at most a tenth lower. Memory is no matter of time, and has one bound.
func TestLimitsHaveJitter(t *testing.T) {
	f := New(Policy{MaxRequests: 16_000, MaxAge: 160 * time.Minute, MaxMemory: 100 << 20}, Want{Workers: 1})
	begun := time.Unix(1_000_000, 0)
	ages, requests := map[time.Duration]bool{}, map[uint64]bool{}
	for id := LifeID(1); id <= 16; id++ {
		l := &life{id: id, started: begun}
		f.now = begun
		n := uint64(0)
		for f.worn(l, Beat{Requests: n}) == "" {
			n += 10
		}
		age := time.Duration(0)
		for ; f.worn(l, Beat{}) == ""; age += time.Minute {
			f.now = begun.Add(age)
		}
		if n < 14_400 || n > 16_000 || age < 144*time.Minute || age > 161*time.Minute {
			t.Errorf("life %d has bounds of %d requests and %v", id, n, age)
		}
		requests[n], ages[age] = true, true
		f.now = begun
		if f.worn(l, Beat{Memory: 100 << 20}) != "" || !strings.Contains(f.worn(l, Beat{Memory: 100<<20 + 1}), "max_memory") {
			t.Errorf("life %d has another bound of memory", id)
		}
	}
	if len(requests) != 16 || len(ages) != 16 {
		t.Errorf("16 lives have %d bounds of requests and %d of age", len(requests), len(ages))
	}
}

// A beat that is late by less than the host's sleep is nobody's fault; one that
// is late on a host that was awake is.
func TestOnlyAHostThatSleptExcuses(t *testing.T) {
	for _, slept := range []time.Duration{0, time.Hour} {
		f := New(Policy{HangTimeout: time.Second}, Want{Workers: 2, Generation: 1})
		now := time.Unix(1_000_000, 0)
		killed := false
		step := func(ev Event) {
			for _, act := range f.Step(now, ev) {
				_, is := act.(Kill)
				killed = killed || is
			}
		}
		step(Tick{})
		for id := LifeID(1); id <= 2; id++ {
			step(Started{Life: id, PID: int(id)})
			step(Said{id, SaysReady})
		}
		for silent := time.Duration(0); silent <= 1500*time.Millisecond; silent += 100 * time.Millisecond {
			now = now.Add(100 * time.Millisecond)
			list := []Beat{{Life: 1, Age: silent}, {Life: 2}}
			if silent == 900*time.Millisecond {
				step(Beats{list, slept})
				continue
			}
			step(Beats{List: list})
		}
		if killed != (slept == 0) {
			t.Errorf("a host that slept for %v: killed is %v", slept, killed)
		}
	}
}
