package engine

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"syscall"
	"time"

	"drover/ipc/scoreboard"

	"github.com/valyala/fasthttp"
)

// Fast is an engine on fasthttp.
type Fast struct {
	base
	server  *fasthttp.Server
	handler fasthttp.RequestHandler

	requests int // of a connection, at most; 0: without bound
}

// FastHTTP makes an engine that answers with h. Values that h takes from its
// ctx are valid until it returns, as fasthttp has it.
func FastHTTP(h fasthttp.RequestHandler) *Fast {
	return FastHTTPServer(&fasthttp.Server{Handler: h})
}

// FastHTTPServer makes an engine of a server with its own settings, which it
// takes over. drover's limits hold where the server sets none.
//
// A connection in plain text has no goroutine between two requests, and is to fasthttp
// a new one with the next: ConnID, ConnRequestNum and ConnTime of a RequestCtx begin
// anew then, and GetOpenConnectionsCount counts those only that are served. A server
// that sets ReadTimeout, WriteTimeout, IdleTimeout, Concurrency, MaxConnsPerIP, ConnState,
// HeaderReceived or ReduceMemoryUsage keeps a goroutine for each.
func FastHTTPServer(s *fasthttp.Server) *Fast {
	return &Fast{base: newBase(false), server: s, handler: s.Handler}
}

// Serve answers on l until l is closed, and then returns nil. It may be called
// for several listeners at once.
func (f *Fast) Serve(l net.Listener) error {
	if f.setup.Do(f.configure); f.setupErr != nil {
		return f.setupErr
	}
	err := f.server.Serve(f.listen(l, f.encrypt))
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// configure fills the server's settings in.
func (f *Fast) configure() {
	s := f.server
	if s.Name == "" {
		s.Name = "drover"
	}
	if s.ReadBufferSize == 0 {
		s.ReadBufferSize = f.limits.HeaderBytes // fasthttp's bound of a header
		if s.ReadBufferSize < 0 {
			s.ReadBufferSize = 1 << 20
		}
	}
	if s.MaxRequestBodySize == 0 {
		s.MaxRequestBodySize = f.limits.BodyBytes
		if s.MaxRequestBodySize < 0 {
			s.MaxRequestBodySize = math.MaxInt
		}
	}
	if f.parks() {
		f.serve = f.goOn
	}
	if s.Concurrency == 0 {
		s.Concurrency = max(f.limits.Connections, fasthttp.DefaultConcurrency) // the tracker bounds connections
	}
	if f.requests = s.MaxRequestsPerConn; f.requests <= 0 {
		f.requests = max(0, f.limits.ConnectionRequests)
	}
	s.MaxRequestsPerConn = 0 // fasthttp counts anew when a parked connection goes on
	answer := plainRefusal
	if s.ErrorHandler == nil {
		s.ErrorHandler = f.refuse
	} else {
		answer = f.ownRefusal
	}
	most := int64(s.MaxRequestBodySize)
	if s.HeaderReceived != nil { // it may say another bound for each request
		most = math.MaxInt64
	}
	f.bounds = bounds{header: s.ReadBufferSize, body: most}
	f.guarded(answer)
	f.failed = f.panicked
	if s.Logger == nil {
		s.Logger = slog.NewLogLogger(f.log.Handler(), slog.LevelWarn)
	}
	f.part = s.WriteBufferSize
	if f.part <= 0 {
		f.part = 4096 // fasthttp/server.go, defaultWriteBufferSize
	}
	s.Handler = f.handle
	f.access, f.setupErr = newAccessLog(f.limits, f.trusted, f.log)
}

// parks reports whether connections are parked between two requests: not where a
// program has set what fasthttp would keep with the goroutine that serves one.
func (f *Fast) parks() bool {
	s := f.server
	return s.ReadTimeout == 0 && s.WriteTimeout == 0 && s.IdleTimeout == 0 && s.Concurrency == 0 && s.MaxConnsPerIP == 0 &&
		s.ConnState == nil && s.HeaderReceived == nil && !s.ReduceMemoryUsage
}

// goOn serves on what was parked, and logs what fasthttp logs of a connection that it
// has begun itself (fasthttp/workerpool.go, workerFunc).
func (f *Fast) goOn(c net.Conn) {
	err := f.server.ServeConn(c)
	var netErr net.Error
	usual := errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &netErr) && netErr.Timeout()
	if err != nil && (!usual || f.server.LogAllErrors) {
		f.server.Logger.Printf("error when serving connection %q<->%q: %v", c.LocalAddr(), c.RemoteAddr(), err)
	}
}

