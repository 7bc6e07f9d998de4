package engine

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drover/config"
	"drover/internal/authority"
	"drover/ipc/scoreboard"
	"drover/worker/secure"

	"github.com/valyala/fasthttp"
)

// trusted is who all servers of these tests have their certificates from.
var trusted = sync.OnceValue(authority.New)

// keysFor are keys with a certificate for one host.
func keysFor(t testing.TB, host string) *secure.Keys {
	t.Helper()
	k := new(secure.Keys)
	set(t, k, host)
	return k
}

func set(t testing.TB, k *secure.Keys, host string) {
	t.Helper()
	pair, err := tls.X509KeyPair(trusted().Issue(time.Now().Add(time.Hour), host))
	if err != nil {
		t.Fatal(err)
	}
	k.Set(&tls.Config{Certificates: []tls.Certificate{pair}}, [][32]byte{{1}})
}

// bothOverTLS runs a test on both engines, whose certificate is for a.test. Nothing
// that is encrypted is parked.
func bothOverTLS(t *testing.T, limits config.HTTP, test func(t *testing.T, s *server)) {
	t.Parallel()
	for _, e := range engines[:2] {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.engine, s.tracker = e.make(s)
			s.keys = keysFor(t, "a.test")
			s.start(limits)
			test(t, s)
		})
	}
}

// secureClient is a client's connection, over TLS.
type secureClient struct {
	*tls.Conn
	r *bufio.Reader
	t testing.TB
}

// over shakes hands on a connection.
func (c *client) over(config *tls.Config) (*secureClient, error) {
	config.RootCAs = trusted().Pool()
	if config.ServerName == "" {
		config.ServerName = "a.test"
	}
	t := tls.Client(c.TCPConn, config)
	return &secureClient{t, bufio.NewReader(t), c.t}, t.Handshake()
}

func (s *server) dialTLS() *secureClient {
	s.t.Helper()
	c, err := s.dial().over(&tls.Config{})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (c *secureClient) want(request string, status int, body string) {
	c.t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		c.t.Fatal(err)
	}
	c.receive(status, body)
}

func (c *secureClient) ask(request string, status int, body string) { c.want(request, status, body) }

func (c *secureClient) try(method string) (*http.Response, string, error) {
	r, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		return nil, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r, string(body), err
}

func (c *secureClient) receive(status int, body string) {
	c.t.Helper()
	r, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	got, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != status || string(got) != body {
		c.t.Errorf("%d %.60q, %v; want %d %.60q", r.StatusCode, got, err, status, body)
	}
}

// ended waits until the server has said that the connection is at its end
// (close_notify): without that word an answer could have been cut.
func (c *secureClient) ended() {
	c.t.Helper()
	if n, err := io.Copy(io.Discard, c.r); n != 0 || err != nil { // io.ErrUnexpectedEOF without it
		c.t.Errorf("%d bytes, %v; want the end of the connection", n, err)
	}
}

func TestTLS(t *testing.T) {
	bothOverTLS(t, config.HTTP{}, func(t *testing.T, s *server) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			c, err := s.dial().over(&tls.Config{MaxVersion: version, NextProtos: []string{"http/1.1"}})
			if err != nil {
				t.Fatal(err)
			}
			c.want(get("/hello"), 200, "hello")
			c.want(post("/echo", "an echo"), 200, "an echo")
			c.want(get("/big"), 200, string(big))
			c.want(get("/hello")+get("/hello"), 200, "hello")
			c.receive(200, "hello")
			if state := c.ConnectionState(); state.Version != version || state.NegotiatedProtocol != "http/1.1" {
				t.Errorf("version %x, protocol %q", state.Version, state.NegotiatedProtocol)
			}
			c.Close()
		}
		if _, err := s.dial().over(&tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS11}); err == nil {
			t.Error("TLS 1.1 is spoken")
		}
		s.until("all connections are closed", func(b scoreboard.Snapshot) bool { return b.Connections == 0 })
		if log := s.log.String(); log != "" {
			t.Errorf("logged: %s", log)
		}
	})
}

// With net/http a client may speak HTTP/2; fasthttp offers it to nobody.
func TestProtocolOverTLS(t *testing.T) {
	bothOverTLS(t, config.HTTP{}, func(t *testing.T, s *server) {
		transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: trusted().Pool(), ServerName: "a.test"}}
		defer transport.CloseIdleConnections()
		r, err := (&http.Client{Transport: transport}).Get("https://" + s.listener.Addr().String() + "/hello")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		want := 1
		if _, is := s.engine.(*Net); is {
			want = 2
		}
		if body, err := io.ReadAll(r.Body); r.ProtoMajor != want || string(body) != "hello" || err != nil {
			t.Errorf("HTTP/%d, %q, %v; want HTTP/%d", r.ProtoMajor, body, err, want)
		}
	})
}

