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
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"drover/internal/sys"
)

// Poller wakes the goroutines that wait for its connections and listeners, and has
// parked connections resumed. A worker has one.
//
// Its goroutines, the hands, are all alike. One at a time polls: it reads the epoll
// instance. What is parked and may go on is queued, and whichever hand is free takes
// the next. So a single one does everything, with all that it needs still in the
// processor's cache, as long as nothing that it resumes has to wait; and if something
// does, another has been called already, and goes on with the rest. One more goroutine
// looks, while there are deadlines, for those that have passed.
type Poller struct {
	fd    int
	file  *os.File // owns fd; registered in the runtime's poller
	raw   syscall.RawConn
	ended sync.WaitGroup

	mu       sync.Mutex
	sockets  []*socket // by descriptor: those that may wait
	given    uint32    // generations so far
	sweeping bool
	over     bool
	closed   chan struct{}

	queue   []Resumer     // what may go on, from next on
	next    int           // in queue
	polling bool          // a hand does
	called  bool          // a hand is about to look what there is to do
	free    int           // hands that wait to be called
	call    chan struct{} // has room for one; called says whether it is taken

	// The polling hand's:
	look   func(uintptr) bool
	events sys.Events
	n      int  // of events
	taken  int  // events since the runtime's own poller had its turn
	again  int  // is always readable, and so makes an event when one is wanted
	wanted bool // that event is to come

	deadlines atomic.Int64 // how many are set and have not come
}

// Resumer is what a parked connection goes on by.
type Resumer interface {
	// Resume is called by a goroutine of the poller, and may wait.
	Resume()
}

// NewPoller makes a poller. The caller closes it when nobody waits any more, and
// nothing is parked.
func NewPoller() (*Poller, error) {
	fd, err := sys.Epoll()
	if err != nil {
		return nil, fmt.Errorf("make a poller: %w", err)
	}
	p := &Poller{
		fd: fd, file: os.NewFile(uintptr(fd), "epoll"),
		closed: make(chan struct{}), call: make(chan struct{}, 1), again: -1,
	}
	p.look = p.lookNow
	if err := p.open(); err != nil {
		p.file.Close()
		return nil, fmt.Errorf("make a poller: %w", err)
	}
	p.called = true
	p.ended.Go(p.work)
	return p, nil
}

// nobody is the data of an event that is no socket's.
const nobody = math.MaxUint32

func (p *Poller) open() (err error) {
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return err
	}
	if p.again, err = sys.Readable(); err != nil {
		return err
	}
	if errno := sys.EpollAdd(p.fd, p.again, sys.EpollIn|sys.EpollEdge, nobody); errno != 0 {
		sys.Close(p.again)
		return os.NewSyscallError("epoll_ctl", errno)
	}
	p.wanted = true
	return nil
}

// Close ends the poller's goroutines, and waits for them, and for what they have
// resumed. Whoever still waits for one of its sockets waits until that is closed.
func (p *Poller) Close() {
	p.mu.Lock()
	p.over = true
	close(p.closed)
	close(p.call)
	p.mu.Unlock()
	p.file.Close()
	p.ended.Wait()
	sys.Close(p.again)
}

// spareHands is how many hands may wait to be called. When many that had to wait are
// done with it, the others end.
const spareHands = 8

// work is a hand: it was called.
func (p *Poller) work() {
	p.mu.Lock()
	p.called = false
	for !p.over {
		switch {
		case p.next < len(p.queue):
			r := p.queue[p.next]
			p.queue[p.next] = nil
			if p.next++; p.next == len(p.queue) {
				p.queue, p.next = p.queue[:0], 0
			}
			p.callHand()
			p.mu.Unlock()
			r.Resume()
			p.mu.Lock()
		case !p.polling:
			p.polling = true
			p.mu.Unlock()
			p.poll()
			p.mu.Lock()
			p.polling = false
		case p.free == spareHands:
			p.mu.Unlock()
			return
		default:
			p.free++
			p.mu.Unlock()
			<-p.call
			p.mu.Lock()
			p.called = false
		}
	}
	p.mu.Unlock()
}

// callHand has one more hand look what there is to do, which on one processor is when
// this one waits. p.mu is held.
func (p *Poller) callHand() {
	switch {
	case p.called || p.over:
		return
	case p.free > 0:
		p.free--
		p.call <- struct{}{}
	default:
		p.ended.Go(p.work)
	}
	p.called = true
}

// resume queues what is parked no more. p.mu is held.
func (p *Poller) resume(r Resumer) {
	p.queue = append(p.queue, r)
	p.callHand()
}

// maxTaken is how many events are taken without waiting, while there is always more.
// Then everybody else has a turn, and the runtime's own poller, which serves the
// application's connections to others: every millisecond or so.
const maxTaken = 128

// poll waits until something has happened, wakes who waits for it, and queues what
// was parked. Only the polling hand calls it.
func (p *Poller) poll() {
	p.n = 0
	_ = p.raw.Read(p.look) // it fails once the file is closed
	woken := false
	p.mu.Lock()
	for i := range p.n {
		e := p.events.At(i)
		if e.Data == nobody {
			p.wanted = false
			continue
		}
		fd := int(uint32(e.Data))
		// The descriptor may be another socket's by now.
		if s := p.sockets[fd]; s != nil && s.generation == uint32(e.Data>>32) {
			woken = s.happened(e.Events) || woken
		}
	}
	p.mu.Unlock()
	if woken {
		runtime.Gosched() // to them; and see what their clients say next
	}
}

// lookNow takes what has happened, and reports whether anything has: else it is called
// again when something does, as the runtime's poller has it.
func (p *Poller) lookNow(uintptr) bool {
	// What is there already is no news to the runtime's poller, and one more event is
	// none either while the last is still to be taken, behind many others.
	if p.taken >= maxTaken && !p.wanted {
		p.taken, p.wanted = 0, true
		sys.EpollAnew(p.fd, p.again, sys.EpollIn|sys.EpollEdge, nobody)
		return false
	}
	p.n = sys.EpollNow(p.fd, &p.events)
	if p.taken += p.n; p.n == 0 {
		p.taken = 0
	}
	return p.n > 0
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
