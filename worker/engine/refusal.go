package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"
)

// refusal is the status that a request is refused with, and why.
type refusal struct {
	status int
	why    string
}

func (r *refusal) Error() string { return r.why }

// As lets a body that is too large be found as net/http says it.
func (r *refusal) As(target any) bool {
	large, is := target.(**http.MaxBytesError)
	if is = is && r.status == http.StatusRequestEntityTooLarge; is {
		*large = new(http.MaxBytesError)
	}
	return is
}

// The sections are of RFC 9112, where no other is named.
var (
	badStart      = &refusal{400, "a request line begins with a method (section 3)"}
	badLine       = &refusal{400, "a request line is method, target and version, one space between (section 3)"}
	badLineEnd    = &refusal{400, "lines end with CR LF, and no CR or LF is within (section 2.2)"}
	badTarget     = &refusal{400, "the target is neither a path nor an http URI (section 3.2)"}
	badEscape     = &refusal{400, "a % in the target is followed by two hexadecimal digits (RFC 3986, section 2.1)"}
	badVersion    = &refusal{505, "HTTP/1.1 and HTTP/1.0 are spoken here (RFC 9110, section 15.6.6)"}
	badFold       = &refusal{400, "a field is one line (section 5.2)"}
	badName       = &refusal{400, "a field is a name of token characters, and a colon directly behind (section 5.1)"}
	badValue      = &refusal{400, "a field's value has no control characters (RFC 9110, section 5.5)"}
	noHost        = &refusal{400, "a request of HTTP/1.1 has a Host (section 3.2)"}
	twoHosts      = &refusal{400, "a request has one Host (section 3.2)"}
	badHost       = &refusal{400, "the Host is a name or address, and maybe a port (section 3.2)"}
	badLength     = &refusal{400, "Content-Length is one number (RFC 9110, section 8.6)"}
	twoLengths    = &refusal{400, "a request has one Content-Length, and none with Transfer-Encoding (section 6.3)"}
	oldCoding     = &refusal{400, "HTTP/1.0 has no Transfer-Encoding (section 6.1)"}
	badCoding     = &refusal{400, "Transfer-Encoding ends with chunked, once (section 6.3)"}
	otherCoding   = &refusal{501, "chunked is the Transfer-Encoding spoken here (section 6.1)"}
	badExpect     = &refusal{417, "100-continue is what may be expected (RFC 9110, section 10.1.1)"}
	noTunnel      = &refusal{501, "this is no proxy to CONNECT by (RFC 9110, section 9.3.6)"}
	longLine      = &refusal{414, "the request line is too long (section 3)"}
	longHeader    = &refusal{431, "the header is too large (RFC 6585, section 5)"}
	largeBody     = &refusal{413, "the body is too large (RFC 9110, section 15.5.14)"}
	badChunk      = &refusal{400, "a chunk is its size in hexadecimal, CR LF, its bytes, CR LF (section 7.1)"}
	badExtension  = &refusal{400, "a chunk extension is ;name, ;name=token or ;name=\"text\" (section 7.1.1)"}
	longExtension = &refusal{400, "the chunk extensions are too long (section 7.1.1)"}
	badTrailer    = &refusal{400, "a trailer has no field that frames, routes or authenticates (RFC 9110, section 6.5.1)"}
	longTrailer   = &refusal{400, "the trailer is too large (section 7.1.2)"}
	cutShort      = &refusal{400, "the request ends before it is whole (section 8)"}
	tooSlow       = &refusal{408, "the header did not come in time (RFC 9110, section 15.5.9)"}
	http2Unasked  = &refusal{505, prefaceAnswer}
)

// guarded has the guards answer what they refuse, and counts it. It is called when the
// bounds are set; those below 0 are off, but for a header's.
func (b *base) guarded(answer func(*conn, *refusal) (status int, answer []byte)) {
	if b.bounds.header < 0 {
		b.bounds.header = 1 << 20
	}
	if b.bounds.body < 0 {
		b.bounds.body = math.MaxInt64
	}
	b.refused = func(c *conn, no *refusal) (int, []byte) {
		status, out := answer(c, no)
		b.board.End(b.board.Begin(time.Time{}, nil, nil), status, 0, int64(len(out)))
		if b.access != nil && b.access.chosen() {
			b.access.put(&entry{at: time.Now(), remote: c.RemoteAddr(), status: status, bytes: int64(len(out))})
		}
		return status, out
	}
}

// plainRefusal is the answer to what is refused: the reason in words.
func plainRefusal(c *conn, no *refusal) (status int, answer []byte) {
	text := http.StatusText(no.status) + ": " + no.why + "\n"
	out := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
		no.status, http.StatusText(no.status), time.Now().UTC().Format(http.TimeFormat), len(text))
	if !bytes.HasPrefix(c.guard.held, []byte("HEAD ")) { // RFC 9110, section 9.3.2
		out = append(out, text...)
	}
	return no.status, out
}

// refuse answers what is refused, behind all answers before it: an engine reads on
// only when those are written. To the engine it is the connection's end.
func (c *conn) refuse() (int, error) {
	g := &c.guard
	if g.told {
		return 0, io.EOF
	}
	if g.at != aHeader { // in a body, of which the engine says it
		return 0, g.refused
	}
	g.told = true
	c.enter(handling, 0)
	_, answer := c.t.refused(c, g.refused)
	_, _ = c.Write(answer) // the client may have left
	c.linger()
	return 0, io.EOF
}

// A connection whose client still sends is closed in two steps, so that no reset takes
// the answer away from it (RFC 9112, section 9.6).
const (
	lingerFor  = 2 * time.Second
	lingerOver = 64 << 20 // bytes
)

// unread reports whether the client may be sending what nobody will read.
func (g *guard) unread() bool {
	return g.at != unguarded && !g.late && (g.at != aHeader || g.refused != nil)
}

// linger ends what is sent, and drops what comes until the client has ended too, for
// a while.
func (c *conn) linger() {
	if !c.guard.unread() {
		return
	}
	c.guard.at = unguarded
	if c.CloseWrite() != nil {
		return
	}
	if cw, ok := c.below.(interface{ CloseWrite() error }); ok && c.below != c.Conn {
		_ = cw.CloseWrite() // else the client sees it by the TLS below it
	}
	if c.below.SetReadDeadline(time.Now().Add(lingerFor)) != nil {
		return
	}
	buf := make([]byte, 16<<10)
	for n := 0; n < lingerOver; {
		k, err := c.below.Read(buf)
		if err != nil {
			return
		}
		n += k
	}
}

// BodyStatus is the status to answer with when the body of a request could not be read:
// 413 where it is too large, 408 where it came too slowly, 400 for what is malformed or
// ends too early. An engine that reads the body before the handler runs answers so by
// itself.
func BodyStatus(err error) int {
	var no *refusal
	var large *http.MaxBytesError
	var late interface{ Timeout() bool }
	switch {
	case errors.As(err, &no):
		return no.status
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge
	case errors.As(err, &late) && late.Timeout():
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}
