package engine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drover/config"
	"drover/internal/journal"
	"drover/internal/sys"
	"drover/ipc/scoreboard"
	"drover/worker/fastnet"
	"drover/worker/secure"

	"github.com/valyala/fasthttp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "16"); err != nil { // most tests wait for limits; -parallel still holds
		panic(err)
	}
	goleak.VerifyTestMain(m,
		// fasthttp's own, for which nobody can wait: the Date header and compressors,
		// for ever, and the pool's cleaner, for ten seconds after Serve.
		goleak.IgnoreTopFunction("github.com/valyala/fasthttp/stackless.funcWorker"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// patience is after how long a test gives up on a fact.
const patience = 30 * time.Second

// answering is what both engines have.
type answering interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
	Attach(*scoreboard.Board, config.HTTP, <-chan struct{}, *slog.Logger)
}

// server is an engine that answers, and what its handler and its test tell each
// other.
type server struct {
	t        testing.TB
	engine   answering
	tracker  *tracker
	board    *scoreboard.Board
	listener *bounded
	keys     *secure.Keys // nil is plain text
	draining chan struct{}
	served   chan error
	log      *journal.Journal

	entered chan string          // the path of each request to /wait
	release chan struct{}        // lets one /wait answer
	saw     func(path string)    // called for each request, where it is set
	context chan context.Context // of each net/http request to /wait
	ended   sync.Once            // the draining channel's closing
}

// engines are the two, each around the pages below: fasthttp's also as it is with many
// connections.
var engines = []struct {
	name string
	make func(s *server) (answering, *tracker)
}{
	{"fasthttp", func(s *server) (answering, *tracker) { f := FastHTTP(s.fast); return f, f.tracker }},
	{"net/http", func(s *server) (answering, *tracker) {
		n := NetHTTP(http.HandlerFunc(s.net))
		return n, n.tracker
	}},
	{"fasthttp-parked", func(s *server) (answering, *tracker) {
		f := FastHTTP(s.fast)
		f.crowd = 0
		return f, f.tracker
	}},
}

// both runs a test on both engines, at the same time.
func both(t *testing.T, limits config.HTTP, test func(t *testing.T, s *server)) {
	t.Parallel()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.engine, s.tracker = e.make(s)
			s.start(limits)
			test(t, s)
		})
	}
}

func newServer(t testing.TB) *server {
	return &server{
		t: t, board: scoreboard.Private(), draining: make(chan struct{}), served: make(chan error, 1), log: &journal.Journal{},
		entered: make(chan string, 16), release: make(chan struct{}, 16), context: make(chan context.Context, 16),
	}
}

// start attaches the engine and serves on an address of its own, until the test
// ends. The test closes its clients first, or the shutdown here does.
func (s *server) start(limits config.HTTP) {
	s.t.Helper()
	s.engine.Attach(s.board, limits, s.draining, slog.New(slog.NewTextHandler(s.log, nil)))
	s.listener = listen(s.t)
	var l net.Listener = s.listener
	if s.keys != nil {
		l = &secure.Listener{Listener: l, Keys: s.keys}
	}
	go func() { s.served <- s.engine.Serve(l) }()
	s.t.Cleanup(func() {
		s.closeListener()
		s.ended.Do(func() { close(s.draining) })
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.engine.Shutdown(ctx); err != nil {
			s.t.Errorf("the last Shutdown: %v; %+v", err, s.board.Snapshot())
		}
		if open := s.board.Snapshot(); open.Connections != 0 || open.InFlight != 0 {
			s.t.Errorf("%d connections and %d requests are left", open.Connections, open.InFlight)
		}
	})
}

// drain begins a drain, as a worker does: the channel and the listener are
// closed, and Serve has returned.
func (s *server) drain() {
	s.t.Helper()
	s.ended.Do(func() { close(s.draining) })
	s.closeListener()
}

func (s *server) closeListener() {
	s.t.Helper()
	if s.listener.Close() != nil {
		return // it was closed before
	}
	select {
	case err := <-s.served:
		if err != nil {
			s.t.Errorf("Serve: %v, want nil once its listener is closed", err)
		}
	case <-time.After(patience):
		s.t.Fatal("Serve does not return, though its listener is closed")
	}
}

