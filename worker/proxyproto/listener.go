package proxyproto

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Conn is a connection that can be told who its client is.
type Conn interface {
	net.Conn
	SetRemoteAddr(netip.AddrPort)
}

const (
	// patience is how long a header may take: at least 3 s, one lost packet of TCP
	// (section 2 of the protocol).
	patience = 5 * time.Second
	// reading bounds the connections whose headers are awaited. Further ones stay in
	// the kernel's queue.
	reading = 1024
)

// Listener takes the header off its connections: their RemoteAddr is the client's.
// Nothing stands between the connection and its reader afterwards.
type Listener struct {
	net.Listener // of connections that are Conns
	// Trusted reports whether a peer is a proxy, whose connections begin with a
	// header. All others are given as they are, under their own address.
	Trusted func(peer net.Addr) bool
	// Refused is told of each connection that is closed since its header was none, or
	// did not come within 5 s; from any goroutine.
	Refused func(peer net.Addr, err error)

	begin sync.Once
	ready chan accepted
	ended chan struct{} // closed by Close
	close sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

// Accept gives the next connection whose header is read. After Close it gives those
// that were accepted before, and then net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	l.start()
	a, ok := <-l.ready
	if !ok {
		return nil, net.ErrClosed
	}
	return a.conn, a.err
}

// start makes what a Listener needs, and begins to accept, once.
func (l *Listener) start() {
	l.begin.Do(func() {
		l.ready, l.ended = make(chan accepted), make(chan struct{})
		go l.accept()
	})
}

// accept ends once the listener below is closed and no header is awaited.
func (l *Listener) accept() {
	defer close(l.ready)
	var pending sync.WaitGroup
	defer pending.Wait()
	slots := make(chan struct{}, reading)
	for {
		c, err := l.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			select {
			case l.ready <- accepted{err: err}: // who accepts waits a while, where that helps
			case <-l.ended:
				return
			}
		case !l.Trusted(c.RemoteAddr()):
			l.ready <- accepted{conn: c}
		default:
			slots <- struct{}{}
			pending.Go(func() {
				ok := l.header(c)
				<-slots
				if ok {
					l.ready <- accepted{conn: c}
				}
			})
		}
	}
}

// header reads a connection's header, or closes it.
func (l *Listener) header(c net.Conn) bool {
	peer := c.RemoteAddr()
	err := c.SetReadDeadline(time.Now().Add(patience))
	var source netip.AddrPort
	if err == nil {
		source, err = Read(c)
	}
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	if err != nil {
		l.Refused(peer, err)
		c.Close()
		return false
	}
	if source.IsValid() {
		c.(Conn).SetRemoteAddr(source)
	}
	return true
}

// Close ends the accepting.
func (l *Listener) Close() error {
	l.start()
	l.close.Do(func() { close(l.ended) })
	return l.Listener.Close()
}
