package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drover/config"
	"drover/internal/journal"
	"drover/ipc/scoreboard"
	"drover/worker/engine"
	"drover/worker/proxyproto"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for: the machine may be busy.
const patience = 30 * time.Second

// front is a proxy that serves on an engine of drover's.
type front struct {
	url, address string
	client       *http.Client
	board        *scoreboard.Board
	draining     chan struct{}
	log          *journal.Journal
	proxy        *Proxy
}

func start(t *testing.T, trusted []string, limits config.HTTP, routes ...config.Proxy) *front {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{address: l.Addr().String(), url: "http://" + l.Addr().String(), board: scoreboard.Private(), draining: make(chan struct{}), log: &journal.Journal{},
		client: &http.Client{Timeout: patience, Transport: &http.Transport{DisableCompression: true}}}
	believed, err := config.Trust(trusted...)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(f.log, nil))
	f.proxy, err = New(Config{Routes: routes, Trusted: believed, Draining: f.draining, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	e := engine.NetHTTP(f.proxy)
	e.Attach(f.board, limits, f.draining, log)
	served := make(chan error)
	go func() { served <- e.Serve(l) }()
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		l.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := e.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		f.proxy.Close()
	})
	return f
}

// upstream is a server that answers by h.
func serving(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// raw is a server that does with each connection what it is told, and closes it.
func raw(t *testing.T, do func(net.Conn)) (url string, accepted *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	accepted = new(atomic.Int64)
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			all.Go(func() { defer c.Close(); do(c) })
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return "http://" + l.Addr().String(), accepted
}

// nobody is an upstream that refuses connections.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func (f *front) do(t *testing.T, method, target, body string, header ...string) (int, string, http.Header) {
	t.Helper()
	var from io.Reader
	if body != "" {
		from = strings.NewReader(body)
	}
	r, err := http.NewRequest(method, f.url+target, from)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	res, err := f.client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return res.StatusCode, string(text), res.Header
}

// until waits for a fact.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func to(prefix string, upstreams ...string) config.Proxy {
	return config.Proxy{Prefix: prefix, Upstreams: upstreams}
}

func TestWhereRequestsGo(t *testing.T) {
	echo := func(name string) string {
		return serving(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name, " ", r.RequestURI) })
	}
	stripped := to("/strip", echo("strip"))
	stripped.StripPrefix = true
	f := start(t, nil, config.HTTP{}, to("/api", echo("api")), to("/api/v2", echo("v2")), stripped)
	for _, c := range []struct {
		target string
		status int
		body   string
	}{
		{"/api", 200, "api /api"},
		{"/api/", 200, "api /api/"},
		{"/api/users?a=b;c&d=%7a", 200, "api /api/users?a=b;c&d=%7a"},
		{"/api/a%2Fb%20c", 200, "api /api/a%2Fb%20c"},
		{"/api//x", 200, "api /api//x"},
		{"/api/..x", 200, "api /api/..x"},
		{"/api/v2/x", 200, "v2 /api/v2/x"},
		{"/api/v20", 200, "api /api/v20"},
		{"/%61pi/x", 200, "api /%61pi/x"},
		{"/strip", 200, "strip /"},
		{"/strip?q", 200, "strip /?q"},
		{"/strip/a%2Fb", 200, "strip /a%2Fb"},
		{"/strip//evil.test/", 200, "strip //evil.test/"},
		{"/strip%2Fa", 200, "strip /a"},
		{"/apis", 404, "404 page not found\n"},
		{"/", 404, "404 page not found\n"},
		{"/api/../secret", 400, "the path has segments of dots: want it resolved\n"},
		{"/api/%2e%2e/secret", 400, "the path has segments of dots: want it resolved\n"},
		{"/api/..%2fsecret", 400, "the path has segments of dots: want it resolved\n"},
		{"/strip/./x", 400, "the path has segments of dots: want it resolved\n"},
	} {
		conn, err := net.Dial("tcp", f.address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", c.target)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", c.target, err)
		}
		body, _ := io.ReadAll(res.Body)
		conn.Close()
		if res.StatusCode != c.status || string(body) != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.target, res.StatusCode, body, c.status, c.body)
		}
	}
}

