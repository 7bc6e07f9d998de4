package secure

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// Cork is a connection below TLS that can hold back what is written to it, to send it
// at once: TLS writes each record by itself, and one answer may have several. Who
// holds must release: nothing else sends what is held. Its methods may be called from
// any goroutine.
type Cork struct {
	net.Conn

	mu    sync.Mutex
	held  *[]byte // of the pool; nil: nothing is held
	holds bool
	err   error // of a write that TLS has taken for done
}

// holdAtMost is from how much on what is held is written, in bytes; then holding goes
// on. It is a record of the largest size: those are worth a write each, and copying
// them is not.
const holdAtMost = 16 << 10

// pool has the memory of what is held. That is only between an answer's first record
// and its last: few have any at a time.
var pool = sync.Pool{New: func() any {
	const overhead = 5 + 256 // of a record (RFC 8446, section 5.2)
	buf := make([]byte, 0, 2*holdAtMost+overhead)
	return &buf
}}

// Hold holds back what is written from now on.
func (c *Cork) Hold() {
	c.mu.Lock()
	c.holds = true
	c.mu.Unlock()
}

// Release writes what was held back, and holds no more.
func (c *Cork) Release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holds = false
	return c.flush()
}

// flush writes what is held. mu is held.
func (c *Cork) flush() error {
	if c.held == nil {
		return c.err
	}
	if c.err == nil {
		_, c.err = c.Conn.Write(*c.held)
	}
	*c.held = (*c.held)[:0]
	pool.Put(c.held)
	c.held = nil
	return c.err
}

func (c *Cork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return 0, c.err
	case !c.holds, c.held == nil && len(p) >= holdAtMost:
		return c.Conn.Write(p)
	case c.held == nil:
		c.held = pool.Get().(*[]byte)
	}
	*c.held = append(*c.held, p...)
	if len(*c.held) >= holdAtMost {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// SetWriteDeadline sets until when a write may last. A deadline that has passed is how
// TLS ends a connection after its last word: what is held goes out before.
func (c *Cork) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		c.last()
	}
	return c.Conn.SetWriteDeadline(t)
}

// last sends what is held, unless a write is under way, which is to be ended.
func (c *Cork) last() {
	if c.mu.TryLock() {
		_ = c.flush() // nobody is left to be told; the next write is
		c.mu.Unlock()
	}
}

// Close closes the connection, after what was held back.
func (c *Cork) Close() error {
	c.last()
	return c.Conn.Close()
}

// CloseWrite ends what is written, after what was held back.
func (c *Cork) CloseWrite() error {
	if err := c.Release(); err != nil {
		return err
	}
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn gives access to the descriptor below.
func (c *Cork) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
