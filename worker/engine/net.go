package engine

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"drover/ipc/scoreboard"
)

// Net is an engine on net/http.
type Net struct {
	base
	server  *http.Server
	handler http.Handler
	state   func(net.Conn, http.ConnState)
}

// NetHTTP makes an engine that answers with h; nil is http.DefaultServeMux.
func NetHTTP(h http.Handler) *Net { return Server(&http.Server{Handler: h}) }

// Server makes an engine of a server with its own settings, which it takes
// over. drover's limits hold where the server sets none.
func Server(s *http.Server) *Net {
	n := &Net{base: newBase(true), server: s, handler: s.Handler, state: s.ConnState}
	if n.handler == nil {
		n.handler = http.DefaultServeMux
	}
	return n
}

// Serve answers on l until l is closed, and then returns nil. It may be called
// for several listeners at once.
func (n *Net) Serve(l net.Listener) error {
	if n.setup.Do(n.configure); n.setupErr != nil {
		return n.setupErr
	}
	err := n.server.Serve(n.listen(l, n.encrypt))
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// configure fills the server's settings in.
func (n *Net) configure() {
	s := n.server
	if s.ReadHeaderTimeout == 0 && s.ReadTimeout == 0 {
		s.ReadHeaderTimeout = n.limits.HeaderTimeout
	}
	if s.IdleTimeout == 0 {
		s.IdleTimeout = n.limits.IdleTimeout
	}
	n.bounds = bounds{header: s.MaxHeaderBytes, body: int64(n.limits.BodyBytes)}
	if n.bounds.header == 0 {
		n.bounds.header = n.limits.HeaderBytes
	}
	n.bounds.http2 = s.Protocols != nil && s.Protocols.UnencryptedHTTP2()
	n.guarded(plainRefusal)
	if s.MaxHeaderBytes == 0 && n.limits.HeaderBytes > 0 {
		// The server allows 4096 bytes more than it is told (net/http/server.go,
		// initialReadLimitSize).
		s.MaxHeaderBytes = max(1, n.limits.HeaderBytes-4096)
	}
	if s.ErrorLog == nil {
		s.ErrorLog = slog.NewLogLogger(n.log.Handler(), slog.LevelWarn)
	}
	s.ConnState = n.connState
	n.context()
	if most := n.limits.ConnectionRequests; most > 0 {
		n.count(most)
	}
	s.Handler = http.HandlerFunc(n.handle)
	n.access, n.setupErr = newAccessLog(n.limits, n.trusted, n.log)
}

// served is the key under which a connection's context has how many requests it has
// served, an *atomic.Int64, where those are bounded.
type served struct{}

// context has the contexts of connections made.
func (n *Net) context() {
	own := n.server.ConnContext
	n.server.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		if _, seen := tracked(nc); own != nil {
			ctx = own(ctx, seen)
		}
		if n.limits.ConnectionRequests > 0 {
			ctx = context.WithValue(ctx, served{}, new(atomic.Int64))
		}
		if a, ok := nc.(*asked); ok {
			a.ctx = ctx
		}
		return ctx
	}
}

// count bounds the requests of each connection.
func (n *Net) count(most int) {
	handler := n.handler
	n.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if so := r.Context().Value(served{}).(*atomic.Int64); so.Add(1) >= int64(most) && r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
}

// connState follows the server's own states.
func (n *Net) connState(nc net.Conn, s http.ConnState) {
	c, seen := tracked(nc)
	if c != nil {
		switch s {
		case http.StateActive:
			c.handle()
		case http.StateIdle:
			c.enter(idle, 0)
		case http.StateHijacked:
			c.upgraded()
		}
	}
	if n.state != nil {
		n.state(seen, s)
	}
}

