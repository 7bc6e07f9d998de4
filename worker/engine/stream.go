package engine

import (
	"bufio"
	"io"
	"net"
	"sync/atomic"

	"drover/internal/sys"

	"github.com/valyala/fasthttp"
)

// leftoverBytes bounds what is read of a streamed body that the handler has left,
// in bytes, so that its connection can be kept: as net/http has it
// (net/http/server.go, maxPostHandlerReadBytes).
const leftoverBytes = 256 << 10

// leftover takes what the handler has left of a body that it was given as a stream
// (StreamRequestBody): fasthttp would take it for the next request of the
// connection (RFC 9112, section 9.3: a server reads the entire body or closes the
// connection). It reports whether the answer may still read the body, while it is
// sent; then the connection closes behind it, unless the body is at its end.
//
// A handler must wrap the stream before it gives it to SetBodyStream: fasthttp v1.74.0
// releases what it finds there as a response's, and again as a request's, and would
// then give it to two connections at once. It cannot be mended from here.
func leftover(ctx *fasthttp.RequestCtx) bool {
	body := ctx.RequestBodyStream()
	if body == nil {
		return false
	}
	if !ctx.Response.IsBodyStream() {
		if _, err := io.CopyN(io.Discard, body, leftoverBytes+1); err != io.EOF {
			ctx.SetConnectionClose()
		}
		return false
	}
	if ctx.Request.Header.ContentLength() >= 0 { // the end of a chunked one may be still to come
		if _, err := body.Read(nil); err == io.EOF {
			return false
		}
	}
	ctx.SetConnectionClose()
	return true
}

// frame mends how fasthttp v1.74.0 would send a stream whose length nobody knows.
func (f *Fast) frame(ctx *fasthttp.RequestCtx) {
	answer := &ctx.Response
	if answer.Header.ContentLength() >= 0 {
		return
	}
	status, old := answer.StatusCode(), !ctx.Request.Header.IsHTTP11()
	bodiless := status < 200 || status == fasthttp.StatusNoContent
	switch {
	case bodiless || status == fasthttp.StatusNotModified || ctx.IsHead() || answer.SkipBody:
		// It would write the end of the chunks nevertheless (fasthttp/http.go,
		// writeBodyStream), which a client takes for the next answer's begin (RFC 9112,
		// section 6.3).
		answer.ResetBody() // closes it
		if answer.Header.SetContentLength(-1); bodiless || old {
			answer.Header.Del(fasthttp.HeaderTransferEncoding) // RFC 9112, section 6.1
		}
	case old:
		f.toTheEnd(ctx)
	}
}

// toTheEnd sends a stream to a client of HTTP/1.0, which knows no chunks: its end is the
// connection's (RFC 9112, sections 6.1 and 6.3). fasthttp would send chunks; so it is
// told that the connection is hijacked, for which it writes all answers before.
func (f *Fast) toTheEnd(ctx *fasthttp.RequestCtx) {
	answer := &ctx.Response
	answer.Header.Del(fasthttp.HeaderTransferEncoding)
	answer.Header.SetConnectionClose()
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(nc net.Conn) { // ctx is its until it returns (fasthttp/server.go, hijackConnHandler)
		defer nc.Close()
		defer func() {
			if v := recover(); v != nil {
				f.panicked(v, string(ctx.Method()), string(ctx.Path()), named(string(answer.Header.Peek(RequestIDHeader))))
				if c := ours(ctx.Conn()); c != nil {
					c.abandon() // half an answer must not look whole
				}
			}
		}()
		_, err := nc.Write(answer.Header.Header())
		if err == nil {
			_, err = io.Copy(nc, answer.BodyStream())
		}
		if c := ours(ctx.Conn()); c != nil && err != nil {
			c.abandon()
		}
		_ = answer.CloseBodyStream() // of a cut one too, and nobody is left to be told
	})
}

// ours is the connection of fasthttp's that the tracker knows, or nil.
func ours(nc net.Conn) *conn {
	switch c := nc.(type) {
	case *conn:
		return c
	case *encrypted:
		return c.conn
	}
	return nil
}

// Stream has write write the answer's body, as fasthttp's SetBodyStreamWriter has it:
// in chunks, each sent when it is flushed, by a goroutine of its own, after the handler
// has returned, so that what write needs of ctx is taken before. Where it panics, which
// with SetBodyStreamWriter ends the process, the panic is counted and logged as a
// handler's is, and the connection is cut: half an answer must not look whole.
func Stream(ctx *fasthttp.RequestCtx, write func(w *bufio.Writer)) {
	c := ours(ctx.Conn())
	method, path, id := string(ctx.Method()), string(ctx.Path()), string(ctx.Response.Header.Peek(RequestIDHeader))
	s := new(stream)
	s.ReadCloser = fasthttp.NewStreamReader(func(w *bufio.Writer) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if c == nil { // it is no connection of drover's
				b := newBase(false)
				b.panicked(v, method, path, named(id))
				return
			}
			c.t.failed(v, method, path, named(id))
			if !s.closed.Load() {
				c.abandon()
			}
		}()
		write(w)
	})
	ctx.SetBodyStream(s, -1)
}

// stream is a body that a function writes.
type stream struct {
	io.ReadCloser
	closed atomic.Bool // nobody reads it any more: the connection has another request
}

func (s *stream) Close() error {
	s.closed.Store(true)
	return s.ReadCloser.Close()
}

// Gone is closed when the client of a request has left, or has ended its sending,
// as the context of a net/http request is cancelled: at most a second later. It is
// called by the handler, and the channel may be used after it, as in a body's
// stream. Of a request that did not come over a connection of drover's it is nil,
// which is never closed.
func Gone(ctx *fasthttp.RequestCtx) <-chan struct{} {
	c := ours(ctx.Conn())
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone == nil {
		c.gone = make(chan struct{})
		if c.over {
			close(c.gone)
		}
		c.watched.Store(!c.over)
	}
	return c.gone
}

// left closes gone, where somebody watches. It is called when the client has left,
// or the connection is closed.
func (c *conn) left() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.watched.CompareAndSwap(true, false) {
		close(c.gone)
	}
}

// hasLeft reports whether the client has closed its side, or the connection is
// broken.
func (c *conn) hasLeft() (gone bool) {
	if raw := c.raw(); raw != nil {
		_ = raw.Control(func(fd uintptr) { gone = sys.PeerLeft(int(fd)) })
	}
	return gone
}