// handle is around each request.
func (f *Fast) handle(ctx *fasthttp.RequestCtx) {
	c := ours(ctx.Conn())
	if c != nil {
		c.enter(handling, 0)
	}
	token := f.board.Begin(ctx.Time(), ctx.Method(), ctx.RequestURI())
	f.call(ctx)
	if late := ctx.LastTimeoutErrorResponse(); late != nil {
		f.timedOut(ctx, c, token, late)
		return
	}
	if ctx.Hijacked() { // told to close, fasthttp would not call the hijacker
		f.board.Upgraded(token)
		if f.access != nil {
			f.access.fast(ctx, &ctx.Response, 0)
		}
		if c != nil {
			c.upgraded()
		}
		return
	}
	if ctx.Response.IsBodyStream() {
		f.frame(ctx)
	}
	reading := leftover(ctx)
	if f.isLast(ctx, c) {
		ctx.SetConnectionClose()
	}
	f.board.End(token, ctx.Response.StatusCode(), requestBytes(ctx), responseBytes(&ctx.Response))
	if f.access != nil {
		f.access.fast(ctx, &ctx.Response, responseBytes(&ctx.Response))
	}
	if c != nil && !reading {
		switch {
		case c.cork != nil:
			c.whole = inMemory(ctx)
		case c.wait > 0:
			c.whole = inMemory(ctx) && hasMore(ctx, c.wait)
		}
		c.enter(answered, 0)
	}
}

// timedOut is handle behind a handler that has answered by ctx.TimeoutError. It may
// still be at work with ctx, whose response and body are its own from then on; what it
// leaves of a streamed body would be taken for the next request.
func (f *Fast) timedOut(ctx *fasthttp.RequestCtx, c *conn, token scoreboard.Token, answer *fasthttp.Response) {
	if f.isLast(ctx, c) || ctx.Request.IsBodyStream() {
		answer.Header.SetConnectionClose()
	}
	f.board.End(token, answer.StatusCode(), requestBytes(ctx), responseBytes(answer))
	if f.access != nil {
		f.access.fast(ctx, answer, responseBytes(answer))
	}
	if c != nil {
		c.whole = false
		c.enter(answered, 0)
	}
}

// isLast counts a connection's request, and reports whether its answer is to be the last.
func (f *Fast) isLast(ctx *fasthttp.RequestCtx, c *conn) bool {
	if c == nil {
		return f.isDraining()
	}
	c.requests++
	return f.requests > 0 && c.requests >= f.requests || f.isDraining() || c.guard.listed && f.closes(ctx)
}

// inMemory reports whether all of an answer is there.
func inMemory(ctx *fasthttp.RequestCtx) bool { return !ctx.Response.IsBodyStream() }

// hasMore reports whether an answer is certain to have more than so many bytes, by
// its body alone: not every answer that has a body is sent with it (RFC 9110, section
// 6.4.1).
func hasMore(ctx *fasthttp.RequestCtx, part int) bool {
	switch status := ctx.Response.StatusCode(); {
	case len(ctx.Response.Body()) <= part, ctx.Response.SkipBody, ctx.IsHead():
		return false
	case status < 200, status == fasthttp.StatusNoContent, status == fasthttp.StatusNotModified:
		return false
	}
	return true
}

