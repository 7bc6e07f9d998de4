package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"drover/internal/sys"
)

const (
	// MaxLine bounds a line that a worker sends, in bytes. Node itself has no
	// bound; 16 MiB is five times the largest that was seen to be used.
	MaxLine = 16 << 20

	// chunk is how much is read at once, in bytes, as Node does.
	chunk = 64 << 10
)

// Conn is the primary's end of one worker's channel. One goroutine may read
// while another writes.
type Conn struct {
	file *os.File // owns the descriptor; reads and writes park in the runtime's poller
	buf  []byte   // Read's alone, as is dec
	dec  decoder
}

// Pair makes a channel: the primary's end, and the raw descriptor of the
// worker's, which the caller gives to a process and then closes.
func Pair() (*Conn, int, error) {
	a, b, err := sys.StreamPair()
	if err != nil {
		return nil, -1, fmt.Errorf("make a Node worker's channel: %w", err)
	}
	return &Conn{file: os.NewFile(uintptr(a), "channel"), buf: make([]byte, chunk)}, b, nil
}

// Write sends one line, with its end, and a descriptor on its first byte unless
// that is -1; it stays the caller's. It blocks until the worker's queue has room
// for all of it: a line that is half written would kill the worker.
func (c *Conn) Write(line []byte, handle int) error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		for len(line) > 0 {
			var n int
			n, sendErr = sys.SendStream(int(fd), line, handle)
			if sys.IsAgain(sendErr) {
				return false
			}
			if sendErr != nil {
				return true
			}
			line, handle = line[n:], -1
		}
		return true
	})
	if err == nil {
		err = sendErr
	}
	return err
}

// Read waits for a message. Its Raw is the caller's, and so is the descriptor
// that came with a Handle, which is close-on-exec, or -1: a Handle whose
// descriptor was lost is to be answered with HandleNack. The error is io.EOF
// when the worker's end is closed, os.ErrDeadlineExceeded after Hurry once
// nothing more is queued, os.ErrClosed after Close, and else a ProtocolError,
// after which the channel still works.
func (c *Conn) Read() (Message, int, error) {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return Message{}, -1, err
	}
	for {
		if m, handle, ok, err := c.dec.next(); ok || err != nil {
			return m, handle, err
		}
		var n int
		var fds []int
		var readErr error
		read := func(fd uintptr) bool {
			n, fds, readErr = sys.ReceiveStream(int(fd), c.buf)
			return !sys.IsAgain(readErr)
		}
		err := raw.Read(read)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			done := false
			if controlErr := raw.Control(func(fd uintptr) { done = read(fd) }); controlErr != nil {
				return Message{}, -1, controlErr
			}
			if !done {
				return Message{}, -1, os.ErrDeadlineExceeded
			}
		} else if err != nil {
			return Message{}, -1, err
		}
		if readErr != nil {
			c.dec.close()
			return Message{}, -1, readErr
		}
		c.dec.add(c.buf[:n], fds)
	}
}

// Hurry makes Read return what is queued and then fail instead of waiting.
func (c *Conn) Hurry() error { return c.file.SetReadDeadline(time.Unix(1, 0)) }

// Unread reports whether the worker has yet to read something that was written.
func (c *Conn) Unread() bool {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return false // closed
	}
	unread := 0
	err = raw.Control(func(fd uintptr) { unread, _ = sys.Unread(int(fd)) })
	return err == nil && unread > 0
}

// Close closes this end, upon which a worker exits. A blocked Read or Write
// returns os.ErrClosed.
func (c *Conn) Close() error { return c.file.Close() }

// ProtocolError is what no Node worker would send.
type ProtocolError struct{ Err error }

func (e ProtocolError) Error() string { return e.Err.Error() }
func (e ProtocolError) Unwrap() error { return e.Err }

// decoder cuts what arrives into lines, and ties descriptors to the lines that
// they came on.
type decoder struct {
	data    []byte // what no line was yet made of
	scanned int    // bytes of data that hold no line's end
	skip    bool   // the line under way is too long: throw it away
	fds     []int  // arrived, and not yet claimed by a Handle
	err     error  // to be told before the next line
}

// add takes bytes and the descriptors that came with them.
func (d *decoder) add(data []byte, fds []int) {
	d.data = append(d.data, data...)
	d.fds = append(d.fds, fds...)
	// A sender waits for the word that its descriptor arrived before it sends
	// another: two that nobody has claimed cannot be told apart.
	if len(d.fds) > 1 {
		d.close()
		d.err = ProtocolError{errors.New("a descriptor too many")}
	}
}

// next is the next message, ok when there is one.
func (d *decoder) next() (m Message, handle int, ok bool, err error) {
	for {
		if d.err != nil {
			err, d.err = d.err, nil
			return Message{}, -1, false, err
		}
		end := bytes.IndexByte(d.data[d.scanned:], '\n')
		if end < 0 {
			d.scanned = len(d.data)
			if d.scanned > MaxLine {
				d.data, d.scanned = nil, 0
				if !d.skip {
					d.skip = true
					return Message{}, -1, false, ProtocolError{ErrLine}
				}
			}
			return Message{}, -1, false, nil
		}
		end += d.scanned
		line := bytes.Clone(d.data[:end])
		d.data, d.scanned = d.data[end+1:], 0
		if len(d.data) == 0 {
			d.data = nil
		}
		if d.skip {
			d.skip = false
			continue
		}
		m, err := Decode(line)
		if err != nil {
			d.close() // what came with it
			return Message{}, -1, false, ProtocolError{err}
		}
		handle = -1
		if m.Cmd == Handle && len(d.fds) > 0 {
			handle, d.fds = d.fds[0], nil
		}
		return m, handle, true, nil
	}
}

// close closes the descriptors that nobody has claimed.
func (d *decoder) close() {
	for _, fd := range d.fds {
		sys.Close(fd)
	}
	d.fds = nil
}

var _ io.Closer = (*Conn)(nil)
