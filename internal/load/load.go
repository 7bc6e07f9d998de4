// Package load is the closed-loop HTTP client of the fault tests: it tells in
// how many ways a request can be lost apart, and hides none of them by trying
// again.
package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Kind is what became of a request.
type Kind int

// A connection is fresh until it has brought an answer; then it is reused.
const (
	OK       Kind = iota // the right answer, whole
	Refused              // nobody listens: connect failed with ECONNREFUSED
	Reset                // reset in connect, or before the request was written on a fresh connection
	Stale                // written on a reused connection, which then ended without a byte
	Cut                  // ended after the request was written on a fresh connection, or within the answer
	TimedOut             // connected, or answered, too late
	Wrong                // another status or body than expected
	kinds
)

var kindNames = [kinds]string{"ok", "refused", "reset", "stale", "cut", "timed out", "wrong"}

func (k Kind) String() string { return kindNames[k] }

// Counts are how many requests there were of each kind.
type Counts [kinds]int

// Lost is all that is not OK.
func (c Counts) Lost() int {
	n := 0
	for k, v := range c {
		if Kind(k) != OK {
			n += v
		}
	}
	return n
}

// Minus is what came since before.
func (c Counts) Minus(before Counts) Counts {
	for k := range c {
		c[k] -= before[k]
	}
	return c
}

func (c Counts) String() string {
	parts := make([]string, kinds)
	for k, v := range c {
		parts[k] = fmt.Sprintf("%s %d", Kind(k), v)
	}
	return strings.Join(parts, ", ")
}

// Load is what clients do. Zero fields take the values in brackets; a negative
// number of clients is none.
type Load struct {
	Addr       string
	KeepAlive  int           // clients that keep their connection [8]
	PerRequest int           // clients with a connection for each request [8]
	Slow       int           // clients that ask for SlowPath, with a connection for each request [6]
	Think      time.Duration // between a client's requests [5 ms]
	Timeout    time.Duration // of one request, connect included [2 s]
	Path       string        // [/]
	SlowPath   string        // [/slow]
	Body       string        // of each good answer [ok]
	TLS        *tls.Config   // [plain text]
}

// Run is a load under way.
type Run struct {
	load    Load
	ctx     context.Context
	cancel  context.CancelFunc
	clients sync.WaitGroup

	mu     sync.Mutex
	counts Counts
	losses []string // the first few, for people
	more   chan struct{}
}

func orElse[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Start starts the clients. Stop ends them.
func Start(l Load) *Run {
	orElse(&l.KeepAlive, 8)
	orElse(&l.PerRequest, 8)
	orElse(&l.Slow, 6)
	orElse(&l.Think, 5*time.Millisecond)
	orElse(&l.Timeout, 2*time.Second)
	orElse(&l.Path, "/")
	orElse(&l.SlowPath, "/slow")
	orElse(&l.Body, "ok")
	ctx, cancel := context.WithCancel(context.Background())
	r := &Run{load: l, ctx: ctx, cancel: cancel, more: make(chan struct{})}
	for _, class := range []struct {
		clients int
		path    string
		keep    bool
	}{{l.KeepAlive, l.Path, true}, {l.PerRequest, l.Path, false}, {l.Slow, l.SlowPath, false}} {
		for range max(0, class.clients) {
			r.clients.Go(func() { r.client(class.path, class.keep) })
		}
	}
	return r
}

// Stop lets each client finish the request it has, and returns the counts.
func (r *Run) Stop() Counts {
	r.cancel()
	r.clients.Wait()
	return r.Counts()
}

// Counts are the counts up to now.
func (r *Run) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Losses describes the first lost requests.
func (r *Run) Losses() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.losses, "\n")
}

// AwaitOK waits until n more good answers have come, at most a minute.
func (r *Run) AwaitOK(n int) error {
	deadline := time.After(time.Minute)
	want := r.Counts()[OK] + n
	for {
		r.mu.Lock()
		have, more := r.counts[OK], r.more
		r.mu.Unlock()
		if have >= want {
			return nil
		}
		select {
		case <-more:
		case <-deadline:
			return fmt.Errorf("%d good answers in a minute, want %d: %s", n-(want-have), n, r.Counts())
		}
	}
}

func (r *Run) count(k Kind, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[k]++
	if k != OK && len(r.losses) < 20 {
		r.losses = append(r.losses, fmt.Sprintf("%s %s: %v", time.Now().Format("15:04:05.000"), k, err))
	}
	close(r.more)
	r.more = make(chan struct{})
}

func (r *Run) client(path string, keep bool) {
	var c *Conn
	for r.ctx.Err() == nil {
		kind, err := OK, error(nil)
		if c == nil {
			c, kind, err = Dial(r.load.Addr, r.load.Timeout)
			if c != nil && r.load.TLS != nil {
				kind, err = c.Encrypt(r.load.TLS, r.load.Timeout)
			}
		}
		if c != nil && kind == OK {
			kind, err = c.Get(path, keep, r.load.Timeout, r.load.Body)
		}
		if c != nil && !c.Open {
			c = nil
		}
		r.count(kind, err)
		select {
		case <-r.ctx.Done():
		case <-time.After(r.load.Think):
		}
	}
	if c != nil {
		c.Close()
	}
}

