package engine

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/config"
	"drover/ipc/scoreboard"
)

// short is the limit that a test waits for; long are those that it must not
// meet.
const (
	short = 300 * time.Millisecond
	long  = time.Minute
)

// A client that makes no progress is answered 408 or cut, not earlier than the
// limit says and without harm to the others.
func TestStalledClientsAreCut(t *testing.T) {
	t.Parallel()
	slow := config.HTTP{HeaderTimeout: long, BodyTimeout: long, WriteTimeout: long, IdleTimeout: long}
	headers, bodies, idles := slow, slow, slow
	headers.HeaderTimeout, bodies.BodyTimeout, idles.IdleTimeout = short, short, short
	// net/http takes a part of a line for a line, and answers 400.
	for _, c := range []struct {
		name   string
		limits config.HTTP
		first  string // is answered; then
		send   string
		answer string // the statuses that may come before the end, besides none
	}{
		{"nothing on a new connection", headers, "", "", "408"},
		{"a part of a header", headers, "", "GET /hello HTTP/1.1\r\nHo", "408 400"},
		{"a part of a header on a used connection", headers, get("/hello"), "GET /hello HTTP/1.1\r\nHo", "408 400"},
		{"all of a header but its end", headers, "", "GET /hello HTTP/1.1\r\nHost: a\r\n\r", "408 400"},
		{"no body", bodies, "", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", "408"},
		{"a part of a body", bodies, "", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123", "408"},
		{"a part of a body on a used connection", bodies, get("/hello"), "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123", "408"},
		{"a part of a chunked body", bodies, "", "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n123", "408"},
		{"no body, which the handler does not read", bodies, "", "POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", "408 200"},
		{"a part of a chunked body that the handler does not read", bodies, "", "POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n123", "408 200"},
		{"no body, for leave to send which the client waits", bodies, "", "POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n", "408 200"},
		{"a part of a body that the handler does not read", bodies, "", "POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123", "408 200"},
		{"a part of a chunked body that is too large", bodies, "", "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n500001\r\n" + strings.Repeat("x", 5<<20), "413"},
		{"idle", idles, get("/hello"), "", ""},
		{"idle after a body", idles, post("/echo", "text"), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			both(t, c.limits, func(t *testing.T, s *server) {
				begun := time.Now()
				conn := s.dial()
				if c.first != "" {
					conn.send(c.first)
					conn.receive("GET")
				}
				if c.send != "" && c.first != "" { // on a new connection the limit begins with it
					begun = time.Now()
				}
				_, _ = io.WriteString(conn, c.send) // a large body may be cut meanwhile
				r, _, err := conn.try("POST")
				if err == nil && r.StatusCode == 100 {
					r, _, err = conn.try("POST")
				}
				switch {
				case err == nil && !strings.Contains(" "+c.answer+" ", fmt.Sprintf(" %d ", r.StatusCode)):
					t.Errorf("%d, want %q or none", r.StatusCode, c.answer)
				case err != nil && timedOut(err):
					t.Fatal("it is not cut")
				}
				conn.closed(len(c.send) > 1<<10)
				if took := time.Since(begun); took < short && len(c.send) < 1<<10 {
					t.Errorf("it is cut after %v, want %v or more", took, short)
				}
				s.until("at rest", func(n scoreboard.Snapshot) bool { return n.Connections == 0 && n.InFlight == 0 })
				s.dial().want(get("/hello"), 200, "hello")
			})
		})
	}
}

// A header that comes byte by byte has one limit for all of it.
func TestTricklingHeaderIsCut(t *testing.T) {
	both(t, config.HTTP{HeaderTimeout: short}, func(t *testing.T, s *server) {
		c := s.dial()
		pace := time.NewTicker(10 * time.Millisecond)
		defer pace.Stop()
		c.send("GET /hello HTTP/1.1\r\nHost: ")
		for begun := time.Now(); ; <-pace.C {
			if _, err := io.WriteString(c, "a"); err != nil {
				if timedOut(err) || time.Since(begun) >= patience {
					t.Error("it is not cut")
				}
				return
			}
		}
	})
}

// A reader that stops in a big response is cut.
func TestStalledReaderIsCut(t *testing.T) {
	both(t, config.HTTP{WriteTimeout: short}, func(t *testing.T, s *server) {
		c := s.dial()
		begun := time.Now()
		c.send(get("/big"))
		read, _ := io.CopyN(io.Discard, c.r, 1<<20) // less only where this reader is stalled by itself
		s.until("cut", func(n scoreboard.Snapshot) bool { return n.Connections == 0 && n.InFlight == 0 })
		if took := time.Since(begun); took < short {
			t.Errorf("it is cut after %v, want %v or more", took, short)
		}
		if _, err := io.CopyN(io.Discard, c.r, bigSize-read); err == nil || timedOut(err) {
			t.Errorf("it reads on: %v", err)
		}
		s.dial().want(get("/hello"), 200, "hello")
	})
}

// A reader that takes a few bytes of a big response now and then is cut as well.
func TestTricklingReaderIsCut(t *testing.T) {
	const limit = 3 * time.Second
	both(t, config.HTTP{WriteTimeout: limit}, func(t *testing.T, s *server) {
		var small error
		dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error { // as little room as there can be
			return raw.Control(func(fd uintptr) { small = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1) })
		}}
		nc, err := dialer.DialContext(t.Context(), "tcp", s.listener.Addr().String())
		if err = errors.Join(err, small); err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := io.WriteString(nc, get("/big")); err != nil {
			t.Fatal(err)
		}
		s.until("there", func(n scoreboard.Snapshot) bool { return n.Requests == 1 || n.InFlight == 1 })
		begun := time.Now()
		pace := time.NewTicker(limit * 9 / 10)
		defer pace.Stop()
		for s.board.Snapshot().Connections > 0 {
			if <-pace.C; time.Since(begun) > patience {
				t.Fatalf("it is not cut in %v", patience)
			}
			_, _ = io.ReadFull(nc, make([]byte, 1200)) // fails once it is cut
		}
		t.Logf("cut after %v", time.Since(begun))
	})
}

