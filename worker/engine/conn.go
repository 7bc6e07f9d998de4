package engine

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"drover/internal/sys"
	"drover/worker/fastnet"
	"drover/worker/secure"
)

// phase is what a connection is doing, as far as its time limits and a drain
// care.
type phase int32

const (
	fresh     phase = iota // accepted, nothing was read; leaves by its first byte
	idle                   // between two requests; leaves by a byte
	header                 // some of a request's header was read
	body                   // the header is complete; more may have to be read before the handler runs
	handling               // the handler runs
	answered               // the handler has returned; its answer is written; leaves by the next read
	elsewhere              // hijacked: no limit is ours any more
)

// conn is a connection with drover's time limits. The engine's goroutine reads
// and writes it; the sweeper looks at its atomics, and makes a read or write
// that is overdue fail by the deadline of the connection below.
type conn struct {
	net.Conn
	t     *tracker
	below net.Conn     // below TLS, where there is TLS between; else Conn
	cork  *secure.Cork // between TLS and below; nil without
	whole bool         // the answer is in memory: its parts wait for each other
	// In plain text fasthttp writes its buffer when it is full, wait bytes, and then the
	// rest: of an answer that is certain to have one, begun waits for it. wait is 0
	// where nothing waits, begun of beginnings.
	wait  int
	begun *[]byte

	// Where serve is not nil, one of many connections keeps no goroutine between two
	// requests: who serves it is told that it has ended (leaving), and serve is called
	// when there is more to read (resumed).
	serve    func(net.Conn)
	leaving  atomic.Bool // the next Close parks it
	resumed  bool        // and has not read anything yet; the reading goroutine's
	requests int         // handled so far; the handling goroutine's

	doing     atomic.Int64 // the phase, and what reading is limited to, as doing makes it
	writeBy   atomic.Int64 // until when a write may last that is under way; 0: none is
	closeOnce sync.Once

	mu      sync.Mutex  // holds expired and the read's deadline together
	expired atomic.Bool // the sweeper or a drain has ended the read

	// Under mu: gone is closed when the client has left, and made by the first who
	// watches; over says that it has.
	gone    chan struct{}
	over    bool
	watched atomic.Bool // somebody watches, and gone is not closed yet

	// The reading goroutine's: until when all of the body is to be there, in ns of the
	// tracker's clock; 0: the body has not begun, or there is no limit.
	wholeBy int64

	guard guard // the reading goroutine's
	// ahead says that the last read was net/http's own while a handler runs, by another
	// goroutine that may still be at it: then the request is read to its end.
	ahead     atomic.Bool
	abandoned atomic.Bool // closed by who does not read

	// The sweeper's: which write it knows, by its limit, and what the client had
	// acknowledged then. Writes with one limit all begin before the clock moves on,
	// and so before the sweeper sees any of them.
	seenWrite int64
	acked     uint64
}

// doing is a phase, and until when a read may last, in ns of the tracker's clock;
// 0 is no limit. One word holds both, since a request changes them twice.
func doing(p phase, by int64) int64 { return by<<phaseBits | int64(p) }

const phaseBits = 3

func (c *conn) phase() (p phase, by int64) {
	now := c.doing.Load()
	return phase(now & (1<<phaseBits - 1)), now >> phaseBits
}

func (c *conn) is(is phase) bool {
	p, _ := c.phase()
	return p == is
}

// enter changes the phase, and what reading is limited to from now on; 0 is no
// limit.
func (c *conn) enter(p phase, limit time.Duration) {
	by := int64(0)
	if limit > 0 {
		by = c.t.until(limit)
	}
	if !c.t.byHand {
		by = c.within(p, limit, by)
	}
	c.doing.Store(doing(p, by))
}

// within is by, or until when all of the body is to be there, if that is sooner.
func (c *conn) within(p phase, limit time.Duration, by int64) int64 {
	switch {
	case p == handling && limit == 0: // nothing is read, and something may be later
		return by
	case p != body && p != handling:
		c.wholeBy = 0
		return by
	case c.wholeBy == 0 && c.t.limits.RequestTimeout > 0:
		c.wholeBy = c.t.until(c.t.limits.RequestTimeout)
	}
	if c.wholeBy > 0 && (by == 0 || c.wholeBy < by) {
		return c.wholeBy
	}
	return by
}