// bounded is a listener as a worker has it, whose connections hold little in the
// kernel, so that a big response waits for its reader.
type bounded struct {
	net.Listener
	poller *fastnet.Poller
	stock  net.Listener
}

func listen(t testing.TB) *bounded {
	t.Helper()
	poller, err := fastnet.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(poller.Close)
	return listenBy(t, poller)
}

// listenBy is listen with a poller that another listener has already.
func listenBy(t testing.TB, poller *fastnet.Poller) *bounded {
	t.Helper()
	var fd int
	var dupErr error
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(n uintptr) {
			dupErr = errors.Join(syscall.SetsockoptInt(int(n), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 64<<10), syscall.SetsockoptInt(int(n), syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1))
		})
	}}
	stock, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil || dupErr != nil {
		t.Fatal(err, dupErr)
	}
	raw, err := stock.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(n uintptr) { fd, dupErr = sys.Dup(int(n)) }); err != nil || dupErr != nil {
		t.Fatal(err, dupErr)
	}
	return &bounded{poller.Listen(fd), poller, stock}
}

// Close closes the socket too: nobody else accepts on it.
func (b *bounded) Close() error {
	err := b.Listener.Close()
	b.stock.Close()
	return err
}

const bigSize = 8 << 20

var big = bytes.Repeat([]byte("0123456789abcdef"), bigSize/16)

// page is what both engines' handlers answer alike.
func (s *server) page(path string, body func() ([]byte, error)) (int, []byte) {
	if s.saw != nil {
		s.saw(path)
	}
	switch path {
	case "/hello":
		return 200, []byte("hello")
	case "/unread": // answered without a look at the body
		return 200, []byte("unread")
	case "/echo":
		b, err := body()
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			return 413, nil
		case err != nil:
			return 408, nil
		}
		return 200, b
	case "/big":
		return 200, big
	case "/wait":
		s.entered <- path
		<-s.release
		return 200, []byte("waited")
	case "/panic":
		panic("boom")
	}
	return 404, nil
}

func (s *server) fast(ctx *fasthttp.RequestCtx) {
	switch string(ctx.Path()) {
	case "/upgrade":
		ctx.SetStatusCode(101)
		ctx.Hijack(func(c net.Conn) { _, _ = io.Copy(c, c) })
		return
	case "/upgrade-panic":
		ctx.Hijack(func(c net.Conn) { s.entered <- "hijacked" })
		panic("boom")
	}
	status, body := s.page(string(ctx.Path()), func() ([]byte, error) { return bytes.Clone(ctx.PostBody()), nil })
	ctx.SetStatusCode(status)
	ctx.SetBody(body)
}

func (s *server) net(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/upgrade":
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		_, _ = io.Copy(c, rw)
		return
	case "/half":
		_, _ = io.WriteString(w, strings.Repeat("half", 1<<10))
		_ = http.NewResponseController(w).Flush()
		panic("boom")
	case "/wait":
		s.context <- r.Context()
	case "/stream": // the body's text is read, not its end; the answer takes as long as the test wants
		_, err := io.ReadFull(r.Body, make([]byte, 4))
		if err != nil {
			panic(err)
		}
		if r.URL.RawQuery == "" {
			_, _ = io.WriteString(w, "begun ")
			_ = http.NewResponseController(w).Flush()
		}
		s.entered <- "/stream"
		<-s.release
		_, _ = fmt.Fprint(w, "context: ", r.Context().Err())
		_ = http.NewResponseController(w).Flush()
		return
	}
	status, body := s.page(r.URL.Path, func() ([]byte, error) { return io.ReadAll(r.Body) })
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// client is a connection of the test's.
type client struct {
	*net.TCPConn
	r *bufio.Reader
	t testing.TB
}

