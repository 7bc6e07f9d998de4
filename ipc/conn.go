package ipc

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"drover/internal/sys"
)

// Conn is one end of a life's channel. One goroutine may receive while others
// send.
type Conn struct {
	file *os.File // owns the descriptor; gives reads that park in the runtime's poller
	raw  syscall.RawConn
	buf  []byte // Receive's alone
}

// ErrNotReading says that the peer's queue is full because it does not read.
// What was sent is lost; the peer's earlier messages still wait for it.
var ErrNotReading = errors.New("the peer does not read its channel")

// Pair makes a channel: this side's end, and the raw descriptor of the other
// side's, which the caller gives to a process and then closes.
func Pair() (*Conn, int, error) {
	a, b, err := sys.SeqpacketPair()
	if err != nil {
		return nil, -1, fmt.Errorf("make a worker's channel: %w", err)
	}
	return newConn(a), b, nil
}

// Open takes over the descriptor of a channel's end.
func Open(fd int) (*Conn, error) {
	if !sys.IsSeqpacket(fd) {
		return nil, fmt.Errorf("descriptor %d is no channel of drover's: not a SOCK_SEQPACKET socket", fd)
	}
	sys.SetCloexec(fd)
	return newConn(fd), nil
}

// newConn wraps a non-blocking descriptor: os.NewFile then reads through the
// poller and never changes the blocking mode.
func newConn(fd int) *Conn {
	file := os.NewFile(uintptr(fd), "channel")
	raw, err := file.SyscallConn()
	if err != nil {
		panic("ipc: " + err.Error()) // it fails for no file only
	}
	return &Conn{file: file, raw: raw, buf: make([]byte, MaxPacket)}
}

// Send sends a message and descriptors, which stay the caller's. It never
// waits: ErrNotReading says that the peer's queue is full.
func (c *Conn) Send(m Message, fds ...int) error {
	data, err := Encode(m)
	if err != nil {
		return err
	}
	if err := c.send(data, fds); err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	return nil
}

func (c *Conn) send(packet []byte, fds []int) error {
	var sendErr error
	if err := c.raw.Control(func(fd uintptr) { sendErr = sys.SendPacket(int(fd), packet, fds) }); err != nil {
		return err
	}
	if sys.IsAgain(sendErr) {
		return ErrNotReading
	}
	return sendErr
}

// Unread reports whether the peer has yet to read something that was sent.
func (c *Conn) Unread() bool {
	var unread int
	err := c.raw.Control(func(fd uintptr) { unread, _ = sys.Unread(int(fd)) })
	return err == nil && unread > 0
}

// Receive waits for a message. The descriptors are close-on-exec and the
// caller's; a message's Mail is good until the next Receive. Its error is
// io.EOF when the peer's end is closed,
// os.ErrDeadlineExceeded after Hurry once nothing more is queued, os.ErrClosed
// after Close, and else a ProtocolError, after which the channel still works.
func (c *Conn) Receive() (Message, []int, error) {
	var n int
	var fds []int
	var recvErr error
	receive := func(fd uintptr) bool {
		n, fds, recvErr = sys.ReceivePacket(int(fd), c.buf)
		return !sys.IsAgain(recvErr)
	}
	err := c.raw.Read(receive)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// Hurry: take what is queued, without waiting.
		done := false
		if controlErr := c.raw.Control(func(fd uintptr) { done = receive(fd) }); controlErr != nil {
			return Message{}, nil, controlErr
		}
		if !done {
			return Message{}, nil, os.ErrDeadlineExceeded
		}
	} else if err != nil {
		return Message{}, nil, err
	}
	switch {
	case errors.Is(recvErr, sys.ErrEmpty), errors.Is(recvErr, sys.ErrTruncated):
		return Message{}, nil, ProtocolError{recvErr}
	case recvErr != nil:
		return Message{}, nil, recvErr
	}
	m, err := Decode(c.buf[:n])
	if err != nil {
		closeAll(fds)
		return Message{}, nil, ProtocolError{err}
	}
	return m, fds, nil
}

// Hurry makes Receive return what is queued and then fail instead of waiting:
// the peer has exited, and nothing new can come.
func (c *Conn) Hurry() error { return c.file.SetReadDeadline(time.Unix(1, 0)) }

// Close closes this end. A blocked Receive returns os.ErrClosed.
func (c *Conn) Close() error { return c.file.Close() }

// ProtocolError is a packet that no peer of this version would send.
type ProtocolError struct{ Err error }

func (e ProtocolError) Error() string { return e.Err.Error() }
func (e ProtocolError) Unwrap() error { return e.Err }

func closeAll(fds []int) {
	for _, fd := range fds {
		sys.Close(fd)
	}
}