// Read keeps the phases of an engine that reads header and body without saying
// so. An engine that tells its phases by enter has the tracker's byHand set.
func (c *conn) Read(p []byte) (int, error) {
	if !c.t.byHand && c.is(answered) {
		if c.expired.Load() { // meant for an idleness that has ended
			c.unexpireRead()
		}
		if c.guard.inBody() { // the header came with the request before
			c.wholeBy = 0
			c.enter(body, c.t.limits.BodyTimeout)
		} else {
			c.enter(idle, c.t.limits.IdleTimeout)
		}
		if c.cork != nil {
			if err := c.release(); err != nil {
				return 0, err
			}
		}
	}
	streams := !c.t.byHand && c.is(handling) // the handler reads the body itself
	if streams {
		c.enter(handling, c.t.limits.BodyTimeout)
	}
	n, err := c.admitted(p)
	switch {
	case streams:
		c.enter(handling, 0)
	case n > 0 && !c.t.byHand && !c.is(elsewhere): // a whole header, or more of a body
		c.enter(body, c.t.limits.BodyTimeout)
	}
	return n, err
}

// Resume serves on what was parked.
func (c *conn) Resume() {
	c.resumed = true
	c.serve(c)
}

// between reads what a connection that may be parked has between two requests. Where
// that is nothing yet, and there are many, it has come to its end, as far as fasthttp
// knows, whose Close then parks it.
func (c *conn) between(p []byte) (int, error) {
	below := c.below.(*fastnet.Conn)
	var n int
	var err error
	if c.t.tracked.Load() < c.t.crowd {
		n, err = below.Read(p)
	} else {
		var waits bool
		if n, waits, err = below.ReadNow(p); waits {
			c.leaving.Store(true)
			return 0, io.EOF
		}
	}
	if err != nil && c.expired.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		n, err = c.lastChance(p, err, false)
	}
	if n == 0 && c.resumed {
		err = io.EOF // of which there is nothing to be told
	}
	c.resumed = false
	return n, err
}

// park leaves the connection to the poller until there is more to read.
func (c *conn) park() bool {
	if !c.leaving.CompareAndSwap(true, false) || c.abandoned.Load() {
		return false
	}
	return c.below.(*fastnet.Conn).Park(c) == nil
}

// lastChance looks once more before an idle connection is given up: a request
// that has arrived is served. One that has begun, while it was taken for idle,
// goes on. It reads below TLS; of a record a part may have arrived, and the rest is
// waited for as for a header's.
func (c *conn) lastChance(p []byte, timeout error, record bool) (int, error) {
	if now, by := c.phase(); now != idle && now != fresh {
		if c.t.byHand || by != 0 && by <= c.t.clock.Load() {
			return 0, timeout
		}
		c.unexpireRead()
		return c.below.Read(p)
	}
	raw := c.raw()
	if raw == nil {
		return 0, timeout
	}
	n := 0
	err := raw.Control(func(fd uintptr) { n, _ = sys.ReadNow(int(fd), p) })
	if err != nil || n == 0 {
		return 0, timeout
	}
	if record {
		c.enter(header, c.t.limits.HeaderTimeout)
	}
	c.unexpireRead()
	return n, nil
}

// raw gives access to the descriptor, or nil.
func (c *conn) raw() syscall.RawConn {
	sc, ok := c.below.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

func (c *conn) Write(p []byte) (int, error) {
	if c.begun == nil && len(p) == c.wait && c.whole && c.is(answered) {
		c.begun = beginnings.Get().(*[]byte)
		*c.begun = append((*c.begun)[:0], p...)
		return len(p), nil
	}
	c.beginWrite()
	if c.begun != nil {
		return c.goOn(p)
	}
	if c.cork != nil {
		c.cork.Hold()
	}
	n, err := c.Conn.Write(p)
	if c.cork != nil && !(c.whole && c.is(answered)) {
		if sent := c.cork.Release(); err == nil {
			err = sent
		}
	}
	c.writeBy.Store(0)
	return n, err
}

// beginnings are of answers whose rest is about to be written.
var beginnings = sync.Pool{New: func() any { return new([]byte) }}

// goOn writes what was held back of an answer, and p behind it, in one call.
func (c *conn) goOn(p []byte) (int, error) {
	held := len(*c.begun)
	n, err := c.below.(*fastnet.Conn).Writev(*c.begun, p)
	beginnings.Put(c.begun)
	c.begun = nil
	c.writeBy.Store(0)
	return max(0, n-held), err
}

// release sends what of an answer is held back, so that its records go out together.
func (c *conn) release() error {
	c.beginWrite()
	err := c.cork.Release()
	c.writeBy.Store(0)
	return err
}

// ReadFrom sends a file without copying it, where the connection below can.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	rf, ok := c.Conn.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	c.beginWrite()
	n, err := rf.ReadFrom(r)
	c.writeBy.Store(0)
	return n, err
}