func (s *server) dial() *client {
	s.t.Helper()
	c, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	tcp := c.(*net.TCPConn)
	if err := errors.Join(tcp.SetDeadline(time.Now().Add(patience)), tcp.SetReadBuffer(64<<10)); err != nil {
		s.t.Fatal(err)
	}
	return &client{tcp, bufio.NewReader(tcp), s.t}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// receive reads one whole response; an interim one is not it.
func (c *client) receive(method string) (*http.Response, string) {
	c.t.Helper()
	r, body, err := c.try(method)
	if err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	return r, body
}

func (c *client) try(method string) (*http.Response, string, error) {
	r, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		return nil, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r, string(body), err
}

// want is one request on an open connection, and its status and body.
func (c *client) want(request string, status int, body string) *http.Response {
	c.t.Helper()
	c.send(request)
	method, _, _ := strings.Cut(request, " ")
	r, got := c.receive(method)
	if r.StatusCode != status || got != body {
		c.t.Errorf("%.60q: %d %.60q, want %d %.60q", request, r.StatusCode, got, status, body)
	}
	return r
}

func (c *client) ask(request string, status int, body string) { c.want(request, status, body) }

// closed waits until the server has closed the connection. Bytes that the
// server has not read make it a reset, which is allowed only where the test
// sends such.
func (c *client) closed(resetAllowed bool) {
	c.t.Helper()
	n, err := io.Copy(io.Discard, c.r)
	if n != 0 {
		c.t.Errorf("%d bytes more", n)
	}
	if err != nil && (!resetAllowed || timedOut(err)) {
		c.t.Errorf("the connection is not closed cleanly: %v", err)
	}
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n" }

func post(path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

// until waits for what the board will say.
func (s *server) until(what string, is func(scoreboard.Snapshot) bool) {
	s.t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	give := time.Now().Add(patience)
	for !is(s.board.Snapshot()) {
		if time.Now().After(give) {
			s.t.Fatalf("never %s: %+v", what, s.board.Snapshot())
		}
		<-look.C
	}
}

func TestRequestsAreCounted(t *testing.T) {
	both(t, config.HTTP{}, func(t *testing.T, s *server) {
		s.saw = func(path string) {
			if n := s.board.Snapshot(); n.InFlight != 1 || n.Connections != 1 {
				t.Errorf("while %s is answered: %d requests, %d connections, want 1 and 1", path, n.InFlight, n.Connections)
			}
			if r := s.board.InFlight(nil); len(r) != 1 || r[0].Path != path {
				t.Errorf("in flight: %+v, want %s", r, path)
			}
		}
		c := s.dial()
		c.want(get("/hello"), 200, "hello")
		c.want(post("/echo", "some text"), 200, "some text")
		c.want(get("/missing?q=1"), 404, "")
		r := c.want("HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n", 200, "")
		if r.ContentLength != 5 {
			t.Errorf("HEAD says a length of %d, want 5", r.ContentLength)
		}
		c.want(post("/unread", "some text"), 200, "unread") // and the connection serves on
		c.want("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n5\r\n text\r\n0\r\n\r\n", 200, "some text")
		s.until("counted", func(n scoreboard.Snapshot) bool { return n.Requests == 6 && n.InFlight == 0 })
		n := s.board.Snapshot()
		if !n.Counted || n.Status != [6]uint64{2: 5, 4: 1} || n.BytesIn < 9 || n.BytesOut < 23 || n.Accepted != 1 || n.Panics != 0 {
			t.Errorf("%+v", n)
		}
		c.Close()
		s.until("without a connection", func(n scoreboard.Snapshot) bool { return n.Connections == 0 })
	})
}

// Requests that are sent at once are answered in their order, also when the
// last comes in two parts.
func TestPipelining(t *testing.T) {
	both(t, config.HTTP{}, func(t *testing.T, s *server) {
		c := s.dial()
		c.send(get("/hello") + post("/echo", "one") + get("/missing") + post("/echo", "two")[:20])
		for _, want := range []string{"200 hello", "200 one", "404 "} {
			r, body := c.receive("GET")
			if got := fmt.Sprint(r.StatusCode, " ", body); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		c.want(post("/echo", "two")[20:], 200, "two")
		s.until("counted", func(n scoreboard.Snapshot) bool { return n.Requests == 4 && n.InFlight == 0 })
	})
}

// A client that waits for leave to send its body gets it, or its answer.
func TestExpectContinue(t *testing.T) {
	both(t, config.HTTP{BodyBytes: 10}, func(t *testing.T, s *server) {
		for _, c := range []struct {
			path   string
			length int
			status int
			body   string
		}{
			{"/echo", 5, 200, "12345"},
			{"/unread", 5, 200, "unread"},
			{"/missing", 5, 404, ""},
			{"/echo", 11, 413, "Request Entity Too Large"},
		} {
			conn := s.dial()
			conn.send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", c.path, c.length))
			r, body := conn.receive("POST")
			if r.StatusCode == 100 {
				if _, fast := s.engine.(*Fast); !fast && (c.path != "/echo" || c.status == 413) {
					t.Errorf("%s of %d bytes is asked for, which nobody will read", c.path, c.length)
				}
				conn.send("12345678901"[:c.length])
				r, body = conn.receive("POST")
			}
			if r.StatusCode != c.status || !strings.HasPrefix(body, c.body) {
				t.Errorf("%s: %d %q, want %d %q", c.path, r.StatusCode, body, c.status, c.body)
			}
			conn.Close()
		}
	})
}

func TestBigResponse(t *testing.T) {
	both(t, config.HTTP{}, func(t *testing.T, s *server) {
		c := s.dial()
		for range 2 {
			c.want(get("/big"), 200, string(big))
		}
		s.until("counted", func(n scoreboard.Snapshot) bool { return n.Requests == 2 && n.BytesOut == 2*bigSize })
	})
}

// One engine serves several listeners, at once and one after the other.
func TestSeveralListeners(t *testing.T) {
	both(t, config.HTTP{}, func(t *testing.T, s *server) {
		first := s.listener
		second := listenBy(t, first.poller)
		served := make(chan error, 1)
		go func() { served <- s.engine.Serve(second) }()
		s.dial().want(get("/hello"), 200, "hello")
		s.listener = second
		s.dial().want(get("/hello"), 200, "hello")
		second.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		s.listener = first
		s.dial().want(get("/hello"), 200, "hello")
	})
}

// A handler's panic is answered 500, counted and logged; the connection and the
// engine serve on.
func TestPanic(t *testing.T) {
	both(t, config.HTTP{}, func(t *testing.T, s *server) {
		c := s.dial()
		c.send(get("/panic?secret"))
		r, body := c.receive("GET")
		id := r.Header.Get("X-Request-Id")
		if r.StatusCode != 500 || body != "Internal Server Error\nrequest "+id+"\n" || len(id) != 16 {
			t.Errorf("%d %q, want 500 that tells nothing but the id %q", r.StatusCode, body, id)
		}
		c.want(get("/hello"), 200, "hello")
		s.dial().want(get("/hello"), 200, "hello")
		if n := s.board.Snapshot(); n.Panics != 1 || n.Status[5] != 1 {
			t.Errorf("%+v", n)
		}
		if log := s.log.String(); !strings.Contains(log, "a handler panicked: boom") || !strings.Contains(log, "path=/panic\n") || !strings.Contains(log, "id="+id+" ") || !strings.Contains(log, "method=GET") {
			t.Errorf("the log: %s", log)
		}
	})
}

// paged is a panic's value with a page, as middleware's Pages make it.
type paged struct{ page []byte }

func (p paged) Answer(id string) (any, string, []byte) {
	return "boom", "text/html", bytes.ReplaceAll(p.page, []byte("ID"), []byte(id))
}

// A panic may bring the page that it is answered with.
func TestPanicWithAPage(t *testing.T) {
	var page []byte
	fast := FastHTTP(func(ctx *fasthttp.RequestCtx) {
		ctx.Response.Header.Set(RequestIDHeader, "seven")
		ctx.Response.Header.Set("Content-Encoding", "br")
		panic(paged{page})
	})
	net := NetHTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(RequestIDHeader, "seven")
		w.Header().Set("Content-Encoding", "br")
		panic(paged{page})
	}))
	for _, e := range []struct {
		answering
		*tracker
	}{{fast, fast.tracker}, {net, net.tracker}} {
		s := newServer(t)
		s.engine, s.tracker = e.answering, e.tracker
		s.start(config.HTTP{})
		for text, want := range map[string]string{"<p>ID": "<p>seven", "": "Internal Server Error\nrequest seven\n"} {
			if page = []byte(text); text == "" {
				page = nil
			}
			c := s.dial()
			r := c.want(get("/"), 500, want)
			if r.Header.Get(RequestIDHeader) != "seven" || r.Header.Get("Content-Encoding") != "" || (r.Header.Get("Content-Type") == "text/html") != (text != "") {
				t.Errorf("%v", r.Header)
			}
			c.Close()
		}
		if log := s.log.String(); strings.Count(log, "a handler panicked: boom") != 2 || strings.Count(log, "id=seven") != 2 {
			t.Errorf("the log: %s", log)
		}
	}
}

// A panic after half an answer is no whole answer.
func TestPanicInTheMiddleOfAnAnswer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.engine = NetHTTP(http.HandlerFunc(s.net))
	s.start(config.HTTP{})
	for _, request := range []string{get("/half"), "GET /half HTTP/1.0\r\n\r\n"} {
		c := s.dial()
		c.send(request)
		r, body, err := c.try("GET")
		if http10 := strings.Contains(request, "1.0"); err == nil && !http10 {
			t.Errorf("%d and a whole body of %d bytes", r.StatusCode, len(body))
		}
	}
	s.until("counted", func(n scoreboard.Snapshot) bool { return n.Panics == 2 && n.InFlight == 0 })
	s.dial().want(get("/hello"), 200, "hello")
}

