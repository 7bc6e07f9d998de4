// Package proxy is a reverse proxy as a handler of net/http: requests below a prefix
// go to one of several servers of HTTP/1.1, over connections that are kept, and both
// bodies pass as they come. Each worker chooses, counts and checks for itself.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"drover/config"
	"drover/worker/proxyproto"
)

// Config says what goes where.
type Config struct {
	Routes []config.Proxy
	// Trusted are the proxies before this one, whose X-Forwarded-For, -Proto, -Host
	// and Forwarded are passed on and added to. Of anybody else they are dropped, and
	// say what is seen here.
	Trusted config.Trusted
	// Else answers what is below no prefix. Nil is 404.
	Else http.Handler
	// Draining closes upgraded connections, such as WebSockets, by its closing: a
	// worker's Draining. Nil never does.
	Draining <-chan struct{}
	// Log is told of requests that failed, at most once a second for each prefix, and
	// of upstreams that are out, and back. Nil is slog.Default.
	Log *slog.Logger
}

// Proxy is the handler. Its methods may be called from any goroutine.
type Proxy struct {
	routes    []*route // longest prefix first
	trusted   config.Trusted
	otherwise http.Handler
	draining  <-chan struct{}
	buffers   *buffers

	stop context.CancelFunc
	ends sync.WaitGroup
}

// New makes a proxy, and begins to check its upstreams. The caller closes it. Its
// error is a *config.Error.
func New(c Config) (*Proxy, error) {
	if err := config.CheckProxies(c.Routes); err != nil {
		return nil, err
	}
	p := &Proxy{trusted: c.Trusted, otherwise: c.Else, draining: c.Draining, buffers: &buffers{}}
	if p.otherwise == nil {
		p.otherwise = http.NotFoundHandler()
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	for _, r := range c.Routes {
		r := newRoute(r.WithDefaults(), c.Log)
		r.reverse = &httputil.ReverseProxy{
			Rewrite:        func(pr *httputil.ProxyRequest) { p.rewrite(r, pr) },
			Transport:      r,
			ModifyResponse: p.upgrade,
			ErrorHandler:   r.failed,
			ErrorLog:       slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug), // of answers that broke, or whose client left
			BufferPool:     p.buffers,
		}
		p.routes = append(p.routes, r)
		for _, u := range r.upstreams {
			p.ends.Go(func() { u.watch(ctx, r) })
		}
	}
	slices.SortStableFunc(p.routes, func(a, b *route) int { return len(b.Prefix) - len(a.Prefix) })
	return p, nil
}

// Close ends the checks, and closes connections that wait for a request. Requests
// that are under way go on.
func (p *Proxy) Close() {
	p.stop()
	p.ends.Wait()
	for _, r := range p.routes {
		r.transport.CloseIdleConnections()
	}
}

// call is one request on its way.
type call struct {
	*http.Request // as it came
	cancel        context.CancelFunc
	upstream      *upstream         // nil: none was chosen yet
	allOut        bool              // when it was chosen
	body          *body             // nil without one
	ends          [2]netip.AddrPort // of the client's connection, for the PROXY protocol: the client's first
	watch         sync.WaitGroup    // who looks for a drain; ends with the request's context

	connected, answered atomic.Bool // the last try: had a connection, a byte of an answer
}

type callKey struct{}

func callOf(r *http.Request) *call { return r.Context().Value(callKey{}).(*call) }

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i := slices.IndexFunc(p.routes, func(one *route) bool { return below(one.Prefix, r.URL.Path) })
	if i < 0 {
		p.otherwise.ServeHTTP(w, r)
		return
	}
	switch {
	case r.Method == http.MethodConnect: // it asks for a tunnel to anywhere (RFC 9110, section 9.3.6)
		http.Error(w, "this proxy makes no tunnels", http.StatusNotImplemented)
		return
	case dotted(r.URL.Path):
		// To the upstream it may be a path that is not below the prefix. Clients
		// resolve such segments before they ask (RFC 3986, section 5.2.4).
		http.Error(w, "the path has segments of dots: want it resolved", http.StatusBadRequest)
		return
	}
	if left, counted := forwards(r); counted && left == 0 { // we are who is meant
		if r.Method == http.MethodTrace {
			http.Error(w, "this proxy shows nobody what it was asked", http.StatusNotImplemented)
		}
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	c := &call{Request: r, cancel: cancel}
	if p.routes[i].ProxyProtocol > 0 {
		c.ends = p.endsOf(r)
	}
	defer c.watch.Wait()
	defer c.release()
	defer cancel()
	r = r.WithContext(context.WithValue(ctx, callKey{}, c))
	if r.ContentLength != 0 {
		c.body = &body{client: r.Body}
		defer c.body.over.Store(true)
		r.Body = c.body
		// Else the server would take what is left of the body before it sends an
		// answer's header, which may come first.
		_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 is so anyway
	}
	p.routes[i].reverse.ServeHTTP(w, r)
}

