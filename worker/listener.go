package worker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"

	"drover/config"
	"drover/internal/sys"
	"drover/ipc"
	"drover/worker/fastnet"
	"drover/worker/proxyproto"
	"drover/worker/secure"
)

// listener is one address: our slot's socket, on which we accept, and the
// siblings' sockets, which we only hold.
type listener struct {
	name    string
	address string
	poller  *fastnet.Poller
	own     int             // our slot's socket; -1 until it came
	shared  bool            // it is every slot's
	kept    bool            // its queue outlives the app
	keys    *secure.Keys    // nil: plain text
	proxies *config.Trusted // speak the PROXY protocol; nil: nobody does
	refused func(peer net.Addr, err error)

	mu       sync.Mutex   // a drain may come while a program opens its listener
	siblings map[int]int  // by slot
	deferred bool         // clients speak first: accept a connection with its first bytes
	opened   net.Listener // nil until open
	stopped  bool
}

func newListener(name, address string, poller *fastnet.Poller, own int) *listener {
	return &listener{name: name, address: address, poller: poller, own: own, siblings: map[int]int{}}
}

// add takes one more socket of the address, a slot's.
func (l *listener) add(fd, slot int, own bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if own {
		l.own = fd
		return
	}
	if old, again := l.siblings[slot]; again {
		sys.Close(old)
	}
	l.siblings[slot] = fd
}

// encrypt takes what the address is encrypted with from now on. The first time is
// before it is opened.
func (l *listener) encrypt(c *tls.Config, tickets [][ipc.TicketSize]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys == nil {
		if l.opened != nil {
			return errors.New("it serves in plain text")
		}
		l.keys = new(secure.Keys)
	}
	l.keys.Set(c, tickets)
	return nil
}

// over gives a listener over one of ours that takes the PROXY protocol off, and
// encrypts, where that is asked for.
func (l *listener) over(plain net.Listener) net.Listener {
	if l.proxies != nil {
		plain = &proxyproto.Listener{Listener: plain, Trusted: l.proxies.Has, Refused: l.refused}
	}
	if l.keys == nil {
		return plain
	}
	return &secure.Listener{Listener: plain, Keys: l.keys}
}

// deferAccept has the kernel keep connections until their first bytes are there,
// on each listener that is made from now on.
func (l *listener) deferAccept() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deferred = true
}

// open gives the net.Listener of our own socket, the same at each call.
func (l *listener) open() (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return nil, fmt.Errorf("listen on %s: %w", l.address, net.ErrClosed)
	}
	if l.opened == nil {
		opened, err := l.accepting(l.own)
		if err != nil {
			return nil, err
		}
		l.opened = opened
	}
	return l.opened, nil
}

// sibling gives a net.Listener of a sibling's socket, which the caller closes.
func (l *listener) sibling(slot int) (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fd, ok := l.siblings[slot]
	if !ok {
		return nil, fmt.Errorf("listen on %s: this worker has no socket of slot %d", l.address, slot)
	}
	return l.accepting(fd)
}

// accepting makes a net.Listener of a socket, with a descriptor of its own, which
// its Close closes; the raw one stays for the queue.
func (l *listener) accepting(socket int) (net.Listener, error) {
	fd, err := sys.Dup(socket)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.address, err)
	}
	opened := l.poller.Listen(fd)
	if _, ok := opened.Addr().(*net.TCPAddr); ok {
		if err := sys.ListenerOptions(fd, l.deferred); err != nil {
			opened.Close()
			return nil, fmt.Errorf("listen on %s: %w", l.address, err)
		}
	}
	return l.over(opened), nil
}

// stop ends the accepting, and reports whether it had ever begun. What is queued
// stays with the socket, which others hold too.
func (l *listener) stop() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	if l.opened == nil {
		return false
	}
	l.opened.Close()
	return true
}

// raw are the descriptors of the address's sockets, our own first.
func (l *listener) raw() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.AppendSeq([]int{l.own}, maps.Values(l.siblings))
}

// port is the TCP port that an opened listener is bound to, 0 of a unix socket.
func (l *listener) port() uint16 {
	if address, is := l.opened.Addr().(*net.TCPAddr); is {
		return uint16(address.Port)
	}
	return 0
}

// queue is what waits on the sockets of an opened listener.
func (l *listener) queue() *queue {
	return &queue{poller: l.poller, address: l.opened.Addr(), sockets: l.raw()}
}

// queue is a listener over sockets that get no new connections any more: it
// gives what is queued on them, and then net.ErrClosed.
type queue struct {
	poller  *fastnet.Poller
	address net.Addr
	sockets []int         // still to be emptied; the descriptors stay their owner's
	next    *fastnet.Conn // taken already; nil: none
}

// more reports whether Accept will give a connection.
func (q *queue) more() bool {
	for q.next == nil && len(q.sockets) > 0 {
		conn, err := q.poller.AcceptNow(q.sockets[0])
		if err != nil { // empty, or no socket that can be accepted on any more
			q.sockets = q.sockets[1:]
			continue
		}
		q.next = conn
	}
	return q.next != nil
}

// Accept never waits.
func (q *queue) Accept() (net.Conn, error) {
	if !q.more() {
		return nil, net.ErrClosed
	}
	conn := q.next
	q.next = nil
	return conn, nil
}

func (q *queue) Close() error   { q.sockets = nil; return nil }
func (q *queue) Addr() net.Addr { return q.address }