// A stream's panic costs its client the rest of the answer, compressed on its way or
// not, and nobody else anything.
func TestPanicInAStream(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	again := make(chan struct{})
	f := FastHTTP(fasthttp.CompressHandlerLevel(func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("text/plain")
		head, plain := ctx.IsHead(), string(ctx.Path()) == "/hello"
		ctx.Response.Header.Set(RequestIDHeader, "seven")
		Stream(ctx, func(w *bufio.Writer) {
			if plain {
				_, _ = w.WriteString("hello")
				return
			}
			_, _ = w.WriteString("half")
			_ = w.Flush()
			if head {
				<-again // by then the connection has another request
			}
			panic("boom")
		})
	}, fasthttp.CompressBestSpeed))
	s.engine, s.tracker = f, f.tracker
	s.start(config.HTTP{})
	for _, accept := range []string{"", "Accept-Encoding: gzip\r\n"} {
		c := s.dial()
		c.send("GET /half HTTP/1.1\r\nHost: a\r\n" + accept + "\r\n")
		if r, body, err := c.try("GET"); err == nil {
			t.Errorf("%d and a whole body of %d bytes", r.StatusCode, len(body))
		}
	}
	s.until("counted", func(n scoreboard.Snapshot) bool { return n.Panics == 2 && n.Connections == 0 })
	c := s.dial()
	c.send("HEAD /half HTTP/1.1\r\nHost: a\r\n\r\n")
	if r, _ := c.receive("HEAD"); r.StatusCode != 200 {
		t.Errorf("%d", r.StatusCode)
	}
	close(again)
	s.until("the third too", func(n scoreboard.Snapshot) bool { return n.Panics == 3 })
	c.want(get("/hello"), 200, "hello")
	s.until("all three logged", func(scoreboard.Snapshot) bool { // behind the counting
		log := s.log.String()
		return strings.Count(log, "a handler panicked: boom") == 3 && strings.Count(log, "id=seven") == 3
	})
}