func TestWhatAnUpstreamIsTold(t *testing.T) {
	var got http.Header
	var host string
	up := serving(t, func(w http.ResponseWriter, r *http.Request) {
		got, host = r.Header.Clone(), r.Host
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("X-End", "1")
	})
	sent := []string{"X-Forwarded-For", "203.0.113.7, 10.1.1.1", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "shop.test", "Forwarded", "for=203.0.113.7",
		"Connection", "X-Named, close", "X-Named", "1", "Keep-Alive", "1", "Proxy-Authorization", "x", "Te", "gzip", "X-End", "1"}
	for name, c := range map[string]struct {
		trusted []string
		want    map[string]string
	}{
		"a stranger": {[]string{"10.0.0.0/8"}, map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "%h", "Forwarded": `for=127.0.0.1;host="%h";proto=http`}},
		"a trusted proxy": {[]string{"127.0.0.0/8"}, map[string]string{"X-Forwarded-For": "203.0.113.7, 10.1.1.1, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.test",
			"Forwarded": `for=203.0.113.7, for=127.0.0.1;host="%h";proto=http`}},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, c.trusted, config.HTTP{}, to("/", up))
			status, _, answer := f.do(t, "GET", "/", "", sent...)
			if status != 200 || host != f.address {
				t.Errorf("%d, of host %q, want %q", status, host, f.address)
			}
			c.want["Via"], c.want["X-End"] = "1.1 drover", "1"
			for name, want := range c.want {
				if v := strings.Join(got.Values(name), "|"); v != strings.ReplaceAll(want, "%h", f.address) {
					t.Errorf("%s: %q, want %q", name, v, want)
				}
			}
			for _, name := range []string{"X-Named", "Keep-Alive", "Proxy-Authorization", "Te", "User-Agent2"} {
				if got.Get(name) != "" {
					t.Errorf("%s is for one connection only, and was passed on: %q", name, got.Get(name))
				}
			}
			if answer.Get("X-Hop") != "" || answer.Get("Keep-Alive") != "" || answer.Get("X-End") != "1" {
				t.Errorf("answered with %v, want X-End alone of the upstream's", answer)
			}
		})
	}
}

// An upstream is told of the client before the first byte of HTTP, and takes a check
// for the proxy's own.
func TestProxyProtocolToUpstreams(t *testing.T) {
	trusted, err := config.Trust("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		version int
		header  []string
		want    string // but for a port that nobody knows before
	}{
		"version 1":          {1, nil, "127.0.0.1:"},
		"version 2":          {2, nil, "127.0.0.1:"},
		"of a trusted proxy": {2, []string{"X-Forwarded-For", "203.0.113.7"}, "203.0.113.7:0"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var refused, checks atomic.Int64
			up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/healthz" {
					checks.Add(1)
					return
				}
				fmt.Fprint(w, r.RemoteAddr)
			}))
			up.Listener.Close()
			up.Listener = &proxyproto.Listener{Listener: named{l}, Trusted: trusted.Has, Refused: func(net.Addr, error) { refused.Add(1) }}
			up.Start()
			t.Cleanup(up.Close)
			r := to("/", up.URL)
			r.ProxyProtocol = c.version
			r.Health = config.ProxyHealth{Path: "/healthz", Interval: 5 * time.Millisecond}
			f := start(t, []string{"127.0.0.1"}, config.HTTP{}, r)
			for range 3 {
				if status, body, _ := f.do(t, "GET", "/", "", c.header...); status != 200 || !strings.HasPrefix(body, c.want) {
					t.Errorf("%d %q, want %s", status, body, c.want)
				}
			}
			until(t, "it is checked", func() bool { return checks.Load() > 1 })
			if n := refused.Load(); n > 0 {
				t.Errorf("%d connections are refused", n)
			}
		})
	}
}

