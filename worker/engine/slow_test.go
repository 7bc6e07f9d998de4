package engine

import (
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"drover/config"
	"drover/ipc/scoreboard"

	"github.com/valyala/fasthttp"
)

// A body that comes steadily, but takes too long, is cut; how it comes, and who reads
// it, makes no difference.
func TestBodyThatTakesTooLong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, header, piece string }{
		{"length", "Content-Length: 100000", "x"},
		{"chunked", "Transfer-Encoding: chunked", "1\r\nx\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			test := func(t *testing.T, s *server) {
				conn := s.dial()
				conn.want(get("/hello"), 200, "hello") // which had its own time
				conn.send("POST /echo HTTP/1.1\r\nHost: a\r\n" + c.header + "\r\n\r\n")
				pace := time.NewTicker(20 * time.Millisecond)
				defer pace.Stop()
				begun := time.Now()
				for ; ; <-pace.C {
					if _, err := io.WriteString(conn, c.piece); err != nil {
						if timedOut(err) {
							t.Error("it is not cut")
						}
						break
					}
					if time.Since(begun) > patience {
						t.Fatal("it is not cut")
					}
				}
				if took := time.Since(begun); took < short {
					t.Errorf("it is cut after %v, want %v or more", took, short)
				}
				s.until("at rest", func(n scoreboard.Snapshot) bool { return n.Connections == 0 && n.InFlight == 0 })
				s.dial().want(post("/echo", "short"), 200, "short")
			}
			limits := config.HTTP{BodyTimeout: progress, RequestTimeout: short}
			both(t, limits, test)
			t.Run("fasthttp, streamed", func(t *testing.T) {
				t.Parallel()
				test(t, streams(t, limits, func(ctx *fasthttp.RequestCtx) {
					body := ctx.RequestBodyStream()
					if body == nil {
						ctx.SetBodyString("hello")
					} else if _, err := io.Copy(ctx, body); err != nil {
						ctx.SetStatusCode(408)
					}
				}))
			})
		})
	}
}

// The answer to a connection's last request says that it closes.
func TestRequestsOfAConnection(t *testing.T) {
	both(t, config.HTTP{ConnectionRequests: 3}, func(t *testing.T, s *server) {
		for range 2 { // each connection has its own
			c := s.dial()
			for n := 1; n <= 3; n++ {
				if r := c.want(get("/hello"), 200, "hello"); r.Close != (n == 3) {
					t.Errorf("request %d: closes: %v", n, r.Close)
				}
			}
			c.closed(false)
		}
	})
}

// slowClients is how many there are of each kind.
const slowClients = 200

// Clients that send or read as slowly as they can are all cut, and the others are
// served meanwhile.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	limits := config.HTTP{HeaderTimeout: short, BodyTimeout: progress, RequestTimeout: short, WriteTimeout: short}
	for _, e := range []string{"fasthttp", "net/http"} {
		t.Run(e, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if e == "fasthttp" {
				f := FastHTTP(func(ctx *fasthttp.RequestCtx) {
					if string(ctx.Path()) == "/big" {
						ctx.Response.SetBodyRaw(big)
					}
				})
				s.engine, s.tracker = f, f.tracker
			} else {
				n := NetHTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					if r.URL.Path == "/big" {
						_, _ = w.Write(big)
					}
				}))
				s.engine, s.tracker = n, n.tracker
			}
			s.start(limits)
			alone := s.latencies(short, func() bool { return true })

			begun := time.Now()
			var slow []*client
			var wrote sync.WaitGroup
			for range slowClients {
				for _, first := range []string{"GET /hello HTTP/1.1\r\nX: ", "POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", get("/big")} {
					c := s.dial()
					c.send(first)
					slow = append(slow, c)
				}
			}
			s.until("all there", func(n scoreboard.Snapshot) bool { return n.Accepted > 3*slowClients })
			ended := make(chan struct{})
			wrote.Go(func() {
				pace := time.NewTicker(50 * time.Millisecond)
				defer pace.Stop()
				for one := []byte("x"); ; {
					for i, c := range slow {
						if i%3 < 2 {
							_, _ = c.Write(one) // fails once it is cut
						} else {
							_, _ = c.r.Discard(1)
						}
					}
					select {
					case <-pace.C:
					case <-ended:
						return
					}
				}
			})
			beside := s.latencies(patience, func() bool { return s.board.Snapshot().Connections > 1 })
			took := time.Since(begun)
			close(ended)
			wrote.Wait()
			if n := s.board.Snapshot(); n.Connections > 1 || n.Accepted < 3*slowClients {
				t.Errorf("after %v %d connections are open of %d accepted, want none of the slow", took, n.Connections, n.Accepted)
			}
			t.Logf("%d slow clients are cut after %v by limits of %v; p99 of another: %v, alone %v (%d and %d requests)",
				len(slow), took, short, p99(beside), p99(alone), len(beside), len(alone))
		})
	}
}

// latencies asks one after the other while it goes on, at most for a time.
func (s *server) latencies(most time.Duration, on func() bool) (all []time.Duration) {
	s.t.Helper()
	c := s.dial()
	defer c.Close()
	for begun := time.Now(); time.Since(begun) < most && on(); {
		at := time.Now()
		c.want(get("/"), 200, "")
		all = append(all, time.Since(at))
	}
	return all
}

func p99(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)*99/100]
}
