package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"os"
	"time"
)

// guard reads along with a connection's engine: it knows where each request begins
// and ends, and lets the engine have a header only when all of it is there and is
// right. So both engines refuse the same, and neither can take for a request what is
// in another's body. It is the reading goroutine's.
type guard struct {
	at      part
	digits  uint8    // of the chunk's size so far
	extra   uint16   // bytes of chunk extensions, of one body
	left    int64    // of the body or chunk, in bytes
	size    int64    // of the chunks so far, in bytes
	held    []byte   // was read, and the engine has not all of it: what is left of a header that was let in, or the first part of one
	given   int      // how much of held the engine has
	ready   int      // up to where in held it may have it
	blank   uint8    // bytes of empty lines before a request
	refused *refusal // what comes next; all of held is it, and what is read after it
	told    bool     // it was answered
	listed  bool     // some request's Connection is more than a word that fasthttp knows
	late    bool     // the rest of the body did not come in time
}

// part is what of a request comes next.
type part uint8

const (
	aHeader     part = iota // or nothing: between two requests
	aBody                   // of a known length
	aChunkSize              // of it, or its first digit
	anExtension             // up to the end of the line
	aSizeEnd                // the LF of the line
	aChunk
	aChunkEnd  // the CR behind a chunk
	aChunkEnd2 // and the LF
	aTrailer   // from the LF of the last chunk's line on, which tells fasthttp that the body is whole
	unguarded  // encrypted, or no HTTP any more
)

// bounds are what a guard allows, in bytes.
type bounds struct {
	header int
	body   int64
	http2  bool // the engine speaks it in plain text
}

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

// closes reports whether a Connection field lists close, in any case (RFC 9112, section
// 9.6). fasthttp knows it alone and in small letters.
func closes(connection []byte) bool {
	for len(connection) > 0 {
		option, rest, _ := bytes.Cut(connection, []byte(","))
		if is(bytes.Trim(option, " \t"), "close") {
			return true
		}
		connection = rest
	}
	return false
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
	longExtension = &refusal{400, "the chunk extensions are too long (section 7.1.1)"}
	badTrailer    = &refusal{400, "a trailer has no field that frames, routes or authenticates (RFC 9110, section 6.5.1)"}
	longTrailer   = &refusal{400, "the trailer is too large (section 7.1.2)"}
	cutShort      = &refusal{400, "the request ends before it is whole (section 8)"}
	tooSlow       = &refusal{408, "the header did not come in time (RFC 9110, section 15.5.9)"}
	http2Unasked  = &refusal{505, prefaceAnswer}
)

// extensionBytes bounds a body's chunk extensions together, which nobody uses, in
// bytes: below what net/http bears (net/http/internal/chunked.go, excess).
const extensionBytes = 4 << 10

// trailerBytes bounds a trailer, in bytes: what net/http takes (net/http/transfer.go,
// seeUpcomingDoubleCRLF, and the buffer's size).
const trailerBytes = 4 << 10

// blankBytes bounds the empty lines before a request, of which a server should
// ignore one at least (RFC 9112, section 2.2), in bytes.
const blankBytes = 8

// receive reads what the connection brings.
func (c *conn) receive(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && c.cork == nil && c.expired.Load() && errors.Is(err, os.ErrDeadlineExceeded) { // TLS does so below
		n, err = c.lastChance(p, err, false)
	}
	return n, err
}

// admitted reads into p what the engine may have.
func (c *conn) admitted(p []byte) (int, error) {
	g := &c.guard
	// net/http reads one byte while a handler runs, to learn of the client's leaving
	// (net/http/server.go, backgroundRead). It gets it, whatever it begins.
	ahead := c.t.byHand && len(p) == 1
	if c.t.byHand && ahead != c.ahead.Load() {
		c.ahead.Store(ahead)
	}
	for len(p) > 0 {
		switch {
		case g.at == unguarded && len(g.held) == 0:
			return c.receive(p)
		case g.at == unguarded || c.is(elsewhere):
			g.at, g.ready = unguarded, len(g.held)
			return g.take(p), nil
		case g.ready > g.given:
			return g.take(p), nil
		case ahead && len(g.held) > g.given && (len(g.held) > 1 || g.held[0] != '\r'):
			g.ready = g.given + 1
			n := copy(p, g.held[g.given:g.ready])
			g.given, g.ready = g.given+n, 0
			return n, nil
		case g.refused != nil:
			return c.refuse()
		case len(g.held) == 0:
			n, err := c.receive(p)
			if n > 0 {
				ok, end := g.admit(p[:n], &c.t.bounds)
				if ok == end { // as nearly always
					if ok > 0 {
						return ok, nil
					}
					continue
				}
				if g.held == nil {
					g.held = make([]byte, 0, max(512, 2*(end-ok)))
				}
				g.held = append(g.held, p[ok:end]...)
				if ok > 0 {
					return ok, nil
				}
			}
			if err != nil {
				return c.ends(err, ahead)
			}
		default:
			if err := c.more(ahead); err != nil {
				return c.ends(err, ahead)
			}
		}
	}
	return 0, nil
}

