package fastnet

import (
	"net"
	"os"
	"syscall"

	"drover/internal/sys"
)

// Listener accepts connections of one socket.
type Listener struct {
	socket
	address net.Addr
}

// Listen makes a listener of a listening, non-blocking socket. It takes the
// descriptor over, but not the socket, which is open under other numbers: Close
// leaves what is queued there.
func (p *Poller) Listen(fd int) *Listener {
	return &Listener{socket: socket{fd: fd, poller: p}, address: sys.BoundTo(fd)}
}

// Accept waits for the next connection. The caller closes it.
func (l *Listener) Accept() (net.Conn, error) {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	c := newConn(l.poller, -1)
	for {
		if err := l.look(&l.in); err != nil {
			return nil, l.failed(err)
		}
		fd, errno := sys.RawAccept(l.fd, &c.peer)
		if errno == 0 {
			c.fd = fd
			return c, nil
		}
		if errno != sys.Again {
			return nil, l.failed(os.NewSyscallError("accept4", errno))
		}
		if err := l.await(&l.in); err != nil {
			return nil, l.failed(err)
		}
	}
}

// AcceptNow takes a connection that is queued on a listening socket, without
// waiting: its error says what the kernel says, EAGAIN that none is. The caller
// closes the connection; the descriptor stays the caller's.
func (p *Poller) AcceptNow(fd int) (*Conn, error) {
	c := newConn(p, -1)
	var errno syscall.Errno
	if c.fd, errno = sys.RawAccept(fd, &c.peer); errno != 0 {
		return nil, os.NewSyscallError("accept4", errno)
	}
	return c, nil
}

// Close ends the accepting: who waits gets net.ErrClosed, and nothing is accepted
// any more when Close returns.
func (l *Listener) Close() error {
	if err := l.close(true); err != nil {
		return l.failed(err)
	}
	return nil
}

// Addr is the address that the socket is bound to.
func (l *Listener) Addr() net.Addr { return l.address }

func (l *Listener) failed(err error) error {
	return &net.OpError{Op: "accept", Net: l.address.Network(), Addr: l.address, Err: err}
}
