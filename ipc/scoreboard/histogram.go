package scoreboard

import (
	"math/bits"
	"time"
)

// Buckets is how many buckets a Histogram has.
const Buckets = 108

// Histogram counts durations in fixed log-linear buckets: four for each power
// of two of a microsecond, so that a bucket is at most a quarter wider than its
// lower bound. The last holds all from about a minute on.
type Histogram [Buckets]uint64

// bucket is where a duration of ns nanoseconds is counted.
func bucket(ns int64) int {
	us := uint64(max(0, ns)) / 1000
	if us < 4 {
		return int(us)
	}
	exp := bits.Len64(us) - 1            // at least 2
	sub := int(us>>(exp-2)) & 3          // the two bits below the highest
	return min((exp-1)*4+sub, Buckets-1) // 4 follows the four of below 4 µs
}

// UpperBound is the duration below which everything in bucket i is; the last
// bucket has none, and returns the largest duration.
func UpperBound(i int) time.Duration {
	if i >= Buckets-1 {
		return 1<<63 - 1
	}
	if i < 4 {
		return time.Duration(i+1) * time.Microsecond
	}
	exp, sub := i/4+1, i%4
	return time.Duration((uint64(4+sub)+1)<<(exp-2)) * time.Microsecond
}

// Quantile is the upper bound of the bucket in which the q-th part of all
// durations ends, q from 0 to 1; 0 when there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	var total uint64
	for _, n := range h {
		total += n
	}
	if total == 0 {
		return 0
	}
	rank := uint64(q * float64(total))
	var seen uint64
	for i, n := range h {
		seen += n
		if seen > rank || seen == total {
			return UpperBound(i)
		}
	}
	return 0
}