// below reports whether a path is the prefix, or below it.
func below(prefix, path string) bool {
	if prefix == "/" {
		return strings.HasPrefix(path, "/")
	}
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/')
}

// forwards is how many proxies a request may still pass, where it says so and is one of
// those that count (RFC 9110, section 7.6.2).
func forwards(r *http.Request) (left uint64, counted bool) {
	if r.Method != http.MethodTrace && r.Method != http.MethodOptions {
		return 0, false
	}
	left, err := strconv.ParseUint(r.Header.Get("Max-Forwards"), 10, 64)
	return left, err == nil
}

// endsOf are the client's address, as far as it is known, and the one it connected to.
// A trusted proxy names no port.
func (p *Proxy) endsOf(r *http.Request) (ends [2]netip.AddrPort) {
	peer := config.PeerOf(r.RemoteAddr)
	if tcp, ok := peer.(*net.TCPAddr); ok {
		ends[0] = netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap().WithZone(""), tcp.AddrPort().Port())
	}
	if client := p.trusted.Client(peer, r.Header.Values); client != ends[0].Addr() {
		ends[0] = netip.AddrPortFrom(client, 0)
	}
	if tcp, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		ends[1] = tcp.AddrPort()
	}
	return ends
}

// dotted reports whether a path, decoded, has a segment "." or "..".
func dotted(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// rewrite makes the request to the upstream of the client's. What is for one
// connection only is not in it any more (RFC 9110, section 7.6.1).
func (p *Proxy) rewrite(r *route, pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	out.URL.RawQuery = in.URL.RawQuery // nobody here goes by it
	out.Trailer = in.Trailer           // the very map: it is filled once the body is read
	if r.StripPrefix && r.Prefix != "/" {
		out.URL.Path = rooted(strings.TrimPrefix(in.URL.Path, r.Prefix))
		out.URL.RawPath = ""
		if below(r.Prefix, in.URL.RawPath) {
			out.URL.RawPath = rooted(strings.TrimPrefix(in.URL.RawPath, r.Prefix))
		}
	}
	if left, counted := forwards(in); counted {
		out.Header.Set("Max-Forwards", strconv.FormatUint(left-1, 10))
	}
	p.forward(in, out.Header)
	via := "1.1 drover"
	if in.ProtoMajor == 2 {
		via = "2.0 drover"
	}
	if before := out.Header.Values("Via"); len(before) > 0 {
		via = strings.Join(before, ", ") + ", " + via
	}
	out.Header.Set("Via", via) // RFC 9110, section 7.6.3
}

func rooted(path string) string {
	if !strings.HasPrefix(path, "/") {
		return "/" + path
	}
	return path
}

// forward says in a request's header who the client is, and what it has asked of
// whom.
func (p *Proxy) forward(in *http.Request, h http.Header) {
	peer := config.PeerOf(in.RemoteAddr)
	proto := "http"
	if in.TLS != nil {
		proto = "https"
	}
	host, chain, forwarded := in.Host, "", ""
	if p.trusted.Has(peer) {
		chain = strings.Join(in.Header.Values("X-Forwarded-For"), ", ")
		forwarded = strings.Join(in.Header.Values("Forwarded"), ", ")
		if before := in.Header.Get("X-Forwarded-Proto"); before != "" {
			proto = before
		}
		if before := in.Header.Get("X-Forwarded-Host"); before != "" {
			host = before
		}
	}
	node := "unknown" // RFC 7239, section 6.2
	if tcp, ok := peer.(*net.TCPAddr); ok {
		address := tcp.AddrPort().Addr().Unmap().WithZone("")
		node = address.String()
		chain = join(chain, node)
		if address.Is6() {
			node = `"[` + node + `]"` // section 6
		}
	}
	if chain != "" {
		h.Set("X-Forwarded-For", chain)
	}
	h.Set("X-Forwarded-Proto", proto)
	h.Set("X-Forwarded-Host", host)
	own := "http"
	if in.TLS != nil {
		own = "https"
	}
	h.Set("Forwarded", join(forwarded, "for="+node+";host="+quoted(in.Host)+";proto="+own))
}

func join(before, one string) string {
	if before == "" {
		return one
	}
	return before + ", " + one
}

// quoted is a value as a quoted string (RFC 9110, section 5.6.4): a host has a ':'
// where it has a port.
func quoted(s string) string {
	if strings.ContainsAny(s, `\"`) {
		s = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
	}
	return `"` + s + `"`
}

// upgrade closes a connection that is none of HTTP any more when the drain begins:
// whatever is said on it, nobody here knows when it is over.
func (p *Proxy) upgrade(res *http.Response) error {
	if res.StatusCode != http.StatusSwitchingProtocols || p.draining == nil {
		return nil
	}
	c, done := callOf(res.Request), res.Request.Context().Done()
	c.watch.Go(func() {
		select {
		case <-p.draining:
			c.cancel()
		case <-done:
		}
	})
	return nil
}

// body is a request's body. It tells what the client did from what the upstream did.
type body struct {
	client io.Reader
	begun  atomic.Bool
	over   atomic.Bool           // the handler has returned: the body is the server's again
	err    atomic.Pointer[error] // that reading it has ended with, but for its end
}

func (b *body) Read(p []byte) (int, error) {
	b.begun.Store(true)
	if b.over.Load() {
		return 0, net.ErrClosed
	}
	n, err := b.client.Read(p)
	if err != nil && err != io.EOF {
		b.err.Store(&err)
	}
	return n, err
}

// Close leaves the body to the server, and to a further try.
func (b *body) Close() error { return nil }

// failure is why the body could not be read, or nil.
func (b *body) failure() error {
	if b == nil {
		return nil
	}
	if err := b.err.Load(); err != nil {
		return *err
	}
	return nil
}

// statusGone is for the log: the client has left, and gets no answer (as nginx has it).
const statusGone = 499

// failed answers a request that no upstream has answered.
func (r *route) failed(w http.ResponseWriter, req *http.Request, err error) {
	c := callOf(req)
	var large *http.MaxBytesError
	var timeout net.Error
	bad := c.body.failure()
	status := http.StatusBadGateway
	switch {
	case errors.As(bad, &large):
		status = http.StatusRequestEntityTooLarge
	case bad != nil && errors.Is(bad, os.ErrDeadlineExceeded):
		status = http.StatusRequestTimeout
	case c.Request.Context().Err() != nil:
		status = statusGone
	case bad != nil:
		status = http.StatusBadRequest
	case errors.As(err, &timeout) && timeout.Timeout():
		status = http.StatusGatewayTimeout
	case c.allOut:
		status = http.StatusServiceUnavailable
	}
	if status >= 500 {
		r.tell(c, status, err)
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2")
	}
	if bad != nil {
		w.Header().Set("Connection", "close") // what is left of the body is nobody's
	}
	if status == statusGone {
		w.WriteHeader(status)
		return
	}
	http.Error(w, http.StatusText(status), status)
}

// tell logs a request that has failed, at most one a second.
func (r *route) tell(c *call, status int, err error) {
	now := time.Now().UnixNano()
	if was := r.told.Load(); now-was < int64(time.Second) || !r.told.CompareAndSwap(was, now) {
		r.untold.Add(1)
		return
	}
	upstream := ""
	if c.upstream != nil {
		upstream = c.upstream.name
	}
	r.log.Warn("proxy: no answer of an upstream", "prefix", r.Prefix, "upstream", upstream, "status", status,
		"method", c.Method, "path", c.URL.Path, "error", err, "unlogged", r.untold.Swap(0))
}

// buffers lends buffers to copy by.
type buffers struct{ free sync.Pool }

const bufferBytes = 32 << 10

// Get gives a buffer.
func (b *buffers) Get() []byte {
	if one, ok := b.free.Get().(*[bufferBytes]byte); ok {
		return one[:]
	}
	return make([]byte, bufferBytes)
}

// Put takes it back.
func (b *buffers) Put(one []byte) { b.free.Put((*[bufferBytes]byte)(one)) }

// idleTime is how long a connection to an upstream is kept without a request: less
// than the 5 s after which Node's http server closes it (nodejs.org/api/http.html,
// server.keepAliveTimeout), so that no request meets the close.
const idleTime = 4 * time.Second

// keptIdle bounds the connections to one upstream that wait for a request.
const keptIdle = 256

// newTransport makes the connections of a route.
func newTransport(p config.Proxy) *http.Transport {
	dialer := net.Dialer{Timeout: max(0, p.DialTimeout)}
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err == nil && p.ResponseTimeout > 0 {
				c = &patient{c, p.ResponseTimeout}
			}
			if err != nil || p.ProxyProtocol == 0 {
				return c, err
			}
			var ends [2]netip.AddrPort // of a check: it speaks for itself
			if of, ok := ctx.Value(callKey{}).(*call); ok {
				ends = of.ends
			}
			if _, err := c.Write(proxyproto.Append(nil, p.ProxyProtocol, ends[0], ends[1])); err != nil {
				c.Close()
				return nil, err
			}
			return c, nil
		},
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    max(0, p.DialTimeout),
		DisableKeepAlives:      p.ProxyProtocol > 0,
		DisableCompression:     true, // what is asked for, and answered, passes as it is
		MaxIdleConnsPerHost:    keptIdle,
		IdleConnTimeout:        idleTime,
		ResponseHeaderTimeout:  max(0, p.ResponseTimeout),
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	return t
}

// patient is a connection whose writes each have a time limit.
type patient struct {
	net.Conn
	limit time.Duration
}

func (c *patient) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
