package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drover/config"
	"drover/ipc/scoreboard"
)

// shutdown is a Shutdown under way.
func (s *server) shutdown(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.engine.Shutdown(ctx) }()
	return done
}

// ends waits for a Shutdown.
func (s *server) ends(done <-chan error) error {
	s.t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		s.t.Fatalf("Shutdown does not return: %+v", s.board.Snapshot())
		return nil
	}
}

// Once a drain has begun each answer asks its client to close, and the server
// closes.
func TestDrainAsksClientsToClose(t *testing.T) {
	for _, request := range []string{get("/hello"), get("/missing"), get("/panic"), post("/echo", "text"), "HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n"} {
		t.Run(request[:strings.Index(request, " HTTP")], func(t *testing.T) {
			both(t, config.HTTP{}, func(t *testing.T, s *server) {
				c := s.dial()
				c.send(get("/hello"))
				if r, _ := c.receive("GET"); r.Close {
					t.Error("an answer before the drain asks to close")
				}
				s.drain()
				c.send(request)
				method, _, _ := strings.Cut(request, " ")
				if r, _ := c.receive(method); !r.Close {
					t.Error("an answer in the drain does not ask to close")
				}
				c.closed(false)
			})
		})
	}
}

// Shutdown closes what is idle, and waits for what is in flight; a worker at
// its limit of connections leaves too.
func TestShutdown(t *testing.T) {
	both(t, config.HTTP{Connections: 2}, func(t *testing.T, s *server) {
		idle, busy := s.dial(), s.dial()
		idle.want(get("/hello"), 200, "hello")
		busy.send(get("/wait"))
		<-s.entered
		s.drain()
		done := s.shutdown(t.Context())
		idle.closed(false)
		select {
		case err := <-done:
			t.Errorf("Shutdown returned %v while a request was in flight", err)
		default:
		}
		s.release <- struct{}{}
		if r, body := busy.receive("GET"); r.StatusCode != 200 || body != "waited" || !r.Close {
			t.Errorf("%d %q, close: %v", r.StatusCode, body, r.Close)
		}
		busy.closed(false)
		if err := s.ends(done); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// A request whose header came together with the one before is in flight, though its
// body is still to come.
func TestShutdownWithinAPipeline(t *testing.T) {
	both(t, config.HTTP{}, func(t *testing.T, s *server) {
		idle, busy := s.dial(), s.dial()
		idle.want(get("/hello"), 200, "hello")
		busy.send(get("/hello") + "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nla")
		s.until("the first answer", func(n scoreboard.Snapshot) bool { return n.Requests == 2 })
		s.drain()
		done := s.shutdown(t.Context())
		idle.closed(false) // by the look of the drain's that all others had too
		busy.want("st", 200, "hello")
		if _, body := busy.receive("POST"); body != "last" {
			t.Errorf("%q, want last", body)
		}
		busy.closed(false)
		if err := s.ends(done); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// A Shutdown that takes too long ends with its context's error, and the
// connections with it.
func TestShutdownTakesTooLong(t *testing.T) {
	both(t, config.HTTP{}, func(t *testing.T, s *server) {
		idle, busy := s.dial(), s.dial()
		idle.want(get("/hello"), 200, "hello")
		busy.send(get("/wait"))
		<-s.entered
		s.drain()
		ctx, cancel := context.WithCancel(t.Context())
		done := s.shutdown(ctx)
		idle.closed(false)
		cancel()
		if err := s.ends(done); !errors.Is(err, context.Canceled) {
			t.Errorf("Shutdown: %v, want the context's error", err)
		}
		busy.closed(false)
		s.release <- struct{}{}
		s.until("at rest", func(n scoreboard.Snapshot) bool { return n.InFlight == 0 })
	})
}

// A new connection that has sent nothing gets a moment in a drain: its request
// may be on its way. Then it is closed.
func TestShutdownAndNewConnections(t *testing.T) {
	both(t, config.HTTP{}, func(t *testing.T, s *server) {
		silent, late := s.dial(), s.dial()
		s.until("both accepted", func(n scoreboard.Snapshot) bool { return n.Accepted == 2 })
		begun := time.Now()
		s.drain()
		done := s.shutdown(t.Context())
		late.want(get("/hello"), 200, "hello")
		late.closed(false)
		if r, _, err := silent.try("GET"); err == nil && r.StatusCode != 408 {
			t.Errorf("the silent client got %d", r.StatusCode)
		}
		silent.closed(false)
		if err := s.ends(done); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if took := time.Since(begun); took < freshPatience {
			t.Errorf("a silent client got %v, want %v", took, freshPatience)
		}
	})
}

// A request that arrives on an idle connection just when Shutdown begins is
// answered, or never reaches its handler.
func TestRequestMeetsShutdown(t *testing.T) {
	t.Parallel()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			requestsMeetShutdown(t, e.make, 25, false)
		})
		t.Run(e.name+" over TLS", func(t *testing.T) {
			t.Parallel()
			requestsMeetShutdown(t, e.make, 10, true)
		})
	}
}

// asker is a client's connection, in plain text or over TLS.
type asker interface {
	io.Writer
	ask(request string, status int, body string)
	try(method string) (*http.Response, string, error)
}

func requestsMeetShutdown(t *testing.T, engine func(*server) (answering, *tracker), rounds int, encrypted bool) {
	const each = 8
	var answered, dropped atomic.Int64
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			s := newServer(t)
			dial := func() asker { return s.dial() }
			if encrypted {
				s.keys = keysFor(t, "a.test")
				dial = func() asker { return s.dialTLS() }
			}
			s.engine, s.tracker = engine(s)
			var mu sync.Mutex
			handled := map[string]bool{}
			s.saw = func(path string) { mu.Lock(); handled[path] = true; mu.Unlock() }
			s.start(config.HTTP{})
			var clients []asker
			for range each {
				c := dial()
				c.ask(get("/hello"), 200, "hello")
				clients = append(clients, c)
			}
			s.drain()
			begin := make(chan struct{})
			var asked sync.WaitGroup
			for i, c := range clients {
				asked.Go(func() {
					path := fmt.Sprint("/", i)
					<-begin
					for range i * round * 4 { // some a little later than others
						runtime.Gosched()
					}
					_, err := c.Write([]byte(get(path)))
					var r *http.Response
					if err == nil {
						r, _, err = c.try("GET")
					}
					switch {
					case err == nil && r.StatusCode == 404 && r.Close:
						answered.Add(1)
					case err == nil:
						t.Errorf("%d, close: %v", r.StatusCode, r.Close)
					case timedOut(err):
						t.Error("neither answered nor closed")
					default:
						dropped.Add(1)
						mu.Lock()
						if handled[path] {
							t.Errorf("%s was handled, but its answer lost: %v", path, err)
						}
						mu.Unlock()
					}
				})
			}
			close(begin)
			done := s.shutdown(t.Context())
			asked.Wait()
			if err := s.ends(done); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		})
	}
	t.Logf("%d answered, %d connections closed before", answered.Load(), dropped.Load())
}