// Conn is one client connection.
type Conn struct {
	net.Conn
	Open   bool // false after an answer that ends it, and after a loss
	r      *bufio.Reader
	reused bool
}

// Dial connects. The kind is OK, Refused, Reset or TimedOut.
func Dial(addr string, timeout time.Duration) (*Conn, Kind, error) {
	nc, err := net.DialTimeout("tcp", addr, timeout)
	switch {
	case err == nil:
		return &Conn{Conn: nc, Open: true, r: bufio.NewReader(nc)}, OK, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, Refused, err
	case isTimeout(err):
		return nil, TimedOut, err
	}
	return nil, Reset, err
}

// Encrypt shakes hands. A connection that ends meanwhile is cut: it was accepted, or
// waited to be.
func (c *Conn) Encrypt(config *tls.Config, timeout time.Duration) (Kind, error) {
	_ = c.SetDeadline(time.Now().Add(timeout))
	t := tls.Client(c.Conn, config)
	if err := t.Handshake(); err != nil {
		return c.lost(err, Cut)
	}
	c.Conn = t
	c.r.Reset(t)
	return OK, nil
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout()
}

// Get asks for path and judges the answer: status 200 and this body.
func (c *Conn) Get(path string, keep bool, timeout time.Duration, body string) (Kind, error) {
	if kind, err := c.Write(path, keep, timeout); kind != OK {
		return kind, err
	}
	return c.Read(keep, body)
}

// Write sends the request for path.
func (c *Conn) Write(path string, keep bool, timeout time.Duration) (Kind, error) {
	_ = c.SetDeadline(time.Now().Add(timeout))
	head := "GET " + path + " HTTP/1.1\r\nHost: load\r\n"
	if !keep {
		head += "Connection: close\r\n"
	}
	if _, err := io.WriteString(c.Conn, head+"\r\n"); err != nil {
		if _, accepted := c.Conn.(*tls.Conn); accepted { // who has shaken hands
			return c.lost(err, Cut)
		}
		return c.lost(err, Reset)
	}
	return OK, nil
}

// lost closes the connection and tells the kind of its end: fresh is what it is
// on a connection that brought no answer yet.
func (c *Conn) lost(err error, fresh Kind) (Kind, error) {
	c.Close()
	switch {
	case isTimeout(err):
		return TimedOut, err
	case c.reused:
		return Stale, err
	}
	return fresh, err
}

// Close closes the connection.
func (c *Conn) Close() error {
	c.Open = false
	return c.Conn.Close()
}

// Read reads and judges the answer.
func (c *Conn) Read(keep bool, body string) (Kind, error) {
	if _, err := c.r.Peek(1); err != nil {
		return c.lost(err, Cut)
	}
	c.reused = false // from here on an end is a cut
	status, got, closing, err := c.answer()
	if err != nil {
		return c.lost(err, Cut)
	}
	c.reused = true
	if closing || !keep {
		c.Close()
	}
	if status != 200 || got != body {
		return Wrong, fmt.Errorf("status %d, body %.60q", status, got)
	}
	return OK, nil
}

// answer reads one response with a Content-Length.
func (c *Conn) answer() (status int, body string, closing bool, err error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return 0, "", false, err
	}
	if len(line) < 12 {
		return 0, "", false, fmt.Errorf("status line %q", line)
	}
	if status, err = strconv.Atoi(line[9:12]); err != nil {
		return 0, "", false, fmt.Errorf("status line %q", line)
	}
	length := 0
	for {
		if line, err = c.r.ReadString('\n'); err != nil {
			return 0, "", false, err
		}
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			break
		}
		switch value = strings.TrimSpace(value); strings.ToLower(name) {
		case "content-length":
			if length, err = strconv.Atoi(value); err != nil {
				return 0, "", false, err
			}
		case "connection":
			closing = strings.EqualFold(value, "close")
		}
	}
	data := make([]byte, length)
	_, err = io.ReadFull(c.r, data)
	return status, string(data), closing, err
}

// Queue opens n connections and writes a request for path on each, to be read
// by Answers.
func Queue(addr, path string, n int, timeout time.Duration) ([]*Conn, Counts) {
	var conns []*Conn
	var lost Counts
	for range n {
		c, kind, _ := Dial(addr, timeout)
		if c != nil {
			kind, _ = c.Write(path, false, timeout)
		}
		if kind != OK {
			lost[kind]++
			continue
		}
		conns = append(conns, c)
	}
	return conns, lost
}

// Answers reads the answer of each connection, all at once.
func Answers(conns []*Conn, body string) Counts {
	kinds := make(chan Kind)
	for _, c := range conns {
		go func() {
			k, _ := c.Read(false, body)
			kinds <- k
		}()
	}
	var counts Counts
	for range conns {
		counts[<-kinds]++
	}
	return counts
}
