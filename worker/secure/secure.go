// Package secure is TLS for a worker's connections: what an address is encrypted
// with, which may be replaced while it serves, and a connection that sends the records
// of one answer at once.
package secure

import (
	"crypto/tls"
	"net"
	"sync/atomic"
)

// Offer is which protocols a server chooses from with its client (ALPN, RFC 7301).
type Offer int

const (
	Nothing Offer = iota // it does not speak of it
	HTTP1                // http/1.1
	HTTP2                // h2, else http/1.1
	offers
)

var protocols = [offers][]string{HTTP1: {"http/1.1"}, HTTP2: {"h2", "http/1.1"}}

// Keys are what an address is encrypted with now. Set comes first; after that its
// methods may be called from any goroutine.
type Keys struct {
	now atomic.Pointer[[offers]*tls.Config]
}

// Set replaces what connections that are accepted from now on are encrypted with. The
// first of tickets makes new session tickets, all open old ones. Neither may be
// changed afterwards.
func (k *Keys) Set(c *tls.Config, tickets [][32]byte) {
	var all [offers]*tls.Config
	for offer := range all {
		all[offer] = c.Clone()
		all[offer].NextProtos = protocols[offer]
		all[offer].SetSessionTicketKeys(tickets)
	}
	k.now.Store(&all)
}

// Server is a connection's end as the server, which shakes hands by the first read, or
// write. c is closed with it.
func (k *Keys) Server(c net.Conn, offer Offer) *tls.Conn {
	return tls.Server(c, k.now.Load()[offer])
}

// Listener is a listener whose connections are encrypted.
type Listener struct {
	net.Listener // plain
	Keys         *Keys
}

// Accept gives the next connection, a *tls.Conn that offers no protocol by ALPN. It
// shakes hands by its first read, or write.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.Keys.Server(c, Nothing), nil
}