func (c *conn) beginWrite() {
	if limit := c.t.limits.WriteTimeout; limit > 0 && !c.is(elsewhere) {
		c.writeBy.Store(c.t.until(limit))
	}
}

// CloseWrite lets net/http close without a reset that would take the answer
// from a client whose request it has not read to its end.
func (c *conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close closes the connection; only the first call counts.
func (c *conn) Close() error {
	if c.serve != nil && c.park() {
		return nil
	}
	err := net.ErrClosed
	c.closeOnce.Do(func() {
		switch {
		case c.is(elsewhere):
			c.t.board.SocketClosed()
		case !c.abandoned.Load() && !c.ahead.Load():
			c.linger()
		}
		c.t.remove(c)
		err = c.Conn.Close()
		c.left()
	})
	return err
}

// abandon closes the connection as it is, and waits for nobody: what is under way is
// cut, and over TLS its client sees that it was, since no word of an end is sent.
func (c *conn) abandon() {
	c.abandoned.Store(true)
	_ = c.below.Close()
	c.Close()
}

// upgraded says that the connection has become something else.
func (c *conn) upgraded() {
	c.t.board.SocketOpened()
	c.enter(elsewhere, 0)
}

// expireRead makes a read fail that waits, or begins, now, if the connection is
// still in phase p.
func (c *conn) expireRead(p phase) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.is(p) {
		c.expired.Store(true)
		_ = c.below.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection
	}
}

func (c *conn) unexpireRead() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired.Store(false)
	_ = c.below.SetReadDeadline(time.Time{}) // as above
}

// handle enters the phase of handling, for an engine that tells its phases. A
// drain that has just taken the connection for idle would end the read by which
// the engine watches for the client's leaving, and so cancel the request.
func (c *conn) handle() {
	c.mu.Lock()
	c.enter(handling, 0)
	c.mu.Unlock()
	if c.expired.Load() {
		c.unexpireRead()
	}
}

// sweep ends what is overdue at the clock's time now. Only the sweeper calls it.
func (c *conn) sweep(now int64) {
	if p, by := c.phase(); by != 0 && by <= now {
		c.expireRead(p)
	}
	if c.watched.Load() && c.hasLeft() {
		c.left()
	}
	by := c.writeBy.Load()
	if by == 0 {
		return
	}
	if by != c.seenWrite {
		c.seenWrite, c.acked = by, c.acknowledged()
	}
	if by > now {
		return
	}
	least := uint64(slowestReader * c.t.limits.WriteTimeout.Seconds())
	if acked := c.acknowledged(); acked > c.acked+least {
		c.acked, c.seenWrite = acked, now+int64(c.t.limits.WriteTimeout)
		c.writeBy.CompareAndSwap(by, c.seenWrite)
		return
	}
	_ = c.below.SetWriteDeadline(time.Unix(1, 0))
}

// slowestReader is how fast a client must take an answer that waits for it, in bytes a
// second: as fast as Apache's mod_reqtimeout has a body be sent (MinRate=500). Who takes
// a few bytes now and then, to keep what serves it busy, makes no progress.
const slowestReader = 500

func (c *conn) acknowledged() (n uint64) {
	if raw := c.raw(); raw != nil {
		_ = raw.Control(func(fd uintptr) { n, _ = sys.Acknowledged(int(fd)) })
	}
	return n
}
