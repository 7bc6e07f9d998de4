package fastnet

import (
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"drover/internal/sys"
)

// Conn is a stream connection. It is a net.Conn as package net's own are: its
// methods may be called from any goroutine, and Close ends reads and writes that
// wait, with net.ErrClosed. A deadline that is a second or more away is noticed up
// to a second late.
type Conn struct {
	socket
	drained bool // the last read took all that there was; in.mu holds it
	peer    sys.SocketAddress
	local   net.Addr // nil: to be asked for
}

// newConn takes over a non-blocking descriptor.
func newConn(p *Poller, fd int) *Conn {
	return &Conn{socket: socket{fd: fd, poller: p}}
}

// Read reads what is there, and waits only where nothing is.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.in.mu.Lock()
	n, err := c.read(p)
	c.in.mu.Unlock()
	if err != nil && err != io.EOF {
		return n, c.failed("read", err)
	}
	return n, err
}

// ReadNow is a Read that waits for nothing: waits says that it would have to.
func (c *Conn) ReadNow(p []byte) (n int, waits bool, err error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	if c.wouldWait() && c.in.state.Load() == quiet {
		return 0, true, nil
	}
	if err := c.look(&c.in); err != nil {
		return 0, false, c.failed("read", err)
	}
	n, errno := sys.RawRead(c.fd, p)
	switch {
	case errno == sys.Again:
		return 0, true, nil
	case errno != 0:
		return 0, false, c.failed("read", os.NewSyscallError("read", errno))
	case n == 0:
		return 0, false, io.EOF
	}
	c.drained = n < len(p)
	return n, false, nil
}

// Park has r resumed, once, as soon as a Read would not wait any more: for bytes, the
// end, a deadline that has passed, or since the connection is closed. Nobody reads
// until then; r may be resumed before Park returns. A connection that is closed already,
// with net.ErrClosed, or parked, is not.
func (c *Conn) Park(r Resumer) error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	if err := c.park(&c.in, r); err != nil {
		return c.failed("read", err)
	}
	return nil
}

// wouldWait reports whether nothing is there to be read unless something has happened
// since the last read. What is shorter than asked for was all: the next bytes are a new
// event (epoll(7), the 9th question). But what came with the peer's end was one event
// with it. in.mu is held.
func (c *Conn) wouldWait() bool {
	return c.drained && !c.ended.Load() && c.in.deadline.Load() != passed && !c.closing.Load()
}

func (c *Conn) read(p []byte) (int, error) {
	if c.wouldWait() {
		if err := c.await(&c.in); err != nil {
			return 0, err
		}
	}
	for {
		if err := c.look(&c.in); err != nil {
			return 0, err
		}
		n, errno := sys.RawRead(c.fd, p)
		switch {
		case errno == 0 && n == 0:
			return 0, io.EOF
		case errno == 0:
			c.drained = n < len(p)
			return n, nil
		case errno != sys.Again:
			return 0, os.NewSyscallError("read", errno)
		}
		if err := c.await(&c.in); err != nil {
			return 0, err
		}
	}
}

// Write writes all of p, and waits where the kernel has no room.
func (c *Conn) Write(p []byte) (int, error) {
	c.out.mu.Lock()
	n, err := c.write(p)
	c.out.mu.Unlock()
	if err != nil {
		return n, c.failed("write", err)
	}
	return n, nil
}

func (c *Conn) write(p []byte) (done int, err error) {
	// There is room, nearly always: what has happened since the last look need be
	// known only to who waits.
	if !c.closing.Load() && c.out.deadline.Load() != passed && len(p) > 0 {
		if n, errno := sys.RawWrite(c.fd, p); errno == 0 {
			done = n
		} else if errno != sys.Again {
			return 0, os.NewSyscallError("write", errno)
		}
		if done == len(p) {
			return done, nil
		}
	}
	for {
		if err := c.look(&c.out); err != nil {
			return done, err
		}
		if done == len(p) {
			return done, nil
		}
		n, errno := sys.RawWrite(c.fd, p[done:])
		if errno == 0 {
			if done += n; done == len(p) {
				return done, nil
			}
		} else if errno != sys.Again {
			return done, os.NewSyscallError("write", errno)
		}
		if err := c.await(&c.out); err != nil {
			return done, err
		}
	}
}

// Writev writes all of a and then all of b, in one call where the kernel has room.
func (c *Conn) Writev(a, b []byte) (int, error) {
	c.out.mu.Lock()
	n, err := c.writev(a, b)
	c.out.mu.Unlock()
	if err != nil {
		return n, c.failed("write", err)
	}
	return n, nil
}