// named is a listener whose connections can be told who their client is.
type named struct{ net.Listener }

type namedConn struct {
	net.Conn
	client net.Addr
}

func (n named) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &namedConn{c, c.RemoteAddr()}, nil
}

func (c *namedConn) RemoteAddr() net.Addr                { return c.client }
func (c *namedConn) SetRemoteAddr(client netip.AddrPort) { c.client = net.TCPAddrFromAddrPort(client) }

// A request that may pass no proxy more is answered here, and one that may is counted.
func TestMaxForwards(t *testing.T) {
	up := serving(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "upstream ", r.Header.Get("Max-Forwards")) })
	f := start(t, nil, config.HTTP{}, to("/", up))
	for _, c := range []struct {
		method, most string
		status       int
		body         string
	}{
		{"OPTIONS", "0", 200, ""},
		{"OPTIONS", "1", 200, "upstream 0"},
		{"TRACE", "0", 501, "this proxy shows nobody what it was asked\n"},
		{"TRACE", "70", 200, "upstream 69"},
		{"GET", "0", 200, "upstream 0"},
		{"OPTIONS", "few", 200, "upstream few"},
	} {
		if status, body, _ := f.do(t, c.method, "/", "", "Max-Forwards", c.most); status != c.status || body != c.body {
			t.Errorf("%s, %s: %d %q, want %d %q", c.method, c.most, status, body, c.status, c.body)
		}
	}
}

// A request that no upstream has taken goes to another, whatever it is; one that an
// upstream may have done something about only where that does no harm.
func TestRetries(t *testing.T) {
	good := serving(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	t.Run("refused", func(t *testing.T) {
		f := start(t, nil, config.HTTP{}, to("/", nobody(t), good))
		for i := range 20 {
			if status, body, _ := f.do(t, "POST", "/", "text"); status != 200 || body != "text" {
				t.Fatalf("request %d: %d %q", i, status, body)
			}
			if status, _, _ := f.do(t, "GET", "/", ""); status != 200 {
				t.Fatalf("request %d: %d", i, status)
			}
		}
	})
	reset := func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_ = c.(*net.TCPConn).SetLinger(0)
	}
	for _, c := range []struct {
		method, body string
		retries      int
		status       int
	}{{"GET", "", 0, 200}, {"DELETE", "", 0, 200}, {"GET", "", -1, 502}, {"POST", "", 0, 502}, {"PUT", "text", 0, 502}} {
		t.Run(fmt.Sprint("reset ", c.method, " ", c.body, c.retries), func(t *testing.T) {
			bad, accepted := raw(t, reset)
			r := to("/", bad, good)
			r.Retries = c.retries
			f := start(t, nil, config.HTTP{}, r)
			f.proxy.routes[0].turn.Store(1) // the next looks at the first first
			status, _, _ := f.do(t, c.method, "/", c.body)
			if status != c.status || accepted.Load() != 1 {
				t.Errorf("%d, and %d tries with the one that resets, want %d and 1", status, accepted.Load(), c.status)
			}
		})
	}
}