// closes reports whether a request's Connection fields ask to close.
func (f *Fast) closes(ctx *fasthttp.RequestCtx) bool {
	for _, v := range ctx.Request.Header.PeekAll("Connection") {
		if closes(v) {
			return true
		}
	}
	return false
}

// call calls the handler, and answers 500 when it panics.
func (f *Fast) call(ctx *fasthttp.RequestCtx) {
	defer func() {
		if v := recover(); v != nil {
			id := named(string(ctx.Response.Header.Peek(RequestIDHeader)))
			v, kind, page := failed(v, id)
			f.panicked(v, string(ctx.Method()), string(ctx.Path()), id)
			ctx.Response.Reset()
			ctx.Hijack(nil)
			ctx.HijackSetNoResponse(false)
			ctx.SetStatusCode(fasthttp.StatusInternalServerError)
			ctx.SetContentType(kind)
			ctx.SetBody(page)
			ctx.Response.Header.Set(RequestIDHeader, id)
		}
	}()
	f.handler(ctx)
}

// requestBytes is the length of a request's header and of its body, as far as
// it is known before it is read.
func requestBytes(ctx *fasthttp.RequestCtx) int64 {
	n := int64(len(ctx.Request.Header.RawHeaders()))
	if length := ctx.Request.Header.ContentLength(); length > 0 {
		n += int64(length)
	}
	return n
}

// responseBytes is the length of a response's body, as far as it is known before
// it is written.
func responseBytes(answer *fasthttp.Response) int64 {
	if answer.IsBodyStream() {
		return int64(max(0, answer.Header.ContentLength()))
	}
	return int64(len(answer.Body()))
}

// refuse answers what fasthttp could not read, and counts the answer. A
// connection that sent nothing is no request.
func (f *Fast) refuse(ctx *fasthttp.RequestCtx, err error) {
	status := statusOf(err)
	if c := ours(ctx.Conn()); c != nil && c.guard.refused != nil {
		status = c.guard.refused.status
	}
	ctx.Error(fasthttp.StatusMessage(status), status)
	ctx.SetConnectionClose()
	if c := ours(ctx.Conn()); c != nil && !c.is(fresh) {
		f.board.End(f.board.Begin(time.Time{}, nil, nil), status, 0, responseBytes(&ctx.Response))
		if f.access != nil && f.access.chosen() {
			f.access.put(&entry{at: time.Now(), remote: ctx.RemoteAddr(), status: status, bytes: responseBytes(&ctx.Response)})
		}
	}
}

// ownRefusal has the program's own handler answer what a guard refuses.
func (f *Fast) ownRefusal(c *conn, no *refusal) (status int, answer []byte) {
	var ctx fasthttp.RequestCtx
	ctx.Init2(c, f.server.Logger, true)
	f.server.ErrorHandler(&ctx, no)
	ctx.SetConnectionClose()
	ctx.Response.Header.SetServer(f.server.Name)
	return ctx.Response.StatusCode(), []byte(ctx.Response.String())
}

// statusOf is the status for an error of fasthttp's reading.
func statusOf(err error) int {
	var small *fasthttp.ErrSmallBuffer
	var netErr net.Error
	switch {
	case errors.As(err, &small):
		return fasthttp.StatusRequestHeaderFieldsTooLarge
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		return fasthttp.StatusRequestEntityTooLarge
	case errors.As(err, &netErr) && netErr.Timeout():
		return fasthttp.StatusRequestTimeout
	}
	return fasthttp.StatusBadRequest
}

// Shutdown is called when every listener is closed. It closes idle connections,
// waits until none is left, at most until ctx ends, and then returns ctx's
// error.
func (f *Fast) Shutdown(ctx context.Context) error {
	defer f.access.close()
	if err := f.drain(ctx); err != nil {
		return err
	}
	return f.server.ShutdownWithContext(ctx)
}
