package engine

import (
	"context"
	"errors"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"drover/config"
	"drover/ipc/scoreboard"
	"drover/worker/fastnet"
	"drover/worker/secure"
)

// tracker knows an engine's open connections: it counts and bounds them, sweeps
// out what is overdue, and closes them in a drain.
type tracker struct {
	board  *scoreboard.Board
	part   int            // how much of an answer is written before the rest; 0: unknown
	serve  func(net.Conn) // goes on with a connection that was parked; nil: none is
	crowd  int64          // of how many open connections idle ones are parked
	limits config.HTTP    // with its defaults; -1 is off
	byHand bool           // the engine says the phases itself, and has its own read limits
	// draining begins a drain by its closing; nil never closes.
	draining <-chan struct{}

	bounds  bounds                                                 // of the guards
	refused func(c *conn, no *refusal) (status int, answer []byte) // makes the answer of a guard, and counts it
	failed  func(v any, method, path, id string)                   // counts and logs a panic

	// clock is coarse, so that a request costs no reading of one: ns since base,
	// at most sweepEvery ago.
	clock atomic.Int64
	base  time.Time

	room chan struct{} // has a token after a connection closed

	mu       sync.Mutex
	conns    map[*conn]struct{}
	sweeping bool
	tracked  atomic.Int64 // len(conns), for who does not hold mu
}

// crowd is from how many connections on it costs less to park the idle ones. Up to
// there what their goroutines have stays in the processor's cache, and to wake one of
// them is cheaper than to have fasthttp begin anew; with 256 of them it was a fifth
// dearer.
const crowd = 64

// sweepEvery is how often limits are looked at; with more than fewConns open
// connections a third as often, since idle ones shall cost nothing. A limit is
// never kept too early, and at most a second too late.
const (
	sweepEvery = 250 * time.Millisecond
	fewConns   = 1000
)

func newTracker(byHand bool) *tracker {
	return &tracker{
		byHand: byHand, crowd: crowd, base: time.Now(), conns: map[*conn]struct{}{}, room: make(chan struct{}, 1),
		limits: config.HTTP{}.WithDefaults(), board: scoreboard.Private(),
		bounds: bounds{header: 16 << 10, body: math.MaxInt64}, refused: plainRefusal,
	}
}

// listener accepts connections for a tracker.
type listener struct {
	net.Listener
	t *tracker
	// encrypt begins TLS over a connection, and to track it; nil is plain text.
	encrypt func(net.Conn) net.Conn
}

// listen gives l to a tracker. Where its connections are encrypted, that is left to
// the engine: over is given keys and the connection below.
func (t *tracker) listen(l net.Listener, over func(*secure.Keys, net.Conn) net.Conn) *listener {
	if s, ok := l.(*secure.Listener); ok {
		return &listener{s.Listener, t, func(c net.Conn) net.Conn { return over(s.Keys, c) }}
	}
	return &listener{l, t, nil}
}

// Accept waits while the tracker has as many connections as are allowed: the
// others stay in the kernel's queue.
func (l *listener) Accept() (net.Conn, error) {
	l.t.awaitRoom()
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if l.encrypt != nil {
		return l.encrypt(c), nil
	}
	return l.t.add(c), nil
}

// Close closes the listener. Closed already, as drover's are before an engine's
// own Shutdown closes them once more, it is no error.
func (l *listener) Close() error {
	if err := l.Listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// awaitRoom waits until there may be one more connection, or a drain begins.
func (t *tracker) awaitRoom() {
	most := t.limits.Connections
	if most <= 0 {
		return
	}
	for {
		open := t.open()
		if open < most-1 {
			t.makeRoom() // another listener may wait for the token that we took
		}
		if open < most {
			return
		}
		select {
		case <-t.room:
		case <-t.draining:
			return
		}
	}
}

func (t *tracker) open() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.conns)
}

// makeRoom wakes one listener that waits for room.
func (t *tracker) makeRoom() {
	select {
	case t.room <- struct{}{}:
	default: // a token is there already
	}
}

// add begins to track a connection.
func (t *tracker) add(c net.Conn) *conn {
	added := &conn{Conn: c, below: c}
	if _, fast := c.(*fastnet.Conn); fast {
		added.wait, added.serve = t.part, t.serve
	}
	return t.track(added)
}

// track begins to track a connection, and wakes the sweeper when it sleeps.
func (t *tracker) track(c *conn) *conn {
	c.t = t
	if !guarding {
		c.guard.at = unguarded
	}
	t.board.Accepted()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.sweeping {
		t.sweeping = true
		t.tick()
		go t.sweep()
	}
	if !t.byHand {
		c.enter(fresh, t.limits.HeaderTimeout)
	}
	t.conns[c] = struct{}{}
	t.tracked.Store(int64(len(t.conns)))
	return c
}

func (t *tracker) remove(c *conn) {
	t.board.Closed()
	t.mu.Lock()
	delete(t.conns, c)
	t.tracked.Store(int64(len(t.conns)))
	t.mu.Unlock()
	t.makeRoom()
}

func (t *tracker) isDraining() bool {
	select {
	case <-t.draining:
		return true
	default:
		return false
	}
}

// until is when a limit that begins now is over, by the clock that is behind.
func (t *tracker) until(limit time.Duration) int64 {
	return t.clock.Load() + int64(sweepEvery+limit)
}

func (t *tracker) tick() int64 {
	now := int64(time.Since(t.base))
	t.clock.Store(now)
	return now
}

// sweep runs while there are connections, so that an idle worker does nothing.
func (t *tracker) sweep() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for n := 0; ; n++ {
		<-ticker.C
		now := t.tick()
		t.mu.Lock()
		if len(t.conns) > fewConns && n%3 != 0 {
			t.mu.Unlock()
			continue
		}
		for c := range t.conns {
			c.sweep(now)
		}
		if len(t.conns) == 0 {
			t.sweeping = false
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
	}
}

// freshPatience is what a connection that has sent nothing gets in a drain.
const freshPatience = time.Second

// drain closes idle connections and waits until none is left, at most until ctx
// ends; then it closes them all and returns ctx's error.
func (t *tracker) drain(ctx context.Context) error {
	begun := time.Now()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		t.mu.Lock()
		left := 0
		for c := range t.conns {
			switch p, _ := c.phase(); p {
			case elsewhere:
				continue // its handler watches Draining
			case idle:
				c.expireRead(idle)
			case fresh:
				if time.Since(begun) > freshPatience {
					c.expireRead(fresh)
				}
			}
			left++
		}
		t.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.closeAll()
			return ctx.Err()
		}
	}
}

func (t *tracker) closeAll() {
	t.mu.Lock()
	conns := make([]*conn, 0, len(t.conns))
	for c := range t.conns {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	for _, c := range conns {
		c.abandon()
	}
}