// only is the server's one connection, once it is in phase p.
func (s *server) only(p phase) (c *conn) {
	s.t.Helper()
	s.until("in that phase", func(scoreboard.Snapshot) bool {
		s.tracker.mu.Lock()
		defer s.tracker.mu.Unlock()
		for c = range s.tracker.conns {
		}
		return len(s.tracker.conns) == 1 && c.is(p)
	})
	return c
}

// A drain, or a sweep, that has taken a connection for idle, and ends its read
// when its request is being handled, does not cancel the request.
func TestRequestInHandlingIsNotExpired(t *testing.T) {
	both(t, config.HTTP{}, func(t *testing.T, s *server) {
		c := s.dial()
		c.want(get("/hello"), 200, "hello")
		conn := s.only(idle)
		c.send(get("/wait"))
		<-s.entered
		conn.expireRead(idle)
		var handler context.Context
		if _, fast := s.engine.(*Fast); !fast {
			handler = <-s.context
		}
		s.dial().want(get("/hello"), 200, "hello")
		if handler != nil && handler.Err() != nil {
			t.Errorf("the request's context: %v", handler.Err())
		}
		s.release <- struct{}{}
		if r, body := c.receive("GET"); r.StatusCode != 200 || body != "waited" {
			t.Errorf("%d %q", r.StatusCode, body)
		}
		c.want(get("/hello"), 200, "hello")
	})
}

// The same, when the read was ended while the body is under way.
func TestRequestInItsBodyIsNotExpired(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	f := FastHTTP(s.fast)
	s.engine, s.tracker = f, f.tracker
	s.start(config.HTTP{})
	c := s.dial()
	c.want(get("/hello"), 200, "hello")
	request := post("/echo", "some text")
	c.send(request[:len(request)-4])
	s.only(body).expireRead(body) // as if the phase had been idle a moment before
	c.want(request[len(request)-4:], 200, "some text")
	c.want(get("/hello"), 200, "hello")
}

// What a read gives that was ended in an idle connection: nothing, or what has
// arrived; and once net/http handles, what arrives.
func TestReadAfterExpiry(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.listener = listen(t)
	defer s.listener.Close()
	c := s.dial()
	accepted, err := s.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn := newTracker(true).add(accepted)
	defer conn.Close()
	conn.enter(idle, 0)
	conn.expireRead(idle)
	if _, err := conn.Read(make([]byte, 1)); !timedOut(err) {
		t.Errorf("idle: %v, want an end", err)
	}
	c.send("x")
	conn.expireRead(idle)
	if n, err := conn.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("idle, but something has arrived: %d, %v, want a byte", n, err)
	}
	conn.expireRead(idle)
	conn.handle()
	c.send("x")
	if n, err := conn.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("handled: %d, %v, want a byte", n, err)
	}
}

// An upgrade in a drain is one, and Shutdown does not wait for it.
func TestUpgradeInADrain(t *testing.T) {
	both(t, config.HTTP{}, func(t *testing.T, s *server) {
		c := s.dial()
		c.want(get("/hello"), 200, "hello")
		s.drain()
		c.send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\necho\n")
		for line := ""; line != "\r\n"; {
			var err error
			if line, err = c.r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := c.r.ReadString('\n'); got != "echo\n" {
			t.Fatalf("%q, %v", got, err)
		}
		if err := s.ends(s.shutdown(t.Context())); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		c.send("still\n")
		if got, err := c.r.ReadString('\n'); got != "still\n" {
			t.Errorf("%q, %v", got, err)
		}
		c.Close()
		s.until("at rest", func(n scoreboard.Snapshot) bool { return n.Connections == 0 })
	})
}
