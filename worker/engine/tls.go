package engine

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"

	"drover/worker/secure"
)

// encrypted is a connection of fasthttp's over TLS: it finds TLS by these methods
// (fasthttp/server.go, tlsConn). The connection's phases are those of the plain text;
// the handshake is in the first one, fresh.
type encrypted struct {
	*conn
	tls    *tls.Conn
	failed bool // the handshake
}

// encrypt begins TLS: tls over cork over what was accepted, and the tracked connection
// over all.
func (f *Fast) encrypt(keys *secure.Keys, below net.Conn) net.Conn {
	cork := &secure.Cork{Conn: below}
	t := keys.Server(cork, secure.HTTP1)
	return &encrypted{conn: f.track(&conn{Conn: t, below: below, cork: cork}), tls: t}
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

// withoutHandshakes is net/http's log without failed handshakes, likewise.
type withoutHandshakes struct{ *log.Logger }

func (w withoutHandshakes) Write(line []byte) (int, error) {
	if !bytes.HasPrefix(line, []byte("http: TLS handshake error")) {
		w.Print(string(line))
	}
	return len(line), nil
}

// encrypt begins TLS over the tracked connection: net/http wants to see a *tls.Conn.
// Until the first request is read, the limit of a header holds, handshake and all.
func (n *Net) encrypt(keys *secure.Keys, below net.Conn) net.Conn {
	c := n.add(below)
	c.guard.at = unguarded // what it reads is TLS
	limit := n.server.ReadHeaderTimeout
	if limit == 0 {
		limit = n.server.ReadTimeout
	}
	c.enter(fresh, limit)
	return keys.Server(c, n.offer())
}

// offer is what of HTTP the server may speak.
func (n *Net) offer() secure.Offer {
	if _, is := n.server.TLSNextProto["h2"]; is { // the server's own, once it serves
		return secure.HTTP2
	}
	return secure.HTTP1
}