// A handler that hijacks and then panics has not hijacked.
func TestPanicAfterHijack(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.engine = FastHTTP(s.fast)
	s.start(config.HTTP{})
	c := s.dial()
	c.send(get("/upgrade-panic"))
	if r, _ := c.receive("GET"); r.StatusCode != 500 {
		t.Errorf("%d, want 500", r.StatusCode)
	}
	c.want(get("/hello"), 200, "hello")
	if n := s.board.Snapshot(); n.Requests != 2 || n.Status[5] != 1 || len(s.entered) != 0 {
		t.Errorf("%d hijackers ran; %+v", len(s.entered), n)
	}
}

const childEnv = "DROVER_ENGINE_TEST_CHILD"

// What a panic does to its process: with CrashOnPanic it ends with code 2, else
// it serves on; either way the stack is on standard error.
func TestPanicAndTheProcess(t *testing.T) {
	t.Parallel()
	for _, e := range engines {
		for _, crash := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s crash=%v", e.name, crash), func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestPanicChild$")
				child.Env = append(os.Environ(), childEnv+"="+fmt.Sprint(e.name, " ", crash))
				var stderr bytes.Buffer
				child.Stderr = &stderr
				err := child.Run()
				want, says := 0, "a handler panicked: boom"
				if crash {
					want, says = 2, "panic: boom (answering GET /panic)"
				}
				if child.ProcessState == nil || child.ProcessState.ExitCode() != want {
					t.Errorf("%v, want exit code %d", err, want)
				}
				for _, part := range []string{says, "engine.(*server).page(", "engine_test.go:"} {
					if !strings.Contains(stderr.String(), part) {
						t.Errorf("%q is not on standard error:\n%s", part, stderr.String())
					}
				}
			})
		}
	}
}

