package engine

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"drover/config"

	"github.com/valyala/fasthttp"
)

// quiet is how many goroutines there are once they are fewer than most, or when
// patience is over.
func quiet(most int) int {
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for end := time.Now().Add(patience); ; <-look.C {
		if n := runtime.NumGoroutine(); n < most || time.Now().After(end) {
			return n
		}
	}
}

// A connection between two requests keeps no goroutine, and goes on when the next
// comes. The control is a server whose own settings need one. It does not run beside
// other tests, whose goroutines would be counted.
func TestIdleConnectionsKeepNoGoroutine(t *testing.T) {
	const conns = 200
	for _, c := range []struct {
		name string
		own  time.Duration // the server's own timeout for idle connections
	}{{"parked", 0}, {"control", time.Hour}} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t)
			f := FastHTTPServer(&fasthttp.Server{Handler: s.fast, IdleTimeout: c.own})
			s.engine, s.tracker = f, f.tracker
			before := runtime.NumGoroutine()
			s.start(config.HTTP{})
			clients := make([]*client, conns)
			for i := range clients {
				clients[i] = s.dial()
				clients[i].want(get("/hello"), 200, "hello")
			}
			for range 2 { // fresh, and parked before
				if c.own == 0 {
					// The first few keep one until they are asked once more.
					if n := quiet(before + conns/2); n >= before+conns/2 {
						t.Errorf("%d goroutines for %d idle connections", n-before, conns)
					}
				} else if n := runtime.NumGoroutine(); n < before+conns*3/4 { // others of before have ended
					t.Errorf("%d goroutines for %d connections that need one each", n-before, conns)
				}
				for _, c := range clients {
					c.want(get("/hello"), 200, "hello")
				}
			}
			for _, c := range clients {
				c.Close()
			}
		})
	}
}

// Handlers that wait on connections that were parked keep neither each other nor the
// rest from being served.
func TestHandlersWaitTogether(t *testing.T) {
	both(t, config.HTTP{}, func(t *testing.T, s *server) {
		const conns = 16
		var waiting []*client
		for range conns {
			c := s.dial()
			c.want(get("/hello"), 200, "hello")
			waiting = append(waiting, c)
		}
		quick := s.dial()
		quick.want(get("/hello"), 200, "hello")
		for i, c := range waiting {
			c.send(get("/wait"))
			if got := <-s.entered; got != "/wait" {
				t.Fatal(got)
			}
			if i%4 == 0 {
				quick.want(get("/hello"), 200, "hello")
			}
		}
		for range conns {
			s.release <- struct{}{}
		}
		for i, c := range waiting {
			if _, body := c.receive("GET"); body != "waited" {
				t.Errorf("connection %d: %q", i, body)
			}
			c.want(get("/hello"), 200, "hello")
		}
	})
}

// What begins on a parked connection is held to its limits, and what is parked is
// closed when it has been idle for too long, without a word.
func TestParkedConnectionsAreCut(t *testing.T) {
	both(t, config.HTTP{IdleTimeout: short, HeaderTimeout: short}, func(t *testing.T, s *server) {
		for what, c := range map[string]struct {
			sends  string
			status int
		}{
			"nothing":          {"", 0},
			"a header's part":  {"GET /hello HTTP/1.1\r\nHo", 408},
			"an empty line":    {"\r\n", 0},
			"no request":       {"hello\r\n\r\n", 400},
			"one, and no more": {get("/hello"), 200},
		} {
			client := s.dial()
			client.want(get("/hello"), 200, "hello")
			client.want(get("/hello"), 200, "hello")
			client.send(c.sends)
			if c.status != 0 {
				if r, _ := client.receive("GET"); r.StatusCode != c.status {
					t.Errorf("%s: %d, want %d", what, r.StatusCode, c.status)
				}
			}
			client.closed(false)
		}
	})
}

// What fasthttp keeps of a connection only for as long as it serves it holds all the
// same: a server that may have such a thing parks nothing.
func TestWriteTimeoutOfOneRequest(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	f := FastHTTPServer(&fasthttp.Server{Handler: s.fast, HeaderReceived: func(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
		if string(h.RequestURI()) == "/hello" {
			return fasthttp.RequestConfig{WriteTimeout: short}
		}
		return fasthttp.RequestConfig{}
	}})
	f.crowd = 0
	s.engine, s.tracker = f, f.tracker
	s.start(config.HTTP{})
	c := s.dial()
	c.want(get("/hello"), 200, "hello")
	<-time.After(short + short/2)
	c.want(get("/unread"), 200, "unread")
}

// The last answer of a connection says so, and a drain's too, where a handler has
// answered by TimeoutError.
func TestTimeoutErrorIsTheLast(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	f := FastHTTPServer(&fasthttp.Server{StreamRequestBody: true, Handler: func(ctx *fasthttp.RequestCtx) { ctx.TimeoutErrorWithCode("late", 503) }})
	s.engine, s.tracker = f, f.tracker
	s.start(config.HTTP{ConnectionRequests: 3})
	c := s.dial()
	for n := 1; n <= 3; n++ {
		if r := c.want(get("/"), 503, "late"); r.Close != (n == 3) {
			t.Errorf("request %d: closes: %v", n, r.Close)
		}
	}
	c.closed(false)
	c = s.dial()
	if r := c.want("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat(get("/in the body"), 1000), 503, "late"); !r.Close {
		t.Error("what the handler has left of a body would be a request")
	}
	c.closed(true)
}

// BenchmarkParked is a request on each of many connections in turn.
func BenchmarkParked(b *testing.B) {
	for _, conns := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(conns), func(b *testing.B) {
			s := newServer(b)
			f := FastHTTP(s.fast)
			s.engine, s.tracker = f, f.tracker
			s.start(config.HTTP{})
			clients := make([]*client, conns)
			for i := range clients {
				clients[i] = s.dial()
			}
			request := get("/hello")
			for i := 0; b.Loop(); i++ {
				clients[i%conns].want(request, 200, "hello")
			}
		})
	}
}