// progress is a limit within which a slow machine gets a piece sent. What is
// slow here takes longer, all in all.
const progress = 1500 * time.Millisecond

// A slow body that makes progress is not cut.
func TestSlowBody(t *testing.T) {
	for _, c := range []struct{ name, header, before, after, end string }{
		{"length", "Content-Length: 1000", "", "", ""},
		{"chunked", "Transfer-Encoding: chunked", "1\r\n", "\r\n", "0\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			both(t, config.HTTP{HeaderTimeout: progress, BodyTimeout: progress, IdleTimeout: progress, WriteTimeout: progress}, func(t *testing.T, s *server) {
				conn := s.dial()
				conn.want(get("/hello"), 200, "hello")
				conn.send("POST /echo HTTP/1.1\r\nHost: a\r\n" + c.header + "\r\n\r\n")
				pace := time.NewTicker(50 * time.Millisecond)
				defer pace.Stop()
				n := 0
				for begun := time.Now(); time.Since(begun) < progress*3/2; <-pace.C {
					conn.send(c.before + "x" + c.after)
					n++
				}
				rest := c.end
				if rest == "" {
					rest, n = strings.Repeat("x", 1000-n), 1000
				}
				conn.want(rest, 200, strings.Repeat("x", n))
			})
		})
	}
}

// The limit of a body's time is none of a long answer's: the request is not
// cancelled.
func TestLongAnswerAfterABody(t *testing.T) {
	t.Parallel()
	const length, chunked, end = "Content-Length: 4\r\n\r\ntext", "Transfer-Encoding: chunked\r\n\r\n4\r\ntext\r\n", "0\r\n\r\n"
	for _, r := range []struct{ name, path, body, rest, answer string }{
		{"long, length", "/stream", length, "", "begun context: <nil>"},
		{"long, chunked", "/stream", chunked + end, "", "begun context: <nil>"},
		{"late, length", "/stream?late", length, "", "context: <nil>"},
		{"late, chunked", "/stream?late", chunked, end, "context: <nil>"},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.engine = NetHTTP(http.HandlerFunc(s.net))
			s.start(config.HTTP{BodyTimeout: short})
			c := s.dial()
			c.send("POST " + r.path + " HTTP/1.1\r\nHost: a\r\n" + r.body)
			<-s.entered
			c.send(r.rest)
			for range 2 { // another is cut by the limit meanwhile
				stalled := s.dial()
				stalled.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123")
				stalled.receive("POST")
				stalled.closed(false)
			}
			s.release <- struct{}{}
			if _, body := c.receive("POST"); body != r.answer {
				t.Errorf("%q, want %q", body, r.answer)
			}
			c.want(get("/hello"), 200, "hello")
		})
	}
}

// A handler that asked for it may answer before it reads.
func TestFullDuplex(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.engine = NetHTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if err := rc.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, "first ")
		_ = rc.Flush()
		_, _ = io.Copy(w, r.Body)
	}))
	s.start(config.HTTP{})
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
	if line, err := c.r.Peek(12); err != nil || string(line) != "HTTP/1.1 200" {
		t.Fatalf("%q, %v", line, err)
	}
	c.want("then", 200, "first then")
}

// A slow reader that makes progress is not cut.
func TestSlowReader(t *testing.T) {
	both(t, config.HTTP{HeaderTimeout: progress, BodyTimeout: progress, IdleTimeout: progress, WriteTimeout: progress}, func(t *testing.T, s *server) {
		c := s.dial()
		c.send(get("/big"))
		pace := time.NewTicker(50 * time.Millisecond)
		defer pace.Stop()
		begun := time.Now()
		for n := int64(0); n < bigSize; n += 200 << 10 {
			<-pace.C
			if _, err := io.CopyN(io.Discard, c.r, min(200<<10, bigSize-n)); err != nil {
				t.Fatalf("after %d bytes and %v: %v", n, time.Since(begun), err)
			}
		}
		if took := time.Since(begun); took < progress {
			t.Fatalf("it took %v, which shows nothing", took)
		}
	})
}