func TestFailuresAreToldApart(t *testing.T) {
	hangs, _ := raw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	nonsense, _ := raw(t, func(c net.Conn) { fmt.Fprint(c, "what?\r\n\r\n") })
	short := to("/hangs", hangs)
	short.ResponseTimeout = 50 * time.Millisecond
	f := start(t, nil, config.HTTP{BodyBytes: 100}, short, to("/refused", nobody(t)), to("/nonsense", nonsense))
	for _, c := range []struct {
		method, target, body string
		status               int
	}{
		{"GET", "/hangs", "", 504},
		{"POST", "/hangs", "text", 504},
		{"GET", "/nonsense", "", 502},
		{"GET", "/refused", "", 502}, // and the second try
		{"POST", "/refused", "text", 502},
		{"GET", "/refused", "", 503}, // it is out by now
		{"POST", "/nonsense", strings.Repeat("x", 101), 413},
	} {
		status, body, h := f.do(t, c.method, c.target, c.body)
		if status != c.status || !strings.HasPrefix(body, http.StatusText(status)) || (status == 503) != (h.Get("Retry-After") != "") {
			t.Errorf("%s %s: %d %q %v, want %d", c.method, c.target, status, body, h, c.status)
		}
	}
	for _, prefix := range []string{"/hangs", "/refused", "/nonsense"} {
		if !strings.Contains(f.log.String(), `msg="proxy: no answer of an upstream" prefix=`+prefix) {
			t.Errorf("nothing is said of %s:\n%s", prefix, f.log)
		}
	}
	if !strings.Contains(f.log.String(), `msg="proxy: an upstream is out" prefix=/refused`) {
		t.Errorf("nothing is said of the upstream that is out:\n%s", f.log)
	}
	// A chunked body is found to be too large while it is sent.
	r, err := http.NewRequest("POST", f.url+"/hangs", io.MultiReader(strings.NewReader(strings.Repeat("x", 101))))
	if err != nil {
		t.Fatal(err)
	}
	res, err := f.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 413 {
		t.Errorf("a chunked body that is too large: %d, want 413", res.StatusCode)
	}
}

func TestFailuresAreLoggedOnceASecond(t *testing.T) {
	log := &journal.Journal{}
	r := newRoute(to("/", "http://a").WithDefaults(), slog.New(slog.NewTextHandler(log, nil)))
	c := &call{Request: httptest.NewRequest("GET", "/", nil)}
	begun := time.Now()
	for range 1000 {
		r.tell(c, 502, io.EOF)
	}
	most := 1 + int(time.Since(begun)/time.Second)
	if n := strings.Count(log.String(), "\n"); n < 1 || n > most {
		t.Errorf("%d lines, want at most %d", n, most)
	}
}

func TestLeastConnections(t *testing.T) {
	let, at := make(chan struct{}), make(chan string, 100)
	named := func(name string) string {
		return serving(t, func(_ http.ResponseWriter, r *http.Request) {
			at <- name
			if r.URL.Path == "/slow" {
				<-let
			}
		})
	}
	f := start(t, nil, config.HTTP{}, to("/", named("a"), named("b")))
	var all sync.WaitGroup
	slow := func() string {
		all.Go(func() { f.do(t, "GET", "/slow", "") })
		return <-at
	}
	one, two := slow(), slow()
	if one == two {
		t.Errorf("two requests at a time went to %s alone", one)
	}
	busy := slow() // has two now
	left := func(want int64) {
		t.Helper()
		until(t, fmt.Sprint("the proxy is done but for ", want), func() bool {
			n := int64(0)
			for _, u := range f.proxy.routes[0].upstreams {
				n += u.active.Load()
			}
			return n == want
		})
	}
	for range 4 {
		left(3) // a client has its answer before the proxy is done
		f.do(t, "GET", "/", "")
		if who := <-at; who == busy {
			t.Errorf("a request went to %s, which has more than the other", who)
		}
	}
	close(let)
	all.Wait()
	seen := map[string]bool{}
	for range 4 {
		left(0)
		f.do(t, "GET", "/", "")
		seen[<-at] = true
	}
	if len(seen) != 2 {
		t.Errorf("of two that have nothing only %v had their turn", seen)
	}
}