// more reads on in a header of which a part is held.
func (c *conn) more(ahead bool) error {
	g := &c.guard
	if p, _ := c.phase(); p != header && !ahead {
		c.enter(header, c.t.limits.HeaderTimeout)
	}
	if len(g.held) == cap(g.held) {
		g.held = append(make([]byte, 0, 2*cap(g.held)), g.held...)
	}
	free := g.held[len(g.held):cap(g.held)]
	if ahead {
		free = free[:1]
	}
	n, err := c.receive(free)
	if n == 0 {
		return err
	}
	had := len(g.held)
	g.held = g.held[:had+n]
	if had+n < c.t.bounds.header && bytes.IndexByte(g.held[had:], '\n') < 0 {
		return nil // no line more is whole
	}
	ok, end := g.admit(g.held, &c.t.bounds)
	g.held = g.held[:end]
	g.ready = max(ok, g.given)
	if end == 0 {
		g.given, g.ready = 0, 0
	}
	return nil
}

// take gives the engine what it may have of what is held.
func (g *guard) take(p []byte) int {
	n := copy(p, g.held[g.given:g.ready])
	g.given += n
	if g.given == g.ready {
		rest := copy(g.held, g.held[g.given:])
		g.held, g.given, g.ready = g.held[:rest], 0, 0
		if rest == 0 {
			g.held = nil
		}
	}
	return n
}

