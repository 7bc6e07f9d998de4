package engine

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drover/config"

	"github.com/valyala/fasthttp"
)

// streams starts a fasthttp server whose handler is given bodies as they arrive.
func streams(t *testing.T, limits config.HTTP, handler fasthttp.RequestHandler) *server {
	t.Helper()
	s := newServer(t)
	f := FastHTTPServer(&fasthttp.Server{Handler: handler, StreamRequestBody: true})
	s.engine, s.tracker = f, f.tracker
	s.start(limits)
	return s
}

// What a handler leaves of a streamed body is never taken for a request.
func TestLeftoverIsNoRequest(t *testing.T) {
	t.Parallel()
	var smuggled atomic.Int32
	s := streams(t, config.HTTP{}, func(ctx *fasthttp.RequestCtx) {
		switch string(ctx.Path()) {
		case "/smuggled":
			smuggled.Add(1)
		case "/some":
			if _, err := io.ReadFull(ctx.RequestBodyStream(), make([]byte, 10)); err != nil {
				t.Error(err)
			}
		case "/answered-by-stream":
			ctx.SetBodyStream(strings.NewReader("hello"), 5)
			return
		}
		ctx.SetBodyString("hello")
	})
	body := strings.Repeat(get("/smuggled"), 2000) // more than fits any buffer
	for _, path := range []string{"/none", "/some"} {
		c := s.dial()
		c.want(post(path, body)+get("/next"), 200, "hello")
		if r, body := c.receive("GET"); r.StatusCode != 200 || body != "hello" {
			t.Errorf("%s: the next request is answered %d %q", path, r.StatusCode, body)
		}
		c.Close()

		c = s.dial()
		go c.Write([]byte(post(path, strings.Repeat(body, 10)))) // fails once the connection is closed
		if r, _, err := c.try("POST"); err == nil && !r.Close {
			t.Errorf("%s: a long body is left, and its connection kept: %v", path, r.Header)
		}
		c.closed(true)
	}
	c := s.dial()
	c.want(post("/answered-by-stream", "short")+get("/next"), 200, "hello")
	c.closed(true)
	if n := smuggled.Load(); n > 0 {
		t.Errorf("%d requests were taken out of bodies", n)
	}
}

// A body is answered with while it arrives.
func TestEchoWhileItArrives(t *testing.T) {
	t.Parallel()
	s := streams(t, config.HTTP{}, func(ctx *fasthttp.RequestCtx) {
		ctx.SetBodyStream(struct{ io.Reader }{ctx.RequestBodyStream()}, -1) // in a wrapping: see leftover
	})
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
	r, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"one", "two", "six"} {
		if word != "one" {
			c.send("3\r\n" + word + "\r\n")
		}
		got := make([]byte, 3)
		if _, err := io.ReadFull(r.Body, got); err != nil || string(got) != word {
			t.Fatalf("%q, %v, want %q before the body ends", got, err, word)
		}
	}
	c.send("0\r\n\r\n")
	if rest, err := io.ReadAll(r.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
	c.closed(false)
}

// The handler is told when its client leaves, on both engines.
// A stream that is not sent leaves nothing behind, nor is it left open.
func TestStreamOfNoBody(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}, 1)
	s := streams(t, config.HTTP{}, func(ctx *fasthttp.RequestCtx) {
		if status := ctx.QueryArgs().GetUintOrZero("status"); status > 0 {
			ctx.SetStatusCode(status)
		}
		ctx.SetBodyStream(&closing{strings.NewReader("text"), closed}, -1)
	})
	c := s.dial()
	for _, r := range []struct {
		method, path string
		status       int
	}{{"HEAD", "/", 200}, {"GET", "/?status=304", 304}, {"GET", "/?status=204", 204}, {"GET", "/", 200}} {
		c.send(r.method + " " + r.path + " HTTP/1.1\r\nHost: a\r\n\r\n")
		answer, body := c.receive(r.method)
		if want := map[bool]string{true: "text"}[r.method == "GET" && r.status == 200]; answer.StatusCode != r.status || body != want {
			t.Errorf("%s %s: %d %q", r.method, r.path, answer.StatusCode, body)
		}
		if chunked := answer.TransferEncoding != nil; chunked && r.status == 204 { // RFC 9112, section 6.1
			t.Errorf("204 in chunks")
		}
		select {
		case <-closed:
		case <-time.After(patience):
			t.Fatalf("%s %s: the stream is left open", r.method, r.path)
		}
	}
}

// closing tells when it is closed.
type closing struct {
	io.Reader
	closed chan<- struct{}
}

func (c *closing) Close() error { c.closed <- struct{}{}; return nil }