func TestHealth(t *testing.T) {
	var sick atomic.Bool
	var got atomic.Int64
	flaky := serving(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" && sick.Load() {
			w.WriteHeader(500)
		} else if r.URL.Path != "/healthz" {
			got.Add(1)
		}
	})
	good := serving(t, func(http.ResponseWriter, *http.Request) {})
	r := to("/", flaky, good)
	r.Health = config.ProxyHealth{Path: "/healthz", Interval: 5 * time.Millisecond}
	f := start(t, nil, config.HTTP{}, r)
	sick.Store(true)
	until(t, "it is out", func() bool { return strings.Contains(f.log.String(), "an upstream is out") })
	got.Store(0)
	for range 10 {
		f.do(t, "GET", "/", "")
	}
	if n := got.Load(); n != 0 {
		t.Errorf("%d requests went to one that is out", n)
	}
	sick.Store(false)
	until(t, "it is back", func() bool { return strings.Contains(f.log.String(), "an upstream is back") })
	until(t, "it has requests", func() bool { f.do(t, "GET", "/", ""); return got.Load() > 0 })
}

// Without a path for it, an upstream that is out is back once it takes connections.
func TestBackByItself(t *testing.T) {
	address := nobody(t)
	r := to("/", address)
	r.Health.Interval = 5 * time.Millisecond
	f := start(t, nil, config.HTTP{}, r)
	until(t, "it is out", func() bool { status, _, _ := f.do(t, "GET", "/", ""); return status == 503 })
	l, err := net.Listen("tcp", strings.TrimPrefix(address, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	ended := make(chan error)
	go func() { ended <- s.Serve(l) }()
	until(t, "it is back", func() bool { return strings.Contains(f.log.String(), "an upstream is back") })
	if status, _, _ := f.do(t, "GET", "/", ""); status != 200 {
		t.Errorf("%d", status)
	}
	s.Close()
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// An upgraded connection passes bytes both ways, is counted as one, and is closed by
// a drain.
func TestUpgrade(t *testing.T) {
	up := serving(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
			t.Errorf("asked with %v", r.Header)
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, rw)
	})
	f := start(t, nil, config.HTTP{}, to("/ws", up))
	c, err := net.Dial("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n")
	from := bufio.NewReader(c)
	res, err := http.ReadResponse(from, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%+v, %v", res, err)
	}
	text := make([]byte, 5)
	for range 3 {
		fmt.Fprint(c, "hello")
		if _, err := io.ReadFull(from, text); err != nil || string(text) != "hello" {
			t.Fatalf("%q, %v", text, err)
		}
	}
	if f.board.Snapshot().InFlight != 0 {
		t.Error("an upgraded request is counted as one in flight")
	}
	close(f.draining)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if n, err := from.Read(text); err != io.EOF {
		t.Errorf("at the drain: %d bytes, %v, want the end", n, err)
	}
}

// Bodies pass while they come: each part is seen before the next is sent.
func TestBodiesPassAsTheyCome(t *testing.T) {
	up := serving(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.Header().Set("Trailer", "X-Sum")
		_ = rc.Flush()
		part := make([]byte, 4)
		for {
			n, err := r.Body.Read(part)
			if n > 0 {
				_, _ = w.Write(bytes.ToUpper(part[:n]))
				_ = rc.Flush()
			}
			if err != nil {
				break
			}
		}
		w.Header().Set("X-Sum", r.Trailer.Get("X-Check"))
	})
	f := start(t, nil, config.HTTP{}, to("/", up))
	in, out := io.Pipe()
	r, err := http.NewRequest("POST", f.url, in)
	if err != nil {
		t.Fatal(err)
	}
	r.Trailer = http.Header{"X-Check": {"42"}}
	res, err := f.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	part := make([]byte, 4)
	for range 5 {
		fmt.Fprint(out, "text")
		if _, err := io.ReadFull(res.Body, part); err != nil || string(part) != "TEXT" {
			t.Fatalf("%q, %v", part, err)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 || res.Trailer.Get("X-Sum") != "42" {
		t.Errorf("at the end %q, %v, trailer %v, want X-Sum: 42", rest, err, res.Trailer)
	}
}

// Who does not read is not written for: little is held between the two.
func TestSlowSides(t *testing.T) {
	const most = 128 << 20 // far more than what the kernel's buffers of two connections take
	chunk := make([]byte, 1<<20)
	wrote := make(chan int, 1)
	left := make(chan struct{})
	up := serving(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			<-left // reads nothing
			return
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n := 0
		for n <= most {
			if _, err := w.Write(chunk); err != nil {
				break
			}
			n += len(chunk)
		}
		wrote <- n
		<-left
	})
	f := start(t, nil, config.HTTP{BodyBytes: -1}, to("/", up))
	for _, method := range []string{"GET", "POST"} {
		c, err := net.Dial("tcp", f.address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "%s / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", method, map[string]int{"GET": 0, "POST": 1 << 40}[method])
		n := 0
		if method == "GET" {
			n = <-wrote
		} else {
			_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			for n <= most {
				k, err := c.Write(chunk)
				n += k
				if err != nil {
					break
				}
			}
		}
		if n > most {
			t.Errorf("%s: more than %d bytes were taken that nobody reads", method, most)
		}
		c.Close()
	}
	close(left)
}

// A client that leaves cancels what it has asked for.
func TestClientsThatLeave(t *testing.T) {
	begun, over := make(chan struct{}), make(chan struct{})
	up := serving(t, func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		close(over)
	})
	f := start(t, nil, config.HTTP{}, to("/", up))
	c, err := net.Dial("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-begun
	c.Close()
	select {
	case <-over:
	case <-time.After(patience):
		t.Fatal("the upstream still works for a client that has left")
	}
	until(t, "it is off the upstream's count", func() bool { return f.proxy.routes[0].upstreams[0].active.Load() == 0 })
	if f.proxy.routes[0].upstreams[0].failed.Load() != 0 || f.log.String() != "" {
		t.Errorf("the upstream is blamed for it: %s", f.log)
	}
}

// What cannot be framed in one way is refused, and never reaches an upstream as two
// requests (RFC 9112, section 11.2).
func TestNothingIsSmuggled(t *testing.T) {
	var asked atomic.Int64
	up := serving(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path != "/" {
			t.Errorf("smuggled: %s %s", r.Method, r.URL)
		}
		asked.Add(1)
	})
	f := start(t, nil, config.HTTP{}, to("/", up))
	const hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, header := range []string{
		"Content-Length: 0\r\nContent-Length: 5\r\n",
		"Content-Length: +5\r\n",
		"Transfer-Encoding: chunked, identity\r\n",
		"Transfer-Encoding: xchunked\r\n",
		"Transfer-Encoding : chunked\r\n",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
		"Connection: Content-Length\r\nContent-Length: " + fmt.Sprint(len(hidden)) + "\r\n",
		"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
	} {
		c, err := net.Dial("tcp", f.address)
		if err != nil {
			t.Fatal(err)
		}
		body := hidden
		if strings.Contains(header, "n: Transfer-Encoding") {
			body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden)
		}
		want := 1 // a refusal, and the end
		if strings.HasPrefix(header, "Connection") {
			want = 2 // the second is for what follows
		}
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: a\r\n"+header+"\r\n"+body+"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if answer, _ := io.ReadAll(c); bytes.Count(answer, []byte("HTTP/1.1 ")) != want {
			t.Errorf("%q: answered %q, want %d answers", header, answer, want)
		}
		c.Close()
	}
	if n := asked.Load(); n != 4 {
		t.Errorf("%d requests reached the upstream, want two each of the last two", n)
	}
}

func TestBadRoutes(t *testing.T) {
	for _, r := range []config.Proxy{{}, to("/a"), to("a", "http://a"), to("/a", "a:1")} {
		var wrong *config.Error
		if _, err := New(Config{Routes: []config.Proxy{r}}); !errors.As(err, &wrong) {
			t.Errorf("%+v: %v, want a *config.Error", r, err)
		}
	}
	if u, _ := url.Parse("https://a"); hostPort(u) != "a:443" {
		t.Error(hostPort(u))
	}
	if q := quoted(`a"b\`); q != `"a\"b\\"` {
		t.Error(q)
	}
}