// A net/http server's own hooks see TLS as such, and its handler what was agreed on,
// whichever HTTP is spoken.
func TestHooksOverTLS(t *testing.T) {
	t.Parallel()
	type ours struct{}
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			var mu sync.Mutex
			var states []http.ConnState
			var conns []net.Conn
			e := Server(&http.Server{
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
					named, _ := r.Context().Value(ours{}).(string)
					fmt.Fprintf(w, "%s %s %v %v", r.TLS.NegotiatedProtocol, named, server != nil, r.Context().Value(http.LocalAddrContextKey))
				}),
				ConnContext: func(ctx context.Context, c net.Conn) context.Context {
					_, is := c.(*tls.Conn)
					return context.WithValue(ctx, ours{}, fmt.Sprint(is))
				},
				ConnState: func(c net.Conn, state http.ConnState) {
					mu.Lock()
					defer mu.Unlock()
					states, conns = append(states, state), append(conns, c)
				},
			})
			s.engine, s.tracker = e, e.tracker
			s.keys = keysFor(t, "a.test")
			s.start(config.HTTP{})
			transport := &http.Transport{ForceAttemptHTTP2: protocol == "h2", TLSClientConfig: &tls.Config{RootCAs: trusted().Pool(), ServerName: "a.test", NextProtos: []string{protocol}}}
			client := &http.Client{Transport: transport}
			address := s.listener.Addr().String()
			r, err := client.Get("https://" + address + "/")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r.Body)
			r.Body.Close()
			if want := protocol + " true true " + address; err != nil || string(body) != want {
				t.Errorf("%q, %v; want %q", body, err, want)
			}
			q, err := http.NewRequest(http.MethodOptions, "https://"+address, nil)
			if err != nil {
				t.Fatal(err)
			}
			q.URL.Opaque = "*"
			if r, err = client.Do(q); err != nil {
				t.Fatal(err)
			}
			body, err = io.ReadAll(r.Body)
			r.Body.Close()
			if r.StatusCode != 200 || len(body) > 0 || err != nil {
				t.Errorf("OPTIONS *: %d %q, %v", r.StatusCode, body, err)
			}
			transport.CloseIdleConnections()
			s.until("closed", func(n scoreboard.Snapshot) bool { return n.Connections == 0 })
			s.drain()
			if err := s.ends(s.shutdown(t.Context())); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(states) == 0 || states[0] != http.StateNew || states[len(states)-1] != http.StateClosed {
				t.Errorf("states: %v", states)
			}
			for _, c := range conns {
				if _, is := c.(*tls.Conn); !is || c != conns[0] {
					t.Errorf("a connection seen is %T, and another than the first: %v", c, c != conns[0])
				}
			}
		})
	}
}

func TestPlainTextToTLS(t *testing.T) {
	bothOverTLS(t, config.HTTP{}, func(t *testing.T, s *server) {
		c := s.dial()
		c.send(get("/hello"))
		if r, body := c.receive("GET"); r.StatusCode != 400 || !strings.Contains(body, "HTTPS") {
			t.Errorf("%d %q", r.StatusCode, body)
		}
	})
}

// A client that speaks HTTP/2 in plain text is refused in words that it can show.
func TestHTTP2InPlainText(t *testing.T) {
	both(t, config.HTTP{}, func(t *testing.T, s *server) {
		s.saw = func(path string) { t.Errorf("the handler is asked for %q", path) }
		c := s.dial()
		c.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
		if r, body := c.receive("GET"); r.StatusCode != 505 || !r.Close || !strings.Contains(body, "ask by HTTP/1.1") {
			t.Errorf("%d %q, closes: %t", r.StatusCode, body, r.Close)
		}
		c.closed(true)
	})
}

// A net/http server that was told to speak it does.
func TestUnencryptedHTTP2(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	e := Server(&http.Server{Handler: http.HandlerFunc(s.net), Protocols: new(http.Protocols)})
	e.server.Protocols.SetHTTP1(true)
	e.server.Protocols.SetUnencryptedHTTP2(true)
	s.engine, s.tracker = e, e.tracker
	s.start(config.HTTP{})
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	r, err := (&http.Client{Transport: transport}).Get("http://" + s.listener.Addr().String() + "/hello")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if body, err := io.ReadAll(r.Body); r.ProtoMajor != 2 || string(body) != "hello" || err != nil {
		t.Errorf("HTTP/%d, %q, %v", r.ProtoMajor, body, err)
	}
}

