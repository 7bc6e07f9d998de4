package fastnet

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"drover/internal/sys"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen gives a fast listener on a free port, and its address.
func listen(t testing.TB) (*Listener, string) {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	stock, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := p.Listen(dup(t, stock))
	t.Cleanup(func() { l.Close(); stock.Close(); p.Close() })
	return l, stock.Addr().String()
}

// dup gives a number of our own for a stock listener's socket.
func dup(t testing.TB, l net.Listener) int {
	t.Helper()
	raw, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if err := raw.Control(func(n uintptr) { fd, err = sys.Dup(int(n)) }); err != nil || fd < 0 {
		t.Fatal(fd, err)
	}
	return fd
}

// pair gives both ends of a connection: a fast one, and a stock one.
func pair(t testing.TB, l *Listener, address string) (*Conn, *net.TCPConn) {
	t.Helper()
	client, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); client.Close() })
	return c.(*Conn), client.(*net.TCPConn)
}

func TestAddresses(t *testing.T) {
	l, address := listen(t)
	c, client := pair(t, l, address)
	if l.Addr().String() != address || c.LocalAddr().String() != address || c.RemoteAddr().String() != client.LocalAddr().String() {
		t.Errorf("listener %s, local %s, remote %s; want %s, %s, %s", l.Addr(), c.LocalAddr(), c.RemoteAddr(), address, address, client.LocalAddr())
	}
	six, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6: ", err)
	}
	defer six.Close()
	l6 := l.poller.Listen(dup(t, six))
	defer l6.Close()
	c, client = pair(t, l6, six.Addr().String())
	if c.RemoteAddr().String() != client.LocalAddr().String() || c.LocalAddr().String() != six.Addr().String() {
		t.Errorf("local %s, remote %s; want %s, %s", c.LocalAddr(), c.RemoteAddr(), six.Addr(), client.LocalAddr())
	}
	path := filepath.Join(t.TempDir(), "socket")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	lu := l.poller.Listen(dup(t, unix))
	defer lu.Close()
	dialed, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	accepted, err := lu.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if got := lu.Addr(); got.Network() != "unix" || got.String() != path {
		t.Errorf("%s %s", got.Network(), got)
	}
	if got := accepted.RemoteAddr(); got.Network() != "unix" {
		t.Errorf("%s %s", got.Network(), got)
	}
}

// What one end writes the other reads, in pieces of any size, both ways at once.
func TestBytesArrive(t *testing.T) {
	l, address := listen(t)
	for _, piece := range []int{1, 100, 4096, 1 << 20} {
		c, client := pair(t, l, address)
		sent := make([]byte, min(piece*300, 8<<20))
		rand.Read(sent)
		write := func(to net.Conn, closeWrite func() error) {
			for rest := sent; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
				if _, err := to.Write(rest[:min(piece, len(rest))]); err != nil {
					t.Error(err)
					return
				}
			}
			if err := closeWrite(); err != nil {
				t.Error(err)
			}
		}
		read := func(from io.Reader) {
			got, err := io.ReadAll(from)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("pieces of %d: %d of %d bytes arrived, %v", piece, len(got), len(sent), err)
			}
		}
		var all sync.WaitGroup
		all.Go(func() { write(c, c.CloseWrite) })
		all.Go(func() { write(client, client.CloseWrite) })
		all.Go(func() { read(c) })
		all.Go(func() { read(client) })
		all.Wait()
	}
}