// handle is around each request.
func (n *Net) handle(w http.ResponseWriter, r *http.Request) {
	var method [scoreboard.MaxMethod]byte
	var path [scoreboard.MaxPath]byte
	token := n.board.Begin(time.Time{}, method[:copy(method[:], r.Method)], path[:copy(path[:], r.URL.Path)])
	a := &answer{ResponseWriter: w, draining: n.isDraining, upgraded: func() { n.board.Upgraded(token) }}
	var begun time.Time
	if n.access != nil {
		begun = time.Now()
	}
	defer func() {
		v := recover()
		if v != nil && v != http.ErrAbortHandler {
			id := named(a.Header().Get(RequestIDHeader))
			value, kind, page := failed(v, id)
			n.panicked(value, r.Method, r.URL.Path, id)
			if !a.began {
				a.fail(id, kind, page)
				v = nil
			} else {
				v = http.ErrAbortHandler // half an answer must not look whole
			}
		}
		a.begin(http.StatusOK)
		a.body.last()
		if a.hijacked {
			a.status = http.StatusSwitchingProtocols
		} else {
			n.board.End(token, a.status, max(0, r.ContentLength), a.written)
			a.body.limited() // the server reads what the handler has left of it
		}
		if n.access != nil {
			n.access.net(r, a.Header(), begun, a.status, a.written)
		}
		if v != nil {
			panic(v)
		}
	}()
	if r.Body != http.NoBody {
		// The handler gets a copy: by its own request's Body the server knows
		// what is left of it, and whether its client waits for 100 Continue.
		own := r
		r = new(http.Request)
		*r = *own
		defer func() { own.MultipartForm = r.MultipartForm }() // whose files the server removes
		n.bound(a, w, r)
	}
	if most := int64(n.limits.BodyBytes); most > 0 && r.ContentLength > most {
		a.Header().Set("Connection", "close")
		http.Error(a, "Request Entity Too Large", http.StatusRequestEntityTooLarge)
		return
	}
	if r.Method == prefaceMethod && r.ProtoMajor == 2 { // a server that may speak it in plain text takes it before
		a.Header().Set("Connection", "close")
		http.Error(a, prefaceAnswer, http.StatusHTTPVersionNotSupported)
		return
	}
	n.handler.ServeHTTP(a, r)
}

// bound puts the limits of bytes and time around a request's body.
func (n *Net) bound(a *answer, w http.ResponseWriter, r *http.Request) {
	if most := int64(n.limits.BodyBytes); most > 0 {
		r.Body = http.MaxBytesReader(w, r.Body, most)
	}
	limit, whole := n.limits.BodyTimeout, n.limits.RequestTimeout
	if (limit > 0 || whole > 0) && n.server.ReadTimeout == 0 {
		a.body = &timedBody{ReadCloser: r.Body, request: r, rc: http.NewResponseController(w), limit: limit}
		if whole > 0 {
			a.body.by = time.Now().Add(whole)
		}
		a.body.limited()
		r.Body = a.body
	}
}

// Shutdown is called when every listener is closed. It closes idle connections,
// waits until none is left, at most until ctx ends, and then returns ctx's
// error. The server's own Shutdown comes last: it drops a request that is first
// read after it began.
func (n *Net) Shutdown(ctx context.Context) error {
	defer n.access.close()
	if err := n.drain(ctx); err != nil {
		n.server.Close()
		return err
	}
	return n.server.Shutdown(ctx)
}

// answer counts a response, and asks the client to close during a drain.
type answer struct {
	http.ResponseWriter
	draining func() bool
	body     *timedBody // nil without one
	status   int
	written  int64
	began    bool
	hijacked bool
	upgraded func() // called when it is hijacked: the handler may go on for days
}