// A handshake is within the limit of the first header.
func TestStalledHandshakeIsCut(t *testing.T) {
	bothOverTLS(t, config.HTTP{HeaderTimeout: 300 * time.Millisecond, IdleTimeout: 300 * time.Millisecond}, func(t *testing.T, s *server) {
		begun := time.Now()
		silent, half := s.dial(), s.dial()
		half.send("\x16\x03\x01\x02\x00\x01") // the beginning of a ClientHello
		shaken, idle := s.dialTLS(), s.dialTLS()
		idle.want(get("/hello"), 200, "hello")
		silent.closed(false)
		half.closed(true)
		_, _ = io.Copy(io.Discard, shaken.r) // it is owed an answer, 408, or none
		idle.ended()
		if took := time.Since(begun); took > 10*time.Second { // the limit, its second, and a busy machine
			t.Errorf("cut after %v", took)
		}
	})
}

// A reader that stops in a big response is cut, and can tell that it was.
func TestStalledReaderOverTLSIsCut(t *testing.T) {
	bothOverTLS(t, config.HTTP{WriteTimeout: short}, func(t *testing.T, s *server) {
		c := s.dialTLS()
		begun := time.Now()
		if _, err := io.WriteString(c, get("/big")); err != nil {
			t.Fatal(err)
		}
		read, _ := io.CopyN(io.Discard, c.r, 1<<20) // less only where this reader is stalled by itself
		s.until("cut", func(n scoreboard.Snapshot) bool { return n.Connections == 0 && n.InFlight == 0 })
		if took := time.Since(begun); took < short {
			t.Errorf("it is cut after %v, want %v or more", took, short)
		}
		if _, err := io.CopyN(io.Discard, c.r, bigSize-read); err == nil || err == io.EOF || timedOut(err) {
			t.Errorf("a cut answer ends with %v, as if it were whole", err)
		}
	})
}

// Over HTTP/2 too, where net/http writes by TLS itself.
func TestStalledReaderOverHTTP2IsCut(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := NetHTTP(http.HandlerFunc(s.net))
	s.engine, s.tracker, s.keys = n, n.tracker, keysFor(t, "a.test")
	s.start(config.HTTP{WriteTimeout: short})
	stop, gone := make(chan struct{}), make(chan struct{})
	defer close(gone)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: trusted().Pool(), ServerName: "a.test"},
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return &stalling{s.dial().TCPConn, stop, gone}, nil
		}}
	defer transport.CloseIdleConnections()
	r, err := (&http.Client{Transport: transport}).Get("https://" + s.listener.Addr().String() + "/big")
	if err != nil {
		t.Fatal(err)
	}
	if r.ProtoMajor != 2 {
		t.Fatal(r.Proto)
	}
	begun := time.Now()
	close(stop)
	s.until("cut", func(n scoreboard.Snapshot) bool { return n.Connections == 0 && n.InFlight == 0 })
	if took := time.Since(begun); took < short {
		t.Errorf("it is cut after %v, want %v or more", took, short)
	}
}

// stalling is a connection that is read no more once it is told to stop.
type stalling struct {
	*net.TCPConn
	stop, gone <-chan struct{}
}

func (s *stalling) Read(p []byte) (int, error) {
	select {
	case <-s.stop:
		<-s.gone
		return 0, io.EOF
	default:
		return s.TCPConn.Read(p)
	}
}

// Idle connections end by the word that TLS has for it.
func TestDrainOverTLS(t *testing.T) {
	bothOverTLS(t, config.HTTP{}, func(t *testing.T, s *server) {
		idle, busy := s.dialTLS(), s.dialTLS()
		idle.want(get("/hello"), 200, "hello")
		if _, err := io.WriteString(busy, get("/wait")); err != nil {
			t.Fatal(err)
		}
		<-s.entered
		s.drain()
		done := s.shutdown(t.Context())
		idle.ended()
		s.release <- struct{}{}
		busy.receive(200, "waited")
		busy.ended()
		if err := s.ends(done); err != nil {
			t.Error(err)
		}
	})
}

func TestKeysAreReplaced(t *testing.T) {
	bothOverTLS(t, config.HTTP{}, func(t *testing.T, s *server) {
		before := s.dialTLS()
		set(t, s.keys, "b.test")
		if _, err := s.dial().over(&tls.Config{}); err == nil {
			t.Error("the old certificate is shown on")
		}
		after, err := s.dial().over(&tls.Config{ServerName: "b.test"})
		if err != nil {
			t.Fatal(err)
		}
		before.want(get("/hello"), 200, "hello")
		after.want(get("/hello"), 200, "hello")
	})
}