func TestGone(t *testing.T) {
	t.Parallel()
	for _, e := range []string{"fasthttp", "net/http"} {
		t.Run(e, func(t *testing.T) {
			t.Parallel()
			told := make(chan struct{})
			entered := make(chan struct{})
			wait := func(gone <-chan struct{}) {
				close(entered)
				<-gone
				close(told)
			}
			s := newServer(t)
			if e == "fasthttp" {
				f := FastHTTP(func(ctx *fasthttp.RequestCtx) { wait(Gone(ctx)) })
				s.engine, s.tracker = f, f.tracker
			} else {
				n := NetHTTP(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { wait(r.Context().Done()) }))
				s.engine, s.tracker = n, n.tracker
			}
			s.start(config.HTTP{})
			c := s.dial()
			c.send(get("/"))
			<-entered
			select {
			case <-told:
				t.Fatal("told before the client has left")
			default:
			}
			c.Close()
			select {
			case <-told:
			case <-time.After(patience):
				t.Fatal("the client has left, and the handler is not told")
			}
		})
	}
	if Gone(&fasthttp.RequestCtx{}) != nil {
		t.Error("a request of no connection has a client that may leave")
	}
}

// A client that stops within a streamed body is cut, and the handler gets an error.
func TestStreamedBodyThatStalls(t *testing.T) {
	t.Parallel()
	failed := make(chan error, 1)
	s := streams(t, config.HTTP{BodyTimeout: short}, func(ctx *fasthttp.RequestCtx) {
		_, err := io.Copy(io.Discard, ctx.RequestBodyStream())
		failed <- err
	})
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 20000))
	select {
	case err := <-failed:
		if !timedOut(err) {
			t.Errorf("the handler gets %v, want a timeout", err)
		}
	case <-time.After(patience):
		t.Fatal("a body that has stalled is waited for")
	}
	_, _ = io.Copy(io.Discard, c)
}

// A body that was cut is no whole one, wherever it was cut.
func TestStreamedBodyThatIsCut(t *testing.T) {
	t.Parallel()
	type outcome struct {
		n   int64
		err error
	}
	ended := make(chan outcome, 1)
	s := streams(t, config.HTTP{}, func(ctx *fasthttp.RequestCtx) {
		n, err := io.Copy(io.Discard, ctx.RequestBodyStream())
		ended <- outcome{n, err}
	})
	text := strings.Repeat("x", 20_000)
	for name, request := range map[string]string{
		"length":                "Content-Length: 30000\r\n\r\n" + text,
		"within a chunk":        "Transfer-Encoding: chunked\r\n\r\n7530\r\n" + text,
		"between chunks":        "Transfer-Encoding: chunked\r\n\r\n4e20\r\n" + text + "\r\n",
		"within a chunk's size": "Transfer-Encoding: chunked\r\n\r\n4e20\r\n" + text + "\r\n1",
	} {
		c := s.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\n" + request)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		select {
		case o := <-ended:
			if o.err == nil {
				t.Errorf("%s: %d bytes look whole", name, o.n)
			}
		case <-time.After(patience):
			t.Fatalf("%s: the handler waits for ever", name)
		}
		c.Close()
	}
	c := s.dial()
	c.want(post("/", text), 200, "")
	if o := <-ended; o.err != nil || o.n != int64(len(text)) {
		t.Errorf("a whole body: %+v", o)
	}
}

// A slow reader slows the writer, on both engines: what is written and not yet read
// fits the buffers of two sockets.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	const (
		piece = 64 << 10
		most  = 64 << 20
		// The client's and the server's buffers, each bounded to a fraction of it, however
		// the kernel counts (socket(7), SO_RCVBUF: twice what is asked for).
		between = 16 << 20
	)
	for _, e := range []string{"fasthttp", "net/http"} {
		t.Run(e, func(t *testing.T) {
			t.Parallel()
			var written atomic.Int64
			done := make(chan struct{})
			produce := func(w io.Writer, flush func() error) {
				defer close(done)
				for buf := make([]byte, piece); written.Load() < most; written.Add(piece) {
					if _, err := w.Write(buf); err != nil || flush() != nil {
						return
					}
				}
			}
			s := newServer(t)
			if e == "fasthttp" {
				f := FastHTTP(func(ctx *fasthttp.RequestCtx) {
					ctx.SetBodyStreamWriter(func(w *bufio.Writer) { produce(w, w.Flush) })
				})
				s.engine, s.tracker = f, f.tracker
			} else {
				n := NetHTTP(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					produce(w, http.NewResponseController(w).Flush)
				}))
				s.engine, s.tracker = n, n.tracker
			}
			s.start(config.HTTP{})
			c := s.dial()
			if err := c.SetReadBuffer(256 << 10); err != nil {
				t.Fatal(err)
			}
			c.send(get("/"))
			read := int64(0)
			for buf := make([]byte, piece); read < most/2; {
				n, err := c.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				if read += int64(n); written.Load()-read > between {
					t.Fatalf("%d bytes are written, %d read: more than %d wait somewhere", written.Load(), read, between)
				}
			}
			c.Close()
			select { // the writer learns that its reader has left
			case <-done:
			case <-time.After(patience):
				t.Fatal("the writer writes on for a client that has left")
			}
			if written.Load() == most {
				t.Error("all was written for a client that left in the middle")
			}
		})
	}
}