// The peer's end is seen, whether it comes with the last bytes or after them.
func TestEndIsSeen(t *testing.T) {
	l, address := listen(t)
	buffer := make([]byte, 100)
	for i, end := range []func(c *Conn, client *net.TCPConn){
		func(c *Conn, client *net.TCPConn) { // with the bytes, before the first read
			client.Write([]byte("bye"))
			client.Close()
		},
		func(c *Conn, client *net.TCPConn) { // with the bytes, while the connection waits
			woken := make(chan struct{})
			go func() { defer close(woken); c.Read(buffer) }()
			client.Write([]byte("hello"))
			<-woken
			client.Write([]byte("bye"))
			client.Close()
		},
	} {
		c, client := pair(t, l, address)
		end(c, client)
		rest, err := io.ReadAll(c)
		if string(rest) != "bye" || err != nil {
			t.Errorf("%d: %q, %v", i, rest, err)
		}
	}
	c, client := pair(t, l, address)
	client.SetLinger(0)
	client.Close() // a reset
	if _, err := c.Read(buffer); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset: %v", err)
	}
	if _, err := io.Copy(c, rand.Reader); !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a write after a reset: %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	l, address := listen(t)
	c, client := pair(t, l, address)
	buffer := make([]byte, 1<<20)
	timeout := func(what string, err error) {
		t.Helper()
		var netErr net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &netErr) || !netErr.Timeout() {
			t.Errorf("%s: %v", what, err)
		}
	}
	// One that has passed holds until it is moved, even where there is something.
	client.Write([]byte("x"))
	c.SetReadDeadline(time.Now().Add(-time.Second))
	_, err := c.Read(buffer)
	timeout("read", err)
	c.SetReadDeadline(time.Time{})
	if n, err := c.Read(buffer); n != 1 || err != nil {
		t.Error(n, err)
	}
	// One that comes while a read waits: near, moved nearer, and far.
	for _, after := range []time.Duration{10 * time.Millisecond, 1200 * time.Millisecond} {
		begun := time.Now()
		c.SetReadDeadline(begun.Add(after))
		_, err = c.Read(buffer)
		timeout("read", err)
		if took := time.Since(begun); took < after || took > 10*(after+sweepEvery) {
			t.Errorf("a deadline in %v came after %v", after, took)
		}
	}
	c.SetReadDeadline(time.Now().Add(time.Hour))
	read := make(chan error)
	go func() { _, err := c.Read(buffer); read <- err }()
	c.SetReadDeadline(time.Now())
	timeout("read", <-read)
	c.SetDeadline(time.Time{})
	// A write that finds no room.
	much := make([]byte, 64<<20)
	c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := c.Write(much)
	timeout("write", err)
	if n == 0 || n == 64<<20 {
		t.Errorf("%d bytes were written", n)
	}
	if left := l.poller.deadlines.Load(); left != 0 {
		t.Errorf("%d deadlines are still to come", left)
	}
	c.SetDeadline(time.Now().Add(time.Hour))
	c.Close()
	if left := l.poller.deadlines.Load(); left != 0 {
		t.Errorf("%d deadlines of a closed connection", left)
	}
	if err := c.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a deadline of a closed connection: %v", err)
	}
}

// Bytes that come while a deadline ends the wait for them are found by the next
// read, as package net/http relies on.
func TestBytesMeetADeadline(t *testing.T) {
	l, address := listen(t)
	c, client := pair(t, l, address)
	buffer := make([]byte, 100)
	for range 5000 {
		var both sync.WaitGroup
		got := 0
		both.Go(func() { client.Write([]byte("z")) })
		both.Go(func() { c.SetReadDeadline(time.Unix(1, 0)) })
		n, err := c.Read(buffer)
		if got += n; err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		both.Wait()
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		for got == 0 {
			if n, err = c.Read(buffer); err != nil {
				t.Fatalf("the byte is lost: %v", err)
			}
			got += n
		}
	}
}

// Close ends whatever waits, and no call ever reaches a descriptor that has
// become another's.
func TestCloseAgainstEverything(t *testing.T) {
	l, address := listen(t)
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	for range rounds {
		c, client := pair(t, l, address)
		var all sync.WaitGroup
		for _, use := range []func() error{
			func() error { _, err := c.Read(make([]byte, 10)); return err },
			func() error { _, err := c.Write(make([]byte, 1<<20)); return err },
			func() error { return c.SetDeadline(time.Now().Add(time.Minute)) },
			func() error { return c.SetReadDeadline(time.Now().Add(time.Millisecond)) },
			func() error { raw, _ := c.SyscallConn(); return raw.Control(func(uintptr) { runtime.Gosched() }) },
			func() error {
				raw, _ := c.SyscallConn()
				return raw.Read(func(fd uintptr) bool { _, errno := sys.RawRead(int(fd), make([]byte, 1)); return errno == 0 })
			},
		} {
			all.Go(func() {
				for {
					switch err := use(); {
					case errors.Is(err, net.ErrClosed):
						return
					case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
						runtime.Gosched()
					default:
						t.Error(err)
						return
					}
				}
			})
		}
		all.Go(func() { runtime.Gosched(); c.Close() })
		all.Wait()
		// The next connection has the number, and none of the old one's calls.
		other, peer := pair(t, l, address)
		peer.Write([]byte("y"))
		if n, err := other.Read(make([]byte, 10)); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		other.Close()
		peer.Close()
		client.Close()
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a second Close: %v", err)
		}
	}
}