// TestPanicChild is the other process of the test above.
func TestPanicChild(t *testing.T) {
	name, crash, _ := strings.Cut(os.Getenv(childEnv), " ")
	for _, e := range engines {
		if e.name != name {
			continue
		}
		s := newServer(t)
		s.engine, s.tracker = e.make(s)
		s.engine.Attach(s.board, config.HTTP{CrashOnPanic: crash == "true"}, s.draining, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		s.listener = listen(t)
		go func() { s.served <- s.engine.Serve(s.listener) }()
		c := s.dial()
		c.send(get("/panic"))
		if r, _ := c.receive("GET"); r.StatusCode != 500 {
			t.Errorf("%d, want 500", r.StatusCode)
		}
		c.want(get("/hello"), 200, "hello")
		c.Close()
		s.drain()
		if err := s.engine.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		return
	}
	t.Skip("it is for TestPanicAndTheProcess")
}

// What a program has set in its server holds; drover fills in the rest.
func TestOwnSettings(t *testing.T) {
	t.Parallel()
	limits := config.HTTP{HeaderTimeout: 3 * time.Second, IdleTimeout: 4 * time.Second, HeaderBytes: 8192, BodyBytes: 100}
	t.Run("net/http", func(t *testing.T) {
		t.Parallel()
		s := newServer(t)
		states := make(chan http.ConnState, 100)
		own := &http.Server{
			Handler: http.HandlerFunc(s.net), ReadHeaderTimeout: time.Minute, IdleTimeout: time.Hour, WriteTimeout: time.Hour, MaxHeaderBytes: 1 << 10,
			ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), ConnState: func(_ net.Conn, s http.ConnState) { states <- s },
		}
		log := own.ErrorLog
		s.engine = Server(own)
		s.start(limits)
		c := s.dial()
		c.want(get("/hello"), 200, "hello")
		for _, want := range []http.ConnState{http.StateNew, http.StateActive, http.StateIdle} {
			if got := <-states; got != want {
				t.Errorf("ConnState is told %v, want %v", got, want)
			}
		}
		if own.ReadHeaderTimeout != time.Minute || own.IdleTimeout != time.Hour || own.WriteTimeout != time.Hour || own.MaxHeaderBytes != 1<<10 || own.ErrorLog != log {
			t.Errorf("changed: %+v", own)
		}
	})
	t.Run("net/http with none", func(t *testing.T) {
		t.Parallel()
		s := newServer(t)
		own := &http.Server{Handler: http.HandlerFunc(s.net)}
		s.engine = Server(own)
		s.start(limits)
		s.dial().want(get("/hello"), 200, "hello")
		if own.ReadHeaderTimeout != 3*time.Second || own.IdleTimeout != 4*time.Second || own.MaxHeaderBytes != 4096 || own.ErrorLog == nil {
			t.Errorf("not filled in: %+v", own)
		}
	})
	t.Run("fasthttp", func(t *testing.T) {
		t.Parallel()
		s := newServer(t)
		own := &fasthttp.Server{
			Handler: s.fast, Name: "own", ReadBufferSize: 2048, MaxRequestBodySize: 1000, Concurrency: 7,
			ErrorHandler: func(ctx *fasthttp.RequestCtx, err error) { ctx.Error("own error", 499) },
		}
		s.engine = FastHTTPServer(own)
		s.start(limits)
		c := s.dial()
		if r := c.want(post("/echo", strings.Repeat("x", 500)), 200, strings.Repeat("x", 500)); r.Header.Get("Server") != "own" {
			t.Errorf("Server: %q", r.Header.Get("Server"))
		}
		c.want("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", 499, "own error")
		if own.ReadBufferSize != 2048 || own.Concurrency != 7 {
			t.Errorf("changed: %d %d", own.ReadBufferSize, own.Concurrency)
		}
	})
}
