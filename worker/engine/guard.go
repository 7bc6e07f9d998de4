package engine

import (
	"bytes"
	"errors"
	"io"
	"os"
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
	anExtension             // before its name; it is ;name, ;name=token or ;name="text", and white space may be between
	anExtName
	anExtNameEnd // white space was behind the name
	anExtValue   // before it
	anExtToken
	anExtQuoted
	anExtEscaped  // behind a \ in it
	anExtValueEnd // of what was quoted
	anExtEnd      // white space was behind the value
	aSizeEnd      // the LF of the line
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

// extensionBytes bounds a body's chunk extensions together, which nobody uses, in
// bytes: below what net/http bears (net/http/internal/chunked.go, excess).
const extensionBytes = 4 << 10

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
			n, err := 0, error(nil)
			if c.serve != nil && g.at == aHeader && c.is(idle) {
				if n, err = c.between(p); n == 0 {
					return 0, err
				}
			} else {
				n, err = c.receive(p)
			}
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

// inBody reports whether the engine has a header whose body is not whole yet.
func (g *guard) inBody() bool { return g.at != aHeader && g.at != unguarded }

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
	var before []byte // a header of p behind which the next request comes
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
			if len(before) > 0 && bytes.HasPrefix(p[i:], before) { // as in many a pipeline: what is right of one is of the other
				i += len(before)
				g.blank = 0
				continue
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
			default:
				before = p[i-n : i]
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
	default:
		return g.extension(x)
	}
	return nil
}

// extension reads a byte of chunk extensions (RFC 9112, section 7.1.1; RFC 9110, section
// 5.6.4). Who takes a quote for another's end takes the line for another's.
func (g *guard) extension(x byte) *refusal {
	if g.extra++; g.extra > extensionBytes {
		return longExtension
	}
	white, token := x == ' ' || x == '\t', class[x]&inToken != 0
	switch at := g.at; {
	case at == anExtQuoted && x == '"':
		g.at = anExtValueEnd
	case at == anExtQuoted && x == '\\':
		g.at = anExtEscaped
	case at == anExtQuoted || at == anExtEscaped:
		if g.at = anExtQuoted; class[x]&inValue == 0 {
			return badExtension
		}
	case at == anExtension && token:
		g.at = anExtName
	case at == anExtValue && token:
		g.at = anExtToken
	case at == anExtValue && x == '"':
		g.at = anExtQuoted
	case (at == anExtension || at == anExtValue) && white, (at == anExtName || at == anExtToken) && token: // more of it
	case at == anExtension || at == anExtValue:
		return badExtension
	case x == '=' && (at == anExtName || at == anExtNameEnd):
		g.at = anExtValue
	case x == ';':
		g.at = anExtension
	case white && (at == anExtName || at == anExtNameEnd):
		g.at = anExtNameEnd
	case white:
		g.at = anExtEnd
	case x == '\r' && at != anExtNameEnd && at != anExtEnd:
		g.at = aSizeEnd
	default:
		return badExtension
	}
	return nil
}