// A listener that closes leaves the socket and what is queued on it.
func TestListenerLeavesTheQueue(t *testing.T) {
	l, address := listen(t)
	waiting := make(chan error)
	go func() { _, err := l.Accept(); waiting <- err }()
	fd := -1
	_ = l.withControl(func(n int) { fd, _ = sys.Dup(n) })
	defer sys.Close(fd)
	l.Close()
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	client, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := l.poller.AcceptNow(fd)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := l.poller.AcceptNow(fd); !sys.IsAgain(err) {
		t.Errorf("an empty queue: %v", err)
	}
}

// Files, parts of files, and what is no file are sent whole, to a client that is
// slow too.
func TestReadFrom(t *testing.T) {
	l, address := listen(t)
	content := make([]byte, 5<<20)
	rand.Read(content)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]func(f *os.File) (io.Reader, []byte){
		"file":   func(f *os.File) (io.Reader, []byte) { return f, content },
		"part":   func(f *os.File) (io.Reader, []byte) { return io.LimitReader(f, 3<<20), content[:3<<20] },
		"reader": func(f *os.File) (io.Reader, []byte) { return bytes.NewReader(content[:1000]), content[:1000] },
	} {
		t.Run(name, func(t *testing.T) {
			c, client := pair(t, l, address)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			r, want := source(f)
			read := make(chan []byte)
			go func() { got, _ := io.ReadAll(client); read <- got }()
			n, err := c.ReadFrom(r)
			if err != nil || n != int64(len(want)) {
				t.Errorf("%d, %v", n, err)
			}
			c.Close()
			if got := <-read; !bytes.Equal(got, want) {
				t.Errorf("%d of %d bytes arrived", len(got), len(want))
			}
		})
	}
}

// A connection that goes back and forth allocates nothing.
func TestNoAllocations(t *testing.T) {
	l, address := listen(t)
	c, client := pair(t, l, address)
	buffer := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() {
		client.Write(buffer[:10])
		c.Read(buffer)
		c.Write(buffer[:10])
		client.Read(buffer)
	}); n > 0 {
		t.Errorf("%.1f allocations a round", n)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	l, address := listen(b)
	c, client := pair(b, l, address)
	go io.Copy(c, c)
	buffer := make([]byte, 100)
	for b.Loop() {
		client.Write(buffer)
		if _, err := io.ReadFull(client, buffer); err != nil {
			b.Fatal(err)
		}
	}
}

// Two pieces arrive as one text, also where the kernel takes a part of them only.
func TestWritev(t *testing.T) {
	l, address := listen(t)
	c, peer := pair(t, l, address)
	for _, size := range []int{0, 1, 4096, 4 << 20} {
		a, b := bytes.Repeat([]byte("a"), size), bytes.Repeat([]byte("b"), size)
		sent := make(chan error, 1)
		go func() {
			n, err := c.Writev(a, b)
			if err == nil && n != 2*size {
				err = fmt.Errorf("%d bytes written", n)
			}
			sent <- err
		}()
		got := make([]byte, 2*size)
		if _, err := io.ReadFull(peer, got); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil || !bytes.Equal(got, append(a, b...)) {
			t.Errorf("two of %d bytes: %v", size, err)
		}
	}
	c.Close()
	if _, err := c.Writev([]byte("a"), []byte("b")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("on a closed one: %v", err)
	}
}

// resumer tells a test when it is resumed, and does what the test wants of it then.
type resumer struct {
	resumed chan struct{} // has room for more than ever happens
	does    func()
}

func (r *resumer) Resume() {
	r.resumed <- struct{}{}
	if r.does != nil {
		r.does()
	}
}

// once waits until r was resumed, and fails when that happened more than once since the
// last look.
func (r *resumer) once(t *testing.T, what string) {
	t.Helper()
	select {
	case <-r.resumed:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: it is not resumed", what)
	}
	if len(r.resumed) != 0 {
		t.Fatalf("%s: it is resumed again", what)
	}
}