// begin is what happens before the first byte of a response. An informational
// response (1xx, RFC 9110, section 15.2) is not yet it.
func (a *answer) begin(status int) {
	if a.began || a.hijacked {
		return
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	a.began, a.status = true, status
	if a.draining() {
		a.Header().Set("Connection", "close")
	}
	a.body.rest(a.Header())
}

// fail answers for a handler that panicked.
func (a *answer) fail(id, contentType string, page []byte) {
	h := a.Header()
	for _, whole := range []string{"Content-Length", "Content-Encoding", "Etag", "Last-Modified", "Cache-Control"} { // of what is not answered
		h.Del(whole)
	}
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(RequestIDHeader, id)
	a.WriteHeader(http.StatusInternalServerError)
	_, _ = a.Write(page) // the client has left: nobody is to be told
}

func (a *answer) WriteHeader(status int) {
	a.begin(status)
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	a.begin(http.StatusOK)
	n, err := a.ResponseWriter.Write(p)
	a.written += int64(n)
	return n, err
}

// ReadFrom lets the server send a file without copying it.
func (a *answer) ReadFrom(r io.Reader) (int64, error) {
	a.begin(http.StatusOK)
	n, err := io.Copy(a.ResponseWriter, r)
	a.written += n
	return n, err
}

func (a *answer) Flush() {
	a.begin(http.StatusOK)
	_ = http.NewResponseController(a.ResponseWriter).Flush()
}

func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err == nil && !a.hijacked {
		a.hijacked = true
		a.upgraded()
	}
	return c, rw, err
}

// EnableFullDuplex leaves the body to the handler while it answers.
func (a *answer) EnableFullDuplex() error {
	err := http.NewResponseController(a.ResponseWriter).EnableFullDuplex()
	if a.body != nil && err == nil {
		a.body.duplex = true
	}
	return err
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// timedBody bounds how long a body may make no progress, and take in all. Until it is over the
// connection's reads have a limit; the server lifts it when the body is at its
// end, and it waits for the client to leave.
type timedBody struct {
	io.ReadCloser
	request *http.Request
	rc      *http.ResponseController
	limit   time.Duration // of no progress; below 0: none
	by      time.Time     // until when it is to be there; zero: no limit
	duplex  bool
	taken   atomic.Int64
	over    atomic.Bool // read to its end, or failed: then the last limit stays
}

func (b *timedBody) Read(p []byte) (int, error) {
	b.limited()
	n, err := b.ReadCloser.Read(p)
	b.taken.Add(int64(n))
	if err != nil {
		b.over.Store(true)
	}
	return n, err
}

// limited limits the reads of what is left of the body, from now on.
func (b *timedBody) limited() {
	if b == nil || b.over.Load() {
		return
	}
	by := b.by
	if now := time.Now(); b.limit > 0 && (by.IsZero() || by.Sub(now) > b.limit) {
		by = now.Add(b.limit)
	}
	_ = b.rc.SetReadDeadline(by) // fails only on a closed connection
}

// last takes what is left of a body by a handler that answered before its end
// (EnableFullDuplex). The server itself would take it when it has ceased to watch for
// the client's leaving, begin to watch anew at the body's end, and panic as it reads
// the next request (net/http/server.go, finishRequest: "invalid concurrent Body.Read
// call").
func (b *timedBody) last() {
	if b != nil && b.duplex && !b.over.Load() && b.request.ProtoMajor == 1 {
		_, _ = io.CopyN(io.Discard, b, leftoverBytes+1)
	}
}

// rest takes what the handler has left of a body before it answers, under the
// limit. The server itself would take it while it writes the header, and nobody
// would know whether a limit may still be set. In a connection that will close
// it stays.
func (b *timedBody) rest(answer http.Header) {
	if b == nil || b.over.Load() || b.duplex || b.request.ProtoMajor != 1 || b.request.Close || answer.Get("Connection") == "close" {
		return
	}
	if b.taken.Load() == 0 && b.request.Header.Get("Expect") != "" {
		return // it is not sent before we ask for it: the server closes
	}
	if b.request.ContentLength-b.taken.Load() <= leftoverBytes {
		if _, err := io.CopyN(io.Discard, b, leftoverBytes+1); err == io.EOF {
			return
		}
	}
	answer.Set("Connection", "close")
}