// ends says what the end of reading is to the engine.
func (c *conn) ends(err error, ahead bool) (int, error) {
	g := &c.guard
	late := errors.Is(err, os.ErrDeadlineExceeded)
	switch {
	case ahead || g.at == unguarded || c.is(elsewhere):
	case len(g.held) > 0 && late:
		g.refused, g.late = tooSlow, true
		return c.refuse()
	case len(g.held) > 0 && err == io.EOF:
		g.refused = cutShort
		return c.refuse()
	case g.at != aHeader && late:
		g.late = true
	case g.at != aHeader && err == io.EOF:
		// fasthttp takes a stream of chunks that ends behind one for whole
		// (fasthttp/streaming.go): RFC 9112, section 8, has it incomplete.
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

// admit reads p, which follows what was admitted before. The engine may have p[:ok],
// and p[ok:end] is a part of a header, or what is refused. Beyond end nothing is left
// of p: empty lines before a request are taken out, for which net/http has no use.
func (g *guard) admit(p []byte, b *bounds) (ok, end int) {
	i := 0
	for i < len(p) {
		switch g.at {
		case aHeader:
			if p[i] == '\r' {
				if i+1 == len(p) {
					return i, len(p)
				}
				if g.blank += 2; p[i+1] == '\n' && g.blank <= blankBytes {
					p = append(p[:i], p[i+2:]...)
					continue
				}
			}
			h, n, no := scan(p[i:], b)
			if no != nil || n == 0 {
				g.refused = no
				return i, len(p)
			}
			i += n
			g.blank = 0
			if h.listed {
				g.listed = true
			}
			switch {
			case h.preface:
				g.at = unguarded
				return len(p), len(p)
			case h.chunked:
				g.at, g.digits, g.extra, g.left, g.size = aChunkSize, 0, 0, 0, 0
			case h.length > 0:
				g.at, g.left = aBody, h.length
			}
		case aBody, aChunk:
			n := min(g.left, int64(len(p)-i))
			i += int(n)
			if g.left -= n; g.left == 0 {
				if g.at++; g.at == aChunkSize {
					g.at = aHeader
				}
			}
		case aTrailer:
			n, no := scanTrailer(p[i+1:])
			if no != nil || n == 0 {
				g.refused = no
				return i, len(p)
			}
			i += 1 + n
			g.at = aHeader
		default:
			if no := g.frame(p[i], b); no != nil {
				g.refused = no
				if no == largeBody { // where the bytes begin: what fasthttp says of the line hides the reason
					i++
				}
				return i, len(p)
			}
			if g.at != aTrailer {
				i++
			}
		}
	}
	return i, len(p)
}

// frame reads a byte around chunks.
func (g *guard) frame(x byte, b *bounds) *refusal {
	switch g.at {
	case aChunkSize:
		if d := unhex[x]; d < 16 {
			if g.digits++; g.digits > 15 {
				return badChunk
			}
			g.left = g.left<<4 | int64(d)
			return nil
		}
		if g.digits == 0 {
			return badChunk
		}
		switch x {
		case '\r':
			g.at = aSizeEnd
		case ';':
			g.at = anExtension
		default:
			return badChunk
		}
	case anExtension:
		if g.extra++; g.extra > extensionBytes {
			return longExtension
		}
		switch {
		case x == '\r':
			g.at = aSizeEnd
		case x < ' ' && x != '\t' || x == 0x7f:
			return badChunk
		}
	case aSizeEnd:
		if x != '\n' {
			return badChunk
		}
		if g.left == 0 {
			g.at = aTrailer
			return nil
		}
		g.at = aChunk
		if g.size += g.left; g.size > b.body || g.size < 0 {
			return largeBody
		}
	case aChunkEnd:
		if x != '\r' {
			return badChunk
		}
		g.at = aChunkEnd2
	case aChunkEnd2:
		if x != '\n' {
			return badChunk
		}
		g.at, g.digits, g.left = aChunkSize, 0, 0
	}
	return nil
}

// heading is what of a header its body's end depends on.
type heading struct {
	length  int64 // of the body
	chunked bool
	preface bool // of HTTP/2, to an engine that speaks it
	listed  bool // as the guard's

	old, host, lengths, codings bool // HTTP/1.0, and which fields there were
}

// scan reads the header that p begins with: n is its length, 0 if its end is not
// there yet.
func scan(p []byte, b *bounds) (h heading, n int, no *refusal) {
	end := bytes.IndexByte(p, '\n')
	switch {
	case end >= b.header || end < 0 && len(p) >= b.header:
		return h, 0, longLine
	case class[p[0]]&inToken == 0:
		return h, 0, badStart
	case end < 0:
		return h, 0, nil
	case end == 0 || p[end-1] != '\r':
		return h, 0, badLineEnd
	}
	if no := h.line(p[:end-1], b); no != nil || h.preface {
		return h, len(p), no
	}
	for i := end + 1; ; {
		size, no := h.field(p[i:])
		if no != nil {
			return h, 0, no
		}
		i += max(size, -size)
		switch {
		case i > b.header || size == 0 && len(p) >= b.header:
			return h, 0, longHeader
		case size == 0:
			return h, 0, nil
		case size < 0:
			if !h.host && !h.old {
				return h, 0, noHost
			}
			if h.length > b.body {
				return h, 0, largeBody
			}
			return h, i, nil
		}
	}
}

// line reads the request line.
func (h *heading) line(p []byte, b *bounds) *refusal {
	i := 0
	for i < len(p) && class[p[i]]&inToken != 0 {
		i++
	}
	if i == 0 || i >= len(p) || p[i] != ' ' {
		return badLine
	}
	method := p[:i]
	i++
	begin := i
	for i < len(p) && class[p[i]]&inTarget != 0 {
		if p[i] == '%' && (i+2 >= len(p) || unhex[p[i+1]] > 15 || unhex[p[i+2]] > 15) {
			return badEscape
		}
		i++
	}
	if i == begin || i >= len(p) {
		return badLine
	}
	if p[i] != ' ' {
		return badTarget
	}
	target, version := p[begin:i], p[i+1:]
	switch string(version) {
	case "HTTP/1.1":
	case "HTTP/1.0":
		h.old = true
	default:
		if len(version) != 8 || string(version[:5]) != "HTTP/" || version[6] != '.' || !digit(version[5]) || !digit(version[7]) {
			return badLine
		}
		if string(p) == "PRI * HTTP/2.0" {
			if h.preface = b.http2; h.preface {
				return nil
			}
			return http2Unasked
		}
		return badVersion
	}
	switch {
	case string(method) == "CONNECT":
		return noTunnel
	case target[0] == '/':
	case string(target) == "*":
		if string(method) != "OPTIONS" {
			return badTarget
		}
	default:
		return absolute(target)
	}
	return nil
}

// absolute checks a target that is a whole URI.
func absolute(target []byte) *refusal {
	scheme, rest, ok := bytes.Cut(target, []byte("://"))
	if !ok || !is(scheme, "http") && !is(scheme, "https") {
		return badTarget
	}
	if i := bytes.IndexAny(rest, "/?"); i >= 0 {
		rest = rest[:i]
	}
	if !validHost(rest) {
		return badTarget
	}
	return nil
}

// field reads a line of a header: its size, 0 if its end is not there yet, below 0 if
// it is the empty line that ends the header.
func (h *heading) field(p []byte) (int, *refusal) {
	name, value, size, no := fieldLine(p)
	if no != nil || size <= 0 {
		return size, no
	}
	switch len(name) {
	case len("Host"):
		if is(name, "host") {
			if h.host {
				return 0, twoHosts
			}
			if h.host = true; !validHost(value) {
				return 0, badHost
			}
		}
	case len("Expect"):
		if is(name, "expect") {
			switch {
			case h.old && len(value) == 0: // so it was left below, when less of the header was there
			case !is(value, "100-continue"):
				return 0, badExpect
			case h.old: // which has no such answer, and fasthttp gives it (RFC 9110, section 10.1.1)
				for i := range value {
					value[i] = ' '
				}
			default:
				copy(value, "100-continue") // in any case, and fasthttp knows one (as above)
			}
		}
	case len("Connection"):
		if is(name, "connection") && string(value) != "close" && string(value) != "keep-alive" {
			h.listed = true
		}
	case len("Content-Length"):
		if is(name, "content-length") {
			if h.lengths || h.codings {
				return 0, twoLengths
			}
			h.lengths = true
			if h.length, no = length(value); no != nil {
				return 0, no
			}
		}
	case len("Transfer-Encoding"):
		if is(name, "transfer-encoding") {
			switch {
			case h.lengths:
				return 0, twoLengths
			case h.old:
				return 0, oldCoding
			case h.codings:
				return 0, badCoding
			}
			h.codings = true
			if no := coding(value); no != nil {
				return 0, no
			}
			h.chunked = true
		}
	}
	return size, nil
}

// fieldLine takes a field's line apart; size is as field gives it.
func fieldLine(p []byte) (name, value []byte, size int, no *refusal) {
	i := 0
	for i < len(p) && class[p[i]]&inToken != 0 {
		i++
	}
	if i == len(p) {
		return nil, nil, 0, nil
	}
	if p[i] != ':' || i == 0 {
		switch {
		case i > 0:
			return nil, nil, 0, badName
		case p[0] == ' ' || p[0] == '\t':
			return nil, nil, 0, badFold
		case p[0] != '\r' && p[0] != '\n':
			return nil, nil, 0, badName
		case p[0] == '\r' && len(p) == 1:
			return nil, nil, 0, nil
		case p[0] == '\r' && p[1] == '\n':
			return nil, nil, -2, nil
		}
		return nil, nil, 0, badLineEnd
	}
	name, p = p[:i], p[i+1:]
	end := bytes.IndexByte(p, '\n')
	if end < 0 {
		return nil, nil, 0, nil
	}
	if end == 0 || p[end-1] != '\r' {
		return nil, nil, 0, badLineEnd
	}
	value = p[:end-1]
	if !printable(value) {
		if bytes.IndexByte(value, '\r') >= 0 {
			return nil, nil, 0, badLineEnd
		}
		return nil, nil, 0, badValue
	}
	for len(value) > 0 && (value[0] == ' ' || value[0] == '\t') {
		value = value[1:]
	}
	for len(value) > 0 && (value[len(value)-1] == ' ' || value[len(value)-1] == '\t') {
		value = value[:len(value)-1]
	}
	return name, value, i + 1 + end + 1, nil
}

// printable reports whether p has no control characters but tabs.
func printable(p []byte) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for len(p) >= 8 {
		x := binary.LittleEndian.Uint64(p)
		below := (x - ' '*ones) & ^x & high // where a byte is below a space
		del := x ^ 0x7f*ones
		if del = (del - ones) & ^del & high; below|del != 0 { // or is DEL; or may be, above one that is
			for _, b := range p[:8] {
				if class[b]&inValue == 0 {
					return false
				}
			}
		}
		p = p[8:]
	}
	for _, b := range p {
		if class[b]&inValue == 0 {
			return false
		}
	}
	return true
}

// length reads a Content-Length. One beyond any limit is the largest there is.
func length(value []byte) (n int64, no *refusal) {
	if len(value) == 0 {
		return 0, badLength
	}
	for _, d := range value {
		switch {
		case !digit(d):
			return 0, badLength
		case n > (math.MaxInt64-9)/10:
			n = math.MaxInt64
		default:
			n = 10*n + int64(d-'0')
		}
	}
	if n == math.MaxInt64 {
		return 0, largeBody
	}
	return n, nil
}

// coding checks a Transfer-Encoding.
func coding(value []byte) *refusal {
	if is(value, "chunked") {
		return nil
	}
	last := value
	if i := bytes.LastIndexByte(value, ','); i >= 0 {
		last = bytes.Trim(value[i+1:], " \t")
		if bytes.Contains(bytes.ToLower(value[:i]), []byte("chunked")) {
			return badCoding
		}
	}
	if !is(last, "chunked") {
		return badCoding
	}
	return otherCoding
}

// validHost reports whether h is uri-host [ ":" port ] of RFC 3986, section 3.2, and
// not empty, as an http URI's is not (RFC 9110, section 4.2.1). It has no user, whom
// fasthttp lets in, and nothing is escaped, which fasthttp knows not.
func validHost(h []byte) bool {
	i := 0
	if len(h) > 0 && h[0] == '[' {
		if i = bytes.IndexByte(h, ']') + 1; i == 0 {
			return false
		}
		if a, err := netip.ParseAddr(string(h[1 : i-1])); err != nil || !a.Is6() || a.Zone() != "" {
			return false
		}
	} else {
		for i < len(h) && class[h[i]]&inHost != 0 {
			i++
		}
	}
	if i == 0 {
		return false
	}
	if i == len(h) {
		return true
	}
	if h[i] != ':' {
		return false
	}
	port := 0
	for _, d := range h[i+1:] {
		if port = 10*port + int(d-'0'); !digit(d) || port > 65535 {
			return false
		}
	}
	return true
}

// scanTrailer reads the trailer that p begins with: n is its length, 0 if its end is
// not there yet.
func scanTrailer(p []byte) (n int, no *refusal) {
	for i := 0; ; {
		name, _, size, no := fieldLine(p[i:])
		i += max(size, -size)
		switch {
		case no != nil:
			return 0, no
		case i > trailerBytes || size == 0 && len(p) >= trailerBytes:
			return 0, longTrailer
		case size < 0:
			return i, nil
		case size == 0:
			return 0, nil
		}
		for _, never := range notInTrailer {
			if is(name, never) {
				return 0, badTrailer
			}
		}
	}
}

// notInTrailer are fields that must be known before the body (RFC 9110, section 6.5.1);
// those that fasthttp refuses too.
var notInTrailer = []string{
	"authorization", "connection", "content-encoding", "content-length", "content-range", "content-type", "cookie", "expect", "host", "keep-alive",
	"location", "max-forwards", "proxy-authenticate", "proxy-authorization", "proxy-connection", "range", "set-cookie", "te", "trailer",
	"transfer-encoding", "www-authenticate",
}

// is reports whether p is the word, which is in small letters, in any case.
func is(p []byte, word string) bool {
	if len(p) != len(word) {
		return false
	}
	for i, b := range p {
		if 'A' <= b && b <= 'Z' {
			b |= 0x20
		}
		if b != word[i] {
			return false
		}
	}
	return true
}

func digit(b byte) bool { return '0' <= b && b <= '9' }

// What a byte may be in.
const (
	inToken  = 1 << iota // RFC 9110, section 5.6.2
	inTarget             // visible, but for the # that begins what is never sent (RFC 9112, section 3.2)
	inHost               // a registered name (RFC 3986, section 3.2.2)
	inValue              // RFC 9110, section 5.5, and the white space around it
)

// class says what each byte may be in, and unhex what it is as a hexadecimal digit; 16
// is none.
var class, unhex = func() (class, unhex [256]uint8) {
	for i := range class {
		b := byte(i)
		letter := 'a' <= b|0x20 && b|0x20 <= 'z'
		among := func(s string) bool { return bytes.IndexByte([]byte(s), b) >= 0 }
		if letter || digit(b) || among("!#$%&'*+-.^_`|~") {
			class[i] |= inToken
		}
		if ' ' < b && b < 0x7f && b != '#' {
			class[i] |= inTarget
		}
		if letter || digit(b) || among("-._~!$&'()*+,;=") {
			class[i] |= inHost
		}
		if b >= ' ' && b != 0x7f || b == '\t' {
			class[i] |= inValue
		}
		switch unhex[i] = 16; {
		case digit(b):
			unhex[i] = b - '0'
		case 'a' <= b|0x20 && b|0x20 <= 'f':
			unhex[i] = b | 0x20 - 'a' + 10
		}
	}
	return class, unhex
}()

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