// A parked connection is resumed, once, for whatever ends a Read.
func TestPark(t *testing.T) {
	for what, happens := range map[string]func(c *Conn, client *net.TCPConn){
		"bytes":                  func(_ *Conn, client *net.TCPConn) { client.Write([]byte("xyz")) },
		"the end":                func(_ *Conn, client *net.TCPConn) { client.Close() },
		"a close":                func(c *Conn, _ *net.TCPConn) { c.Close() },
		"a deadline that is now": func(c *Conn, _ *net.TCPConn) { c.SetReadDeadline(time.Now()) },
		"a near deadline":        func(c *Conn, _ *net.TCPConn) { c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) },
		"a far deadline":         func(c *Conn, _ *net.TCPConn) { c.SetReadDeadline(time.Now().Add(1200 * time.Millisecond)) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l, address := listen(t)
			for _, first := range []bool{false, true} { // before it is parked, or after
				c, client := pair(t, l, address)
				buffer := make([]byte, 100)
				client.Write([]byte("a"))
				if n, err := c.Read(buffer); n != 1 || err != nil {
					t.Fatal(n, err)
				}
				if n, waits, err := c.ReadNow(buffer); n != 0 || !waits || err != nil {
					t.Fatalf("ReadNow of nothing: %d, waits %v, %v", n, waits, err)
				}
				r := &resumer{resumed: make(chan struct{}, 8)}
				if first {
					happens(c, client)
				}
				err := c.Park(r)
				if first && what == "a close" && errors.Is(err, net.ErrClosed) {
					continue // there is nothing to wait for
				}
				if err != nil {
					t.Fatal(err)
				}
				if !first {
					happens(c, client)
				}
				r.once(t, what)
				n, waits, err := c.ReadNow(buffer)
				if waits || n == 0 && err == nil {
					t.Errorf("then ReadNow gives %d, waits %v, %v", n, waits, err)
				}
			}
		})
	}
}

// What is resumed and waits keeps nothing from being resumed, and those that were
// called for it end.
func TestParkedBehindWaiting(t *testing.T) {
	l, address := listen(t)
	const conns = 40
	release := make(chan struct{})
	var waiting []*resumer
	for range conns {
		c, client := pair(t, l, address)
		r := &resumer{resumed: make(chan struct{}, 8), does: func() { <-release }}
		if err := c.Park(r); err != nil {
			t.Fatal(err)
		}
		client.Write([]byte("x"))
		waiting = append(waiting, r)
	}
	for i, r := range waiting {
		r.once(t, fmt.Sprintf("connection %d of %d that wait", i, conns))
	}
	close(release)
	for end := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		l.poller.mu.Lock()
		free, polling := l.poller.free, l.poller.polling
		l.poller.mu.Unlock()
		if polling && free > 0 && free <= spareHands {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d hands are free, polled %v", free, polling)
		}
	}
}

// Much that happens at once is all reported, and not the rest of it with what happens next.
func TestManyAtOnce(t *testing.T) {
	l, address := listen(t)
	const conns = 4 * maxTaken
	r := &resumer{resumed: make(chan struct{}, conns)}
	var clients []*net.TCPConn
	for range conns {
		c, client := pair(t, l, address)
		if err := c.Park(r); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client)
	}
	l.poller.mu.Lock() // it can take some once, no more
	for _, client := range clients {
		client.Write([]byte("x"))
	}
	l.poller.mu.Unlock()
	for n := range conns {
		select {
		case <-r.resumed:
		case <-time.After(10 * time.Second):
			t.Fatalf("%d of %d are resumed", n, conns)
		}
	}
}

// Nothing that comes while a connection is parked is missed, whoever is faster.
func TestParkMeetsBytes(t *testing.T) {
	l, address := listen(t)
	c, client := pair(t, l, address)
	const bytes = 20000
	got, done := 0, make(chan error, 1)
	buffer := make([]byte, 100)
	r := &resumer{resumed: make(chan struct{}, bytes+1)}
	r.does = func() {
		for {
			n, waits, err := c.ReadNow(buffer)
			if got += n; err != nil || got == bytes {
				done <- err
				return
			}
			if waits {
				if err := c.Park(r); err != nil {
					done <- err
				}
				return
			}
		}
	}
	if err := c.Park(r); err != nil {
		t.Fatal(err)
	}
	for range bytes {
		client.Write([]byte("z"))
	}
	select {
	case err := <-done:
		if err != nil || got != bytes {
			t.Fatal(got, err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a byte is lost")
	}
}
