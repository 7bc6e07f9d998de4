package engine

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"drover/config"
	"drover/ipc/scoreboard"
)

// tracker knows an engine's open connections: it counts and bounds them, sweeps
// out what is overdue, and closes them in a drain.
type tracker struct {
	board  *scoreboard.Board
	limits config.HTTP // with its defaults; -1 is off
	byHand bool        // the engine says the phases itself, and has its own read limits

	// clock is coarse: ns since base at the last sweep. Limits are kept within a
	// sweep's time, and a request costs no reading of a clock.
	clock atomic.Int64
	base  time.Time

	mu       sync.Mutex
	room     *sync.Cond // signalled when a connection closes
	conns    map[*conn]struct{}
	sweeping bool
}

// sweepEvery is how late a limit may be noticed.
const sweepEvery = 250 * time.Millisecond

func newTracker(byHand bool) *tracker {
	t := &tracker{byHand: byHand, base: time.Now(), conns: map[*conn]struct{}{}, limits: config.HTTP{}.WithDefaults(), board: scoreboard.Private()}
	t.room = sync.NewCond(&t.mu)
	return t
}

// listener accepts connections for a tracker.
type listener struct {
	net.Listener
	t *tracker
}

// Accept waits while the tracker has as many connections as are allowed: the
// others stay in the kernel's queue.
func (l *listener) Accept() (net.Conn, error) {
	l.t.awaitRoom()
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
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

func (t *tracker) awaitRoom() {
	most := t.limits.Connections
	if most <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.conns) >= most {
		t.room.Wait()
	}
}

// add begins to track a connection, and wakes the sweeper when it sleeps.
func (t *tracker) add(inner net.Conn) *conn {
	c := &conn{Conn: inner, t: t}
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
	return c
}

func (t *tracker) remove(c *conn) {
	t.board.Closed()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
	t.room.Signal()
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
	for range ticker.C {
		now := t.tick()
		t.mu.Lock()
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
			switch phase(c.phase.Load()) {
			case elsewhere:
				continue // its handler watches Draining
			case idle:
				c.expireRead()
			case fresh:
				if time.Since(begun) > freshPatience {
					c.expireRead()
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
		c.Close()
	}
}
