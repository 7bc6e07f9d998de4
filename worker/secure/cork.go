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
	held  []byte // empty unless holds
	holds bool
	err   error // of a write that TLS has taken for done
}

const (
	// holdAtMost is how much is held back, in bytes; then it is written, and holding
	// goes on. It is four records of the largest size.
	holdAtMost = 64 << 10
	// keepAtMost bounds the memory that a connection keeps for its next answer, in
	// bytes.
	keepAtMost = 4 << 10
)

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
	if len(c.held) > 0 && c.err == nil {
		_, c.err = c.Conn.Write(c.held)
	}
	if c.held = c.held[:0]; cap(c.held) > keepAtMost {
		c.held = nil
	}
	return c.err
}

func (c *Cork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if !c.holds {
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	if len(c.held) >= holdAtMost {
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
