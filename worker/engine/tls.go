package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"drover/worker/secure"
)

// encrypted is a connection over TLS, as fasthttp takes it: it finds TLS by these
// methods (fasthttp/server.go, tlsConn). The connection's phases are those of the plain
// text; the handshake is in the first one, fresh.
type encrypted struct {
	*conn
	tls    *tls.Conn
	wire   *wire
	failed bool // the handshake; or what HTTP/1.1 there could be is over
}

// under tracks a connection that TLS is put under: tls over cork over wire over what was
// accepted, and the tracked connection over all.
func (t *tracker) under(keys *secure.Keys, below net.Conn, offer secure.Offer) *encrypted {
	c := &conn{below: below}
	w := &wire{Conn: below, c: c}
	c.cork = &secure.Cork{Conn: w}
	s := keys.Server(c.cork, offer)
	c.Conn = s
	return &encrypted{conn: t.track(c), tls: s, wire: w}
}

// wire is what TLS reads and writes.
type wire struct {
	net.Conn
	c     *conn
	http2 atomic.Bool // TLS is net/http's, which reads and writes past the tracked connection
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil && w.c.expired.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		n, err = w.c.lastChance(p, err, !w.http2.Load())
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	if !w.http2.Load() {
		return w.Conn.Write(p)
	}
	w.c.beginWrite()
	n, err := w.Conn.Write(p)
	w.c.writeBy.Store(0)
	return n, err
}

// encrypt begins TLS.
func (f *Fast) encrypt(keys *secure.Keys, below net.Conn) net.Conn {
	return f.under(keys, below, secure.HTTP1)
}

// ConnectionState says what was agreed on.
func (e *encrypted) ConnectionState() tls.ConnectionState { return e.tls.ConnectionState() }

// Handshake shakes hands. A client that speaks HTTP in plain text is told, as net/http
// tells it.
func (e *encrypted) Handshake() error {
	err := e.tls.Handshake()
	if err == nil {
		return nil
	}
	var record tls.RecordHeaderError
	if errors.As(err, &record) && record.Conn != nil && looksLikeHTTP(record.RecordHeader) {
		// The client sees it end, be it unread or not, by the close that follows.
		_, _ = io.WriteString(record.Conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\nThis is an HTTPS port: ask it by https://\n")
	}
	e.failed = true
	return err
}

// looksLikeHTTP reports whether what should be a record's header is the beginning of a
// request.
func looksLikeHTTP(header [5]byte) bool {
	switch string(header[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH", "PRI *":
		return true
	}
	return false
}

// Read is the connection's. fasthttp goes on to read where the handshake has failed
// (fasthttp/server.go, getNextProto): that is the end, of which it does not log.
// Scanners, and clients that trust us not, cause any number of those.
func (e *encrypted) Read(p []byte) (int, error) {
	if e.failed {
		return 0, io.EOF
	}
	return e.conn.Read(p)
}

// asked is a connection over TLS, as net/http takes it. It is no *tls.Conn, since the
// guard is to read the plain text before net/http does. It has no ReadFrom: nothing is
// sent here without being copied.
type asked struct {
	net.Conn // *encrypted
	e        *encrypted
	n        *Net
	ctx      context.Context // the connection's, for HTTP/2
	once     sync.Once
}

// encrypt begins TLS. Until the first request is read, the limit of a header holds,
// handshake and all.
func (n *Net) encrypt(keys *secure.Keys, below net.Conn) net.Conn {
	e := n.under(keys, below, n.offer())
	limit := n.server.ReadHeaderTimeout
	if limit == 0 {
		limit = n.server.ReadTimeout
	}
	if most := n.server.WriteTimeout; most > 0 && (limit <= 0 || most < limit) { // net/http/server.go, tlsHandshakeTimeout
		limit = most
	}
	e.enter(fresh, limit)
	return &asked{Conn: e, e: e, n: n}
}

// ConnectionState says what was agreed on. net/http asks for it before all else, in the
// connection's own goroutine (net/http/server.go, serve), so this is where hands are
// shaken, and HTTP/2 is served.
func (a *asked) ConnectionState() tls.ConnectionState {
	a.once.Do(func() {
		if a.e.Handshake() == nil && a.e.tls.ConnectionState().NegotiatedProtocol == "h2" {
			a.http2()
		}
	})
	return a.e.tls.ConnectionState()
}

// http2 has the server's own HTTP/2 serve the connection until its end, as net/http
// would have it (net/http/server.go, serve). What it reads, and so what net/http is to
// read afterwards, is no HTTP/1.1.
func (a *asked) http2() {
	a.e.guard.at, a.e.failed = unguarded, true
	a.e.wire.http2.Store(true)
	a.n.server.TLSNextProto["h2"](a.n.server, a.e.tls, overHTTP2{a.n.server, a.ctx})
}

// overHTTP2 is the server's handler for requests of HTTP/2.
type overHTTP2 struct {
	server *http.Server
	ctx    context.Context
}

// BaseContext is how HTTP/2 learns of the connection's context (net/http/server.go,
// initALPNRequest).
func (h overHTTP2) BaseContext() context.Context { return h.ctx }

func (h overHTTP2) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodOptions && r.RequestURI == "*" && !h.server.DisableGeneralOptionsHandler { // net/http/server.go, serverHandler
		w.Header().Set("Content-Length", "0")
		return
	}
	h.server.Handler.ServeHTTP(w, r)
}

// CloseWrite is for net/http's closing in two steps.
func (a *asked) CloseWrite() error { return a.e.CloseWrite() }

// offer is what of HTTP the server may speak.
func (n *Net) offer() secure.Offer {
	if _, is := n.server.TLSNextProto["h2"]; is { // the server's own, once it serves
		return secure.HTTP2
	}
	return secure.HTTP1
}

// tracked is the connection below what net/http names, and what its user is to see of
// it: TLS as such.
func tracked(nc net.Conn) (c *conn, seen net.Conn) {
	switch nc := nc.(type) {
	case *conn:
		return nc, nc
	case *asked:
		return nc.e.conn, nc.e.tls
	case *tls.Conn: // of HTTP/2
		if cork, ok := nc.NetConn().(*secure.Cork); ok {
			if w, ok := cork.Conn.(*wire); ok {
				return w.c, nc
			}
		}
	}
	return nil, nc
}
