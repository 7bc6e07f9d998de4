package secure

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"drover/internal/authority"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is a connection that remembers each write.
type wire struct {
	net.Conn
	writes  [][]byte
	late    bool // a deadline has passed
	closed  bool
	fails   error
	entered chan struct{} // not nil: a write waits for leave
	leave   chan struct{}
}

func (w *wire) Write(p []byte) (int, error) {
	if w.entered != nil {
		w.entered <- struct{}{}
		<-w.leave
	}
	switch {
	case w.late:
		return 0, os.ErrDeadlineExceeded
	case w.fails != nil:
		return 0, w.fails
	}
	w.writes = append(w.writes, bytes.Clone(p))
	return len(p), nil
}

func (w *wire) Close() error { w.closed = true; return nil }

func (w *wire) SetWriteDeadline(t time.Time) error {
	w.late = !t.IsZero() && !t.After(time.Now())
	return nil
}

func (w *wire) has(t *testing.T, want ...string) {
	t.Helper()
	if len(w.writes) != len(want) {
		t.Fatalf("%d writes, want %d", len(w.writes), len(want))
	}
	for i, p := range w.writes {
		if string(p) != want[i] {
			t.Errorf("write %d is %.40q, want %.40q", i, p, want[i])
		}
	}
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if n, err := c.Write([]byte(text)); n != len(text) || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
}

func TestCork(t *testing.T) {
	w := &wire{}
	c := &Cork{Conn: w}
	write(t, c, "at once")
	c.Hold()
	write(t, c, "one ")
	write(t, c, "answer")
	w.has(t, "at once")
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	write(t, c, "again")
	w.has(t, "at once", "one answer", "again")
	c.Hold()
	write(t, c, "last words")
	if err := c.Close(); err != nil || !w.closed {
		t.Error(err)
	}
	w.has(t, "at once", "one answer", "again", "last words")
}

// Large records are not copied, but small ones before them go first.
func TestCorkHoldsNotTooMuch(t *testing.T) {
	w := &wire{}
	c := &Cork{Conn: w}
	c.Hold()
	large := string(make([]byte, holdAtMost))
	for _, record := range []string{"a", large, large, "b", "c"} {
		write(t, c, record)
	}
	w.has(t, "a"+large, large)
	if err := c.Release(); err != nil || c.held != nil {
		t.Error(err)
	}
	w.has(t, "a"+large, large, "bc")
}

// TLS lets the deadline of writes pass once its last word is written: what is held
// goes out before that.
func TestCorkAndTheLastWord(t *testing.T) {
	w := &wire{}
	c := &Cork{Conn: w}
	c.Hold()
	write(t, c, "answer, ")
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	write(t, c, "end")
	_ = c.SetWriteDeadline(time.Now())
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	w.has(t, "answer, end")
}

func TestCorkTellsOfAFailure(t *testing.T) {
	broken := errors.New("broken pipe")
	c := &Cork{Conn: &wire{fails: broken}}
	c.Hold()
	write(t, c, "taken for written")
	if err := c.Release(); err != broken {
		t.Errorf("Release: %v", err)
	}
	if _, err := c.Write([]byte("more")); err != broken {
		t.Errorf("Write: %v", err)
	}
	if err := c.CloseWrite(); err != broken {
		t.Errorf("CloseWrite: %v", err)
	}
}

// Close ends a write that waits: it does not wait for it.
func TestCorkClosesBesideAWrite(t *testing.T) {
	w := &wire{entered: make(chan struct{}), leave: make(chan struct{})}
	c := &Cork{Conn: w}
	written := make(chan struct{})
	go func() { _, _ = c.Write([]byte("stuck")); close(written) }()
	<-w.entered
	if err := c.Close(); err != nil || !w.closed {
		t.Error(err)
	}
	close(w.leave)
	<-written
}

func TestListener(t *testing.T) {
	a := authority.New()
	pair, err := tls.X509KeyPair(a.Issue(time.Now().Add(time.Hour), "a.test"))
	if err != nil {
		t.Fatal(err)
	}
	keys := new(Keys)
	keys.Set(&tls.Config{Certificates: []tls.Certificate{pair}}, [][32]byte{{1}})
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Listener{plain, keys}
	defer l.Close()
	cache := tls.NewLRUClientSessionCache(1)
	for n, tickets := range [][][32]byte{{{1}}, {{2}, {1}}, {{2}}, {{3}}} {
		keys.Set(&tls.Config{Certificates: []tls.Certificate{pair}}, tickets)
		served := make(chan error, 1)
		go func() {
			c, err := l.Accept()
			if err == nil {
				_, err = c.Write([]byte("x"))
				c.Close()
			}
			served <- err
		}()
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: a.Pool(), ServerName: "a.test", ClientSessionCache: cache, NextProtos: []string{"whatever"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if got, want := c.ConnectionState().DidResume, n == 1 || n == 2; got != want {
			t.Errorf("connection %d, ticket keys %v: resumed %t, want %t", n, tickets, got, want)
		}
		c.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}
