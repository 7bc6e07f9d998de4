package worker

import (
	"fmt"
	"net"
	"os"
	"sync"

	"drover/internal/sys"
)

// listener is one address: our slot's socket, on which we accept, and the
// siblings' sockets, which we only hold.
type listener struct {
	name    string
	address string
	own     int // our slot's socket; -1 until it came

	mu       sync.Mutex // a drain may come while a program opens its listener
	siblings []int
	opened   net.Listener // nil until open
	stopped  bool
}

func newListener(name, address string, own int) *listener {
	return &listener{name: name, address: address, own: own}
}

// add takes one more socket of the address.
func (l *listener) add(fd int, own bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if own {
		l.own = fd
		return
	}
	l.siblings = append(l.siblings, fd)
}

// open gives the net.Listener of our own socket, the same at each call.
func (l *listener) open() (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return nil, fmt.Errorf("listen on %s: %w", l.address, net.ErrClosed)
	}
	if l.opened == nil {
		// FileListener makes a descriptor of its own, which its Close closes; the
		// raw one stays for the queue. The socket is non-blocking, so os.NewFile
		// and FileListener leave its mode, which all processes share, as it is.
		fd, err := sys.Dup(l.own)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", l.address, err)
		}
		file := os.NewFile(uintptr(fd), l.address)
		defer file.Close()
		if l.opened, err = net.FileListener(file); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", l.address, err)
		}
	}
	return l.opened, nil
}

// stop ends the accepting. What is queued stays with the socket, which others
// hold too.
func (l *listener) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	if l.opened != nil {
		l.opened.Close()
	}
}

// raw are the descriptors of the address's sockets, our own first.
func (l *listener) raw() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]int{l.own}, l.siblings...)
}

// queue is a listener over sockets that get no new connections any more: it
// gives what is queued on them, and then net.ErrClosed.
type queue struct {
	address net.Addr
	sockets []int // still to be emptied; the descriptors stay their owner's
}

// Accept never waits.
func (q *queue) Accept() (net.Conn, error) {
	for len(q.sockets) > 0 {
		fd, err := sys.Accept(q.sockets[0])
		if err != nil {
			// Empty, or no socket that can be accepted on any more.
			q.sockets = q.sockets[1:]
			continue
		}
		file := os.NewFile(uintptr(fd), "connection")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			continue // reset meanwhile
		}
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (q *queue) Close() error   { q.sockets = nil; return nil }
func (q *queue) Addr() net.Addr { return q.address }