func (c *Conn) writev(a, b []byte) (done int, err error) {
	if !c.closing.Load() && c.out.deadline.Load() != passed && len(a) > 0 && len(b) > 0 {
		n, errno := sys.RawWritev(c.fd, a, b)
		if errno != 0 && errno != sys.Again {
			return 0, os.NewSyscallError("writev", errno)
		}
		if errno == 0 {
			done = n
		}
	}
	for i, rest := range [][]byte{a[min(done, len(a)):], b[max(0, done-len(a)):]} {
		if len(rest) == 0 && (i == 0 || done == len(a)+len(b)) {
			continue
		}
		n, err := c.write(rest)
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

// sendAtOnce bounds what one sendfile sends, in bytes, so that one client's file
// does not keep the others waiting.
const sendAtOnce = 1 << 20

// ReadFrom sends a file without copying it, where r is one, or a part of one;
// anything else is copied.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	left := int64(1<<63 - 1)
	source := r
	limited, _ := r.(*io.LimitedReader)
	if limited != nil {
		source, left = limited.R, limited.N
	}
	file, ok := source.(*os.File)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	var sent int64
	var sendErr error
	err = raw.Control(func(fd uintptr) { sent, sendErr = c.sendFile(int(fd), left) })
	if limited != nil {
		limited.N -= sent
	}
	switch {
	case err != nil:
		return sent, err
	case sendErr == syscall.EINVAL && sent == 0: // a kind of file that sendfile does not take
		c.out.mu.Unlock()
		defer c.out.mu.Lock()
		return io.Copy(struct{ io.Writer }{c}, r)
	case sendErr != nil:
		return sent, c.failed("sendfile", sendErr)
	}
	return sent, nil
}

func (c *Conn) sendFile(file int, left int64) (sent int64, err error) {
	for left > 0 {
		if err := c.look(&c.out); err != nil {
			return sent, err
		}
		n, err := sys.SendFile(c.fd, file, int(min(left, sendAtOnce)))
		sent, left = sent+int64(n), left-int64(n)
		switch {
		case sys.IsAgain(err):
			if err := c.await(&c.out); err != nil {
				return sent, err
			}
		case err != nil:
			return sent, err
		case n == 0:
			return sent, nil
		}
	}
	return sent, nil
}

// Close closes the connection: who reads or writes is woken, and done with it
// when Close returns. What was written is still sent.
func (c *Conn) Close() error {
	if err := c.close(false); err != nil {
		return c.failed("close", err)
	}
	return nil
}

// CloseWrite tells the peer that nothing more will come.
func (c *Conn) CloseWrite() error { return c.shutdown(sys.ShutWrite) }

// CloseRead says that nothing more will be read.
func (c *Conn) CloseRead() error { return c.shutdown(sys.ShutRead) }

func (c *Conn) shutdown(how int) error {
	var errno syscall.Errno
	err := c.withControl(func(fd int) { errno = sys.RawShutdown(fd, how) })
	if err == nil && errno != 0 {
		err = os.NewSyscallError("shutdown", errno)
	}
	if err != nil {
		return c.failed("close", err)
	}
	return nil
}

// LocalAddr is the address that the client has connected to.
func (c *Conn) LocalAddr() net.Addr {
	addr := c.local
	if addr == nil {
		_ = c.withControl(func(fd int) { addr = sys.BoundTo(fd) })
	}
	if addr == nil {
		addr = &net.TCPAddr{} // it is closed
	}
	return addr
}

// RemoteAddr is the client's address.
func (c *Conn) RemoteAddr() net.Addr { return c.peer.Addr() }

// SetRemoteAddr is for connections that a proxy has made for its client: who it is.
// It is called before anybody else has the connection.
func (c *Conn) SetRemoteAddr(a netip.AddrPort) { c.peer = sys.SocketAddressOf(a) }

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline ends reads that wait at t, with os.ErrDeadlineExceeded; zero is
// never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.limit(&c.in, t) }

// SetWriteDeadline is likewise for writes.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.limit(&c.out, t) }

func (c *Conn) limit(g *gate, t time.Time) error {
	if err := c.setDeadline(g, t); err != nil {
		return c.failed("set", err)
	}
	return nil
}

func (c *Conn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: c.RemoteAddr().Network(), Source: c.local, Addr: c.RemoteAddr(), Err: err}
}

// SyscallConn gives access to the descriptor, which no function that it is lent
// to may close or make blocking.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return rawConn{c}, nil }

type rawConn struct{ c *Conn }

// Control calls f at once. f must not wait.
func (r rawConn) Control(f func(fd uintptr)) error {
	return r.c.withControl(func(fd int) { f(uintptr(fd)) })
}

// Read calls f again whenever there may be something to read, until it returns
// true.
func (r rawConn) Read(f func(fd uintptr) bool) error { return r.each(&r.c.in, f) }

// Write calls f again whenever there may be room, until it returns true.
func (r rawConn) Write(f func(fd uintptr) bool) error { return r.each(&r.c.out, f) }

func (r rawConn) each(g *gate, f func(fd uintptr) bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g == &r.c.in {
		r.c.drained = false
	}
	for {
		if err := r.c.look(g); err != nil {
			return r.c.failed("raw", err)
		}
		if f(uintptr(r.c.fd)) {
			return nil
		}
		if err := r.c.await(g); err != nil {
			return r.c.failed("raw", err)
		}
	}
}
