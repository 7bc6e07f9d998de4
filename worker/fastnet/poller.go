// Package fastnet is a listener and connections that never enter the Go
// scheduler for a system call, from accept to close.
//
// A worker runs on one P. Whenever it has nothing to do the runtime's monitor
// thread falls asleep, and the next system call that tells the scheduler of
// itself wakes it, to poll on the worker's own CPU: with stock connections that
// was a third of a loaded worker's time. Here sockets are non-blocking, and are
// read, written, accepted and closed by raw calls. What would block waits for a
// Poller: an edge-triggered epoll instance of its own, which is itself registered
// in the runtime's poller, so that the goroutine that reads it parks like any
// other.
package fastnet

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"drover/internal/sys"
)

// Poller wakes the goroutines that wait for its connections and listeners. A
// worker has one. It has two goroutines: one reads the epoll instance; one, while
// there are deadlines, looks for those that have passed.
type Poller struct {
	fd    int
	file  *os.File // owns fd; registered in the runtime's poller
	raw   syscall.RawConn
	ended sync.WaitGroup

	mu       sync.Mutex
	sockets  []*socket // by descriptor: those that may wait
	given    uint32    // generations so far
	sweeping bool
	closed   chan struct{}

	deadlines atomic.Int64 // how many are set and have not come
}

// NewPoller makes a poller. The caller closes it when nobody waits any more.
func NewPoller() (*Poller, error) {
	fd, err := sys.Epoll()
	if err != nil {
		return nil, fmt.Errorf("make a poller: %w", err)
	}
	p := &Poller{fd: fd, file: os.NewFile(uintptr(fd), "epoll"), closed: make(chan struct{})}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.file.Close()
		return nil, fmt.Errorf("make a poller: %w", err)
	}
	p.ended.Go(p.run)
	return p, nil
}

// Close ends the poller's goroutines, and waits for them. Whoever still waits for
// one of its sockets waits until that is closed.
func (p *Poller) Close() {
	p.mu.Lock()
	close(p.closed)
	p.mu.Unlock()
	p.file.Close()
	p.ended.Wait()
}

// rounds is how often run looks again at once while there is always more. The
// runtime's own poller has its turn after that: it serves the application's
// connections to others.
const rounds = 8

// run wakes goroutines until the poller is closed.
func (p *Poller) run() {
	events := new(sys.Events)
	var wake []*socket // reused
	what := make([]uint32, len(events))
	_ = p.raw.Read(func(uintptr) bool { // it returns once the file is closed
		for range rounds {
			n := sys.EpollNow(p.fd, events)
			if n == 0 {
				break
			}
			wake = wake[:0]
			p.mu.Lock()
			for i := range n {
				e := events.At(i)
				// The descriptor may be another socket's by now.
				if s := p.sockets[uint32(e.Data)]; s != nil && s.generation == uint32(e.Data>>32) {
					what[len(wake)] = e.Events
					wake = append(wake, s)
				}
			}
			p.mu.Unlock()
			for i, s := range wake {
				s.happened(what[i])
			}
			clear(wake)
			runtime.Gosched() // to those that were woken; and see what their clients say next
		}
		return false
	})
}

// register has the poller report what happens to a socket, whose events will be
// those that are not there yet as well as those that are.
func (p *Poller) register(s *socket) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.sockets) <= s.fd {
		p.sockets = append(p.sockets, nil)
	}
	p.given++
	s.generation = p.given
	p.sockets[s.fd] = s
	const events = sys.EpollIn | sys.EpollOut | sys.EpollPeerHup | sys.EpollEdge
	errno := sys.EpollAdd(p.fd, s.fd, events, uint64(uint32(s.fd))|uint64(s.generation)<<32)
	if errno != 0 {
		p.sockets[s.fd] = nil
		return os.NewSyscallError("epoll_ctl", errno)
	}
	return nil
}

// forget takes a socket back that is about to be closed. A listener's goes on
// elsewhere, and would go on to be reported.
func (p *Poller) forget(s *socket, elsewhere bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sockets[s.fd] == s {
		p.sockets[s.fd] = nil
	}
	if elsewhere {
		sys.EpollRemove(p.fd, s.fd)
	}
}

// sweepEvery is how late a deadline may be noticed that is a second or more away.
const sweepEvery = time.Second

// limit takes note of a deadline more, and begins to sweep where nobody does.
func (p *Poller) limit() {
	if p.deadlines.Add(1) > 1 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
		return
	default:
	}
	if !p.sweeping {
		p.sweeping = true
		p.ended.Go(p.sweep)
	}
}

// sweep ends the waiting of those whose deadline has passed, while there are
// deadlines at all.
func (p *Poller) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.closed:
			return
		}
		now := time.Now().UnixNano()
		p.mu.Lock()
		if p.deadlines.Load() == 0 {
			p.sweeping = false
			p.mu.Unlock()
			return
		}
		for _, s := range p.sockets {
			if s != nil {
				s.expire(&s.in, now)
				s.expire(&s.out, now)
			}
		}
		p.mu.Unlock()
	}
}