// What is too large is refused, counted, and the connection closed.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	chunked := "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, c := range []struct {
		name, request string
		status        int
	}{
		{"a header within the limit", "GET /hello HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 6000) + "\r\n\r\n", 200},
		{"a large header", "GET /hello HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 10000) + "\r\n\r\n", 431},
		{"a long path", "GET /" + strings.Repeat("x", 10000) + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
		{"many fields", "GET /hello HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 2000) + "\r\n", 431},
		{"a body within the limit", post("/echo", strings.Repeat("x", 1000)), 200},
		{"a chunked body within the limit", chunked + "3e8\r\n" + strings.Repeat("x", 1000) + "\r\n0\r\n\r\n", 200},
		{"a length beyond", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", 413},
		{"a body beyond", post("/echo", strings.Repeat("x", 1001)), 413},
		{"a chunk beyond", chunked + "3e9\r\n" + strings.Repeat("x", 1001) + "\r\n0\r\n\r\n", 413},
		{"chunks beyond", chunked + strings.Repeat("a\r\n0123456789\r\n", 101) + "0\r\n\r\n", 413},
		{"a large body", post("/echo", strings.Repeat("x", 8<<20)), 413},
	} {
		t.Run(c.name, func(t *testing.T) {
			both(t, config.HTTP{HeaderBytes: 8192, BodyBytes: 1000, BodyTimeout: short}, func(t *testing.T, s *server) {
				conn := s.dial()
				sent := make(chan struct{})
				go func() { // the answer may come before all is sent
					defer close(sent)
					_, _ = io.WriteString(conn, c.request)
				}()
				r, _ := conn.receive("POST")
				if r.StatusCode != c.status {
					t.Errorf("%d, want %d", r.StatusCode, c.status)
				}
				if c.status != 200 {
					_ = conn.CloseWrite() // which the server waits for
					conn.closed(false)
				}
				conn.Close()
				<-sent
				if n := s.board.Snapshot(); n.Status[c.status/100] != 1 {
					t.Errorf("%+v", n)
				}
			})
		})
	}
}

// While as many connections as are allowed are open the others wait, and are
// served when one closes.
func TestConnectionsLimit(t *testing.T) {
	both(t, config.HTTP{Connections: 2}, func(t *testing.T, s *server) {
		s.saw = func(string) {
			if open := s.tracker.open(); open > 2 {
				t.Errorf("%d connections are open, want at most 2", open)
			}
		}
		first, second := s.dial(), s.dial()
		first.want(get("/hello"), 200, "hello")
		second.want(get("/hello"), 200, "hello")
		var more []*client
		for range 3 {
			c := s.dial()
			c.send(post("/echo", "waited"))
			more = append(more, c)
		}
		for range 20 { // enough for a limit that does not hold to show
			second.want(get("/hello"), 200, "hello")
		}
		if n := s.board.Snapshot(); n.Accepted != 2 || n.Connections != 2 {
			t.Errorf("%d accepted, %d open, want 2 and 2", n.Accepted, n.Connections)
		}
		first.Close()
		for _, c := range more {
			if r, body := c.receive("POST"); r.StatusCode != 200 || body != "waited" {
				t.Errorf("%d %q", r.StatusCode, body)
			}
			c.Close()
		}
		second.want(get("/hello"), 200, "hello")
	})
}

// A connection that became something else has no limits, and is no request in
// flight.
func TestUpgraded(t *testing.T) {
	both(t, config.HTTP{HeaderTimeout: short, BodyTimeout: short, WriteTimeout: short, IdleTimeout: short}, func(t *testing.T, s *server) {
		c := s.dial()
		c.send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		if r, err := c.r.ReadString('\n'); err != nil || !strings.HasPrefix(r, "HTTP/1.1 101 ") {
			t.Fatalf("%q, %v", r, err)
		}
		for line := ""; line != "\r\n"; {
			var err error
			if line, err = c.r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		echo := func(text string) {
			t.Helper()
			c.send(text)
			got := make([]byte, len(text))
			if _, err := io.ReadFull(c.r, got); err != nil || string(got) != text {
				t.Fatalf("%q, %v, want %q", got, err, text)
			}
		}
		echo("before")
		if n := s.board.Snapshot(); n.Connections != 1 {
			t.Errorf("%+v", n)
		}
		if limited := s.tracker.limits.IdleTimeout; limited != short {
			t.Fatalf("the limit is %v", limited)
		}
		for range 3 { // others live and end by the limits meanwhile
			idle := s.dial()
			idle.want(get("/hello"), 200, "hello")
			idle.closed(false)
		}
		echo("after")
		// net/http's handler runs as long as the connection lives, but it answers no
		// request any more.
		s.until("not in flight", func(n scoreboard.Snapshot) bool { return n.InFlight == 0 && n.Requests == 3 && n.Sockets == 1 })
		c.Close()
		s.until("at rest", func(n scoreboard.Snapshot) bool { return n.Connections == 0 && n.InFlight == 0 && n.Sockets == 0 })
		if n := s.board.Snapshot(); n.Requests != 3 {
			t.Errorf("%d requests, want the three that were none of the upgrade", n.Requests)
		}
	})
}
