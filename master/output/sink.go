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
	queue  chan []byte
	reopen chan struct{} // has room for one
	done   chan struct{}

	mu      sync.Mutex // many goroutines log
	dropped int
	closed  bool
}

// sinkLines bounds a sink's queue, in writes: one log line each.
const sinkLines = 4096

// NewSink starts a sink for w, which stays the caller's unless it is a *File. Close
// ends it.
func NewSink(w io.Writer) *Sink {
	s := &Sink{queue: make(chan []byte, sinkLines), reopen: make(chan struct{}, 1), done: make(chan struct{})}
	file, _ := w.(*File)
	go func() {
		defer close(s.done)
		for {
			select {
			case line, more := <-s.queue:
				if !more {
					file.close()
					return
				}
				// An error here, such as EPIPE, has nowhere to be told; a File tells its own.
				_, _ = w.Write(line)
			case <-s.reopen:
				file.reopen()
			}
		}
	}()
	return s
}

// Reopen has a file opened anew by its path, soon: it may have been moved away. Of
// another sink it does nothing.
func (s *Sink) Reopen() {
	select {
	case s.reopen <- struct{}{}:
	default: // it is going to be
	}
}

// Sinks is a writer to each of several.
type Sinks []*Sink

// Write queues one line for each, and never fails.
func (s Sinks) Write(line []byte) (int, error) {
	for _, one := range s {
		_, _ = one.Write(line)
	}
	return len(line), nil
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
