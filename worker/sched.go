package worker

import (
	"math"
	"runtime/metrics"
	"slices"
	"time"
)

// schedWaits knows for how long goroutines that could run have waited for a
// processor: as the runtime counts it (runtime/metrics, /sched/latencies), and
// as the heartbeat has felt it. The runtime counts from when it sees that a
// goroutine can run; one that a timer or the network is to wake is seen by no
// processor that is busy with an endless loop, but up to 10 ms later (sysmon's
// forcePreemptNS). Its zero value is ready for use.
type schedWaits struct {
	sample [1]metrics.Sample
	before []uint64  // counts of the last call
	due    time.Time // when the next beat is
	worst  time.Duration
}

// beat notes that a beat, one of each interval, is done at the instant now.
func (s *schedWaits) beat(now time.Time, interval time.Duration) {
	if late := now.Sub(s.due); !s.due.IsZero() && late > 0 {
		s.worst = max(s.worst, late)
		if late > interval {
			s.due = now // a ticker leaves out what it cannot keep
		}
	} else if s.due.IsZero() {
		s.due = now
	}
	s.due = s.due.Add(interval)
}

// last is the wait that 99 of 100 goroutines did not exceed since the last call,
// rounded up to the runtime's buckets, or the worst beat, if that is more.
func (s *schedWaits) last() time.Duration {
	worst := s.worst
	s.worst = 0
	return max(worst, s.p99())
}

func (s *schedWaits) p99() time.Duration {
	s.sample[0].Name = "/sched/latencies:seconds"
	metrics.Read(s.sample[:])
	if s.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0 // this runtime does not count it
	}
	h := s.sample[0].Value.Float64Histogram()
	if len(s.before) != len(h.Counts) {
		s.before = make([]uint64, len(h.Counts))
	}
	var total uint64
	for i, n := range h.Counts {
		total += n - s.before[i]
	}
	var seen uint64
	wait := 0.0
	for i, n := range h.Counts {
		if seen += n - s.before[i]; total > 0 && seen*100 >= total*99 {
			// Bucket i lies between Buckets[i] and Buckets[i+1], of which the last is
			// infinite.
			if wait = h.Buckets[i+1]; math.IsInf(wait, 1) {
				wait = h.Buckets[i]
			}
			break
		}
	}
	s.before = append(s.before[:0], slices.Clone(h.Counts)...)
	return time.Duration(wait * float64(time.Second))
}