func TestUpgradeOverTLS(t *testing.T) {
	bothOverTLS(t, config.HTTP{}, func(t *testing.T, s *server) {
		c := s.dialTLS()
		if _, err := io.WriteString(c, get("/upgrade")); err != nil {
			t.Fatal(err)
		}
		if line, err := c.r.ReadString('\n'); err != nil || !strings.Contains(line, "101") {
			t.Fatalf("%q, %v", line, err)
		}
		for line := "header"; line != "\r\n"; {
			var err error
			if line, err = c.r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			if _, err := io.WriteString(c, "ping"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c.r, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
		s.until("the upgraded connection is closed", func(b scoreboard.Snapshot) bool { return b.Connections == 0 && b.InFlight == 0 })
	})
}

// counted counts the writes of all its connections.
type counted struct {
	net.Listener
	writes atomic.Int64
}

type countedConn struct {
	net.Conn
	l *counted
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{c, l}, nil
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.l.writes.Add(1)
	return c.Conn.Write(p)
}

// countWrites serves an engine over TLS, and gives a client's connection on which it
// has asked once, so that the session ticket has come, and the server's writes.
func (s *server) countWrites(answer string) (*secureClient, *atomic.Int64) {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.engine.Attach(s.board, config.HTTP{}, s.draining, slog.New(slog.NewTextHandler(s.log, nil)))
	writes := &counted{Listener: l}
	served := make(chan error, 1)
	go func() { served <- s.engine.Serve(&secure.Listener{Listener: writes, Keys: keysFor(s.t, "a.test")}) }()
	tcp, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := (&client{TCPConn: tcp.(*net.TCPConn), t: s.t}).over(&tls.Config{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		c.Close()
		l.Close()
		if err := errors.Join(<-served, s.engine.Shutdown(context.Background())); err != nil {
			s.t.Error(err)
		}
	})
	c.want(get("/"), 200, answer)
	return c, &writes.writes
}

// oneWrite asks from when records are small until they are large (crypto/tls,
// recordSizeBoostThreshold): each answer is to be one write.
func oneWrite(t *testing.T, c *secureClient, writes *atomic.Int64, answer string) {
	t.Helper()
	for n := range 200<<10/len(answer) + 1 {
		before := writes.Load()
		c.want(get("/"), 200, answer)
		if got := writes.Load() - before; got != 1 {
			t.Fatalf("answer %d: %d writes, want 1", n, got)
		}
	}
}

// An answer that is in memory goes out by one write, however many records it has and
// however many pieces fasthttp makes of it.
func TestOneWriteForAnAnswer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	body := strings.Repeat("0123456789", 1<<10)
	s.engine = FastHTTP(func(ctx *fasthttp.RequestCtx) {
		if string(ctx.Path()) == "/stream" {
			ctx.SetBodyStreamWriter(func(w *bufio.Writer) {
				for range 3 {
					_, _ = w.WriteString("part")
					_ = w.Flush()
					<-s.release
				}
			})
			return
		}
		ctx.SetBodyString(body)
	})
	c, writes := s.countWrites(body)
	oneWrite(t, c, writes, body)
	// What is flushed while it is made is sent at once.
	if _, err := io.WriteString(c, get("/stream")); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := io.ReadFull(r.Body, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		s.release <- struct{}{}
	}
	r.Body.Close()
}

// net/http flushes 4 KiB at a time (net/http/server.go, newBufioWriterSize): what fits
// there goes out by one write.
func TestOneWriteForAFlush(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	body := strings.Repeat("0123456789", 380)
	s.engine = NetHTTP(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
	c, writes := s.countWrites(body)
	oneWrite(t, c, writes, body)
}

// Answers of every size, some of them asked for before the last has come, arrive as
// they were made.
func TestAnswersOfEverySizeOverTLS(t *testing.T) {
	t.Parallel()
	pattern := make([]byte, 100<<10)
	for i := range pattern {
		pattern[i] = byte('a' + i%23)
	}
	size := func(path string) int {
		n, err := strconv.Atoi(strings.Trim(path, "/"))
		if err != nil {
			return 0
		}
		return n
	}
	for name, make := range map[string]func() answering{
		"fasthttp": func() answering {
			return FastHTTP(func(ctx *fasthttp.RequestCtx) { ctx.SetBody(pattern[:size(string(ctx.Path()))]) })
		},
		"net/http": func() answering {
			return NetHTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(pattern[:size(r.URL.Path)]) }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.engine = make()
			c, _ := s.countWrites("")
			const step = 1021 // so that ends of records and of buffers are met in many ways
			for n := 0; n < 80; n += 4 {
				asked := ""
				for i := range 4 {
					asked += get(fmt.Sprint("/", (n+i)*step))
				}
				if _, err := io.WriteString(c, asked); err != nil {
					t.Fatal(err)
				}
				for i := range 4 {
					c.receive(200, string(pattern[:(n+i)*step]))
				}
			}
		})
	}
}
