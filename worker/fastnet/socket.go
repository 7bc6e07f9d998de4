package fastnet

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"drover/internal/sys"
)

// socket is a non-blocking descriptor and those who wait for it.
//
// The descriptor is used under in.mu, out.mu or control, and closed under all
// three: no call ever hits a number that has become another's.
type socket struct {
	fd         int
	poller     *Poller
	generation uint32 // tells it from others that had its number; poller.mu holds it

	in, out gate
	control sync.Mutex  // for calls that neither read nor write
	closing atomic.Bool // closed, or about to be
	ended   atomic.Bool // the peer has, or the connection is broken

	join       sync.Mutex // the first who waits registers it
	registered atomic.Bool
}

// gate is where one direction waits. What has happened is remembered: whoever
// comes to wait after it goes on at once.
type gate struct {
	mu       sync.Mutex // one goroutine reads, or writes, at a time
	state    atomic.Uint32
	bell     chan struct{} // has room for one; made by the first who waits
	deadline atomic.Int64  // Unix ns; 0: none; passed: it has come
	parked   Resumer       // goes on in the state of parks; mu holds it until then
}

const (
	quiet   uint32 = iota // nothing has happened since the last look; leaves by any of the others
	happens               // something has, that the next read or write will find; leaves by a look
	poked                 // a deadline has passed, or the socket closes; leaves by a look, or an event
	waits                 // somebody waits for the bell; leaves by an event, or a poke
	parks                 // nobody waits, and parked is to be resumed; leaves likewise
)

// passed is a deadline that has come.
const passed = 1

// open says that something has happened, and wakes who waits; p.mu is held. It
// reports whether somebody was woken.
func (g *gate) open(p *Poller) (woken bool) {
	if g.state.Load() == happens {
		return false // known, and not looked at yet
	}
	switch g.state.Swap(happens) {
	case waits:
		g.bell <- struct{}{} // there is room: one waits, and is rung for once
		return true
	case parks:
		p.resume(g.parked)
	}
	return false
}

// poke wakes who waits without anything having happened; p.mu is held.
func (g *gate) poke(p *Poller) {
	for {
		switch was := g.state.Load(); {
		case was == happens || was == poked:
			return
		case !g.state.CompareAndSwap(was, poked):
		case was == waits:
			g.bell <- struct{}{}
			return
		case was == parks:
			p.resume(g.parked)
			return
		default:
			return
		}
	}
}

// pass waits until something has happened since the last look.
func (g *gate) pass() {
	if g.state.Load() != quiet {
		return
	}
	if g.bell == nil {
		g.bell = make(chan struct{}, 1)
	}
	if g.state.CompareAndSwap(quiet, waits) {
		<-g.bell
	}
}

// precise is how near a deadline must be to have a timer of its own. One further
// away is noticed by the poller's sweep.
const precise = time.Second

// setDeadline sets until when a read or write may wait; zero is for ever.
func (s *socket) setDeadline(g *gate, t time.Time) error {
	if s.closing.Load() {
		return net.ErrClosed
	}
	var at int64
	var left time.Duration
	if !t.IsZero() {
		if left = time.Until(t); left <= 0 {
			at = passed
		} else {
			at = t.UnixNano()
		}
	}
	was := g.deadline.Swap(at)
	switch {
	case at > passed && was <= passed:
		s.poller.limit()
	case at <= passed && was > passed:
		s.poller.deadlines.Add(-1)
	}
	switch {
	case at == passed:
		s.poke(g)
	case at > passed && left < precise:
		time.AfterFunc(left, func() {
			s.poller.mu.Lock()
			s.expire(g, at)
			s.poller.mu.Unlock()
		})
	}
	return nil
}

// poke is the gate's.
func (s *socket) poke(g *gate) {
	s.poller.mu.Lock()
	g.poke(s.poller)
	s.poller.mu.Unlock()
}

// expire ends the waiting when the deadline has passed at now; poller.mu is held.
func (s *socket) expire(g *gate, now int64) {
	if d := g.deadline.Load(); d > passed && d <= now && g.deadline.CompareAndSwap(d, passed) {
		s.poller.deadlines.Add(-1)
		g.poke(s.poller)
	}
}

// happened takes what the poller reports, and reports whether somebody was woken;
// poller.mu is held.
func (s *socket) happened(events uint32) (woken bool) {
	const bad = sys.EpollErr | sys.EpollHup
	if events&(sys.EpollPeerHup|bad) != 0 {
		s.ended.Store(true)
	}
	if events&(sys.EpollIn|sys.EpollPeerHup|bad) != 0 {
		woken = s.in.open(s.poller)
	}
	if events&(sys.EpollOut|bad) != 0 {
		woken = s.out.open(s.poller) || woken
	}
	return woken
}

// look is to be called before a read or write is tried: what happens from then
// on is remembered. It says why the direction cannot be used, or nil; then what
// has happened is still to be found. The gate's mu is held.
func (s *socket) look(g *gate) (err error) {
	was := g.state.Swap(quiet)
	// In this order: who closes, or lets a deadline pass, says so before it pokes.
	switch {
	case s.closing.Load():
		err = net.ErrClosed
	case g.deadline.Load() == passed:
		err = os.ErrDeadlineExceeded
	}
	if err != nil && was == happens {
		g.state.Store(happens)
	}
	return err
}

// park has r resumed as soon as a read or write may do better than the last, or fails.
// The gate's mu is held.
func (s *socket) park(g *gate, r Resumer) error {
	if s.closing.Load() {
		return net.ErrClosed
	}
	if !s.registered.Load() {
		if err := s.register(); err != nil {
			return err
		}
	}
	if g.state.Load() == parks {
		return errors.New("it is parked already")
	}
	g.parked = r
	if !g.state.CompareAndSwap(quiet, parks) {
		s.poller.mu.Lock()
		s.poller.resume(r)
		s.poller.mu.Unlock()
	}
	return nil
}

// await waits until a read or write may do better than the last. The gate's mu is
// held.
func (s *socket) await(g *gate) error {
	if !s.registered.Load() {
		if err := s.register(); err != nil {
			return err
		}
	}
	g.pass()
	return nil
}

func (s *socket) register() error {
	s.join.Lock()
	defer s.join.Unlock()
	if s.registered.Load() {
		return nil
	}
	if err := s.poller.register(s); err != nil {
		return err
	}
	s.registered.Store(true)
	return nil
}

// close closes the descriptor, once: it wakes who waits, and returns when nobody
// uses it any more. elsewhere says that the socket is open under other numbers.
func (s *socket) close(elsewhere bool) error {
	if s.closing.Swap(true) {
		return net.ErrClosed
	}
	s.poke(&s.in)
	s.poke(&s.out)
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	s.control.Lock()
	defer s.control.Unlock()
	if s.registered.Load() {
		s.poller.forget(s, elsewhere)
	}
	for _, g := range []*gate{&s.in, &s.out} {
		if g.deadline.Swap(0) > passed {
			s.poller.deadlines.Add(-1)
		}
	}
	sys.RawClose(s.fd)
	return nil
}

// withControl calls f with the descriptor, which stays open meanwhile. f must not
// wait.
func (s *socket) withControl(f func(fd int)) error {
	s.control.Lock()
	defer s.control.Unlock()
	if s.closing.Load() {
		return net.ErrClosed
	}
	f(s.fd)
	return nil
}
