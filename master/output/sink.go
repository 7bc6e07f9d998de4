// Package output is what drover and its workers print: the master's own log,
// the workers' lines, and the promise that neither is ever waited for.
package output

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Sink is a writer in front of one that may block: a terminal on hold, a pipe
// that nobody reads. Write queues and never waits; what does not fit is dropped
// and counted, and the count is written once there is room again.
type Sink struct {
	queue chan []byte
	done  chan struct{}

	mu      sync.Mutex // many goroutines log
	dropped int
	closed  bool
}

// sinkLines bounds a sink's queue, in writes: one log line each.
const sinkLines = 4096

// NewSink starts a sink for w, which stays the caller's. Close ends it.
func NewSink(w io.Writer) *Sink {
	s := &Sink{queue: make(chan []byte, sinkLines), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for line := range s.queue {
			// An error here, such as EPIPE, has nowhere to be told.
			_, _ = w.Write(line)
		}
	}()
	return s
}

// Write queues one line and never fails.
func (s *Sink) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return len(line), nil
	}
	if s.dropped > 0 && len(s.queue) < cap(s.queue)-1 {
		s.queue <- fmt.Appendf(nil, "drover: %d lines were dropped: what reads this output is too slow\n", s.dropped)
		s.dropped = 0
	}
	select {
	case s.queue <- append([]byte(nil), line...):
	default:
		s.dropped++
	}
	return len(line), nil
}

// Close writes what is queued, for at most the given time, and ends the sink.
// Later writes are dropped. When the time is over the goroutine stays behind in
// its blocked write; only a process that ends next may leave it there.
func (s *Sink) Close(atMost time.Duration) {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.queue)
	}
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-time.After(atMost):
	}
}
