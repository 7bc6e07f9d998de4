package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/config"
	"drover/internal/sys"
	"drover/ipc"
	"drover/ipc/scoreboard"
)

// The test plays the master; the worker is this binary again.
func TestMain(m *testing.M) {
	if Started() {
		if err := beWorker(); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func beWorker() error {
	w, err := Join(Options{Config: config.Config{Listen: []config.Listen{{Name: "web", Address: ":1"}}}})
	if err != nil {
		return err
	}
	for _, name := range []string{ipc.EnvChannel, ipc.EnvListenFDs, ipc.EnvListenPID, ipc.EnvListenNames} {
		if _, ok := os.LookupEnv(name); ok {
			return fmt.Errorf("a grandchild would inherit %s", name)
		}
	}
	if got := os.Getenv(ipc.EnvGodebug); got != "madvdontneed=1" {
		return fmt.Errorf("a grandchild would inherit %s=%s", ipc.EnvGodebug, got)
	}
	switch os.Getenv("BEHAVIOUR") {
	case "wrong name":
		_, err := w.Listener("admin")
		return err
	case "broken engine":
		return w.Serve(broken{})
	case "by hand":
		return acceptByHand(w)
	}
	return w.Serve(&http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stopping" {
			<-w.Stopping()
		}
		fmt.Fprintf(rw, "slot %d, life %d, generation %d", w.Slot(), w.ID(), w.Generation())
	})})
}

// acceptByHand is a program that serves connections of its own kind.
func acceptByHand(w *Worker) error {
	l, err := w.Listener("web")
	if err != nil {
		return err
	}
	w.Ready()
	w.Ready() // only the first counts
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			<-w.Draining()
			return nil
		}
		if err != nil {
			return err
		}
		io.WriteString(c, "by hand")
		c.Close()
	}
}

type broken struct{}

func (broken) Serve(net.Listener) error       { return errors.New("no certificate") }
func (broken) Shutdown(context.Context) error { return nil }

// started is a worker under test, seen from its master's side.
type started struct {
	t      *testing.T
	conn   *ipc.Conn
	socket *net.TCPListener
	fd     int // the socket's
	board  *scoreboard.Board
	boards int
	pid    int
	pidfd  *os.File
	output *os.File
}

// start starts a worker, with its own socket where it is given one.
func start(t *testing.T, behaviour string, withSocket bool) *started {
	t.Helper()
	s := &started{t: t}
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.socket = l.(*net.TCPListener)
	raw, err := s.socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { s.fd, err = sys.Dup(int(fd)) }); err != nil || s.fd < 0 {
		t.Fatal(err)
	}
	conn, channel, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(channel)
	s.conn = conn
	if s.board, s.boards, err = scoreboard.New(); err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	s.output = read
	out := pipeFD(t, write)
	files := []int{out, out, out}
	env := append(os.Environ(), "BEHAVIOUR="+behaviour, ipc.EnvGodebug+"=madvdontneed=1,"+ipc.SchedTrace)
	if withSocket {
		files = append(files, s.fd)
		env = append(env, ipc.EnvListenFDs+"=1", ipc.EnvListenNames+"=web", ipc.EnvListenPID+"=0")
	}
	env = append(env, fmt.Sprintf("%s=%d", ipc.EnvChannel, len(files)))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := []string{"worker"}
	if withSocket { // only the process itself knows its pid
		argv = []string{"sh", "-c", "LISTEN_PID=$$ exec " + self}
		self = "/bin/sh"
	}
	pid, pidfd, err := sys.Spawn(sys.SpawnAttr{Path: self, Argv: argv, Env: env, Files: append(files, channel)})
	if err != nil {
		t.Fatal(err)
	}
	s.pid, s.pidfd = pid, os.NewFile(uintptr(pidfd), "pidfd")
	t.Cleanup(func() {
		_ = sys.KillGroup(s.pid, syscall.SIGKILL)
		s.pidfd.Close()
		s.conn.Close()
		s.board.Close()
		sys.Close(s.boards)
		sys.Close(s.fd)
		s.socket.Close()
		s.output.Close()
	})
	return s
}

func pipeFD(t *testing.T, f *os.File) (number int) {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { number = int(fd) }); err != nil {
		t.Fatal(err)
	}
	return number
}

// hears waits for the worker's next word.
func (s *started) hears(kind ipc.Kind) ipc.Message {
	s.t.Helper()
	m, fds, err := s.conn.Receive()
	if err != nil || m.Kind != kind || len(fds) != 0 {
		s.t.Fatalf("heard %+v with %d descriptors, %v; want %s\n%s", m, len(fds), err, kind, s.printed())
	}
	return m
}

func (s *started) says(m ipc.Message, fds ...int) {
	s.t.Helper()
	if err := s.conn.Send(m, fds...); err != nil {
		s.t.Fatal(err)
	}
}

func life() *ipc.Life {
	return &ipc.Life{App: "app", Slot: 3, ID: 7, Generation: 2, Procs: 1, Drain: 20 * time.Second, LameDuck: 50 * time.Millisecond, OrphanTimeout: 20 * time.Second}
}

// welcomes lets the worker join.
func (s *started) welcomes(l *ipc.Life, sockets bool) {
	s.t.Helper()
	m := ipc.Message{Kind: ipc.Welcome, Life: l, Listen: []ipc.Listen{{Name: "web", Address: s.socket.Addr().String()}}}
	fds := []int{s.boards}
	if sockets {
		m.Sockets = []ipc.Socket{{Listen: 0, Slot: l.Slot}}
		fds = append(fds, s.fd)
	}
	s.says(m, fds...)
}

func (s *started) get(path string) (string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	r, err := client.Get("http://" + s.socket.Addr().String() + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return string(body), err
}

// ends waits for the worker's end.
func (s *started) ends(code int) {
	s.t.Helper()
	if err := sys.AwaitReadable(s.pidfd); err != nil {
		s.t.Fatal(err)
	}
	exit, err := sys.Wait(pipeFD(s.t, s.pidfd))
	if err != nil || exit.Code != code || exit.Signal != 0 {
		s.t.Errorf("the worker ended with %+v, %v; want exit code %d\n%s", exit, err, code, s.printed())
	}
}

// printed is what the worker printed; it is read when the worker has ended.
func (s *started) printed() string {
	_ = sys.KillGroup(s.pid, syscall.SIGKILL)
	text, _ := io.ReadAll(s.output)
	return string(text)
}

// A worker says hello, serves on the socket that it was started with, and
// drains when it is told to.
func TestWorkersLife(t *testing.T) {
	s := start(t, "", true)
	if hello := s.hears(ipc.Hello); hello.Version != ipc.Version || len(hello.Listen) != 0 {
		t.Errorf("hello: %+v: its addresses are its master's concern", hello)
	}
	s.welcomes(life(), false)
	s.hears(ipc.Ready)
	if got, err := s.get("/"); err != nil || got != "slot 3, life 7, generation 2" {
		t.Errorf("answered %q, %v", got, err)
	}
	s.says(ipc.Message{Kind: ipc.Drain})
	s.ends(0)
}

// A program that the command gave no address names its own, and gets its socket
// with the welcome.
func TestAddressesOfTheProgram(t *testing.T) {
	s := start(t, "", false)
	hello := s.hears(ipc.Hello)
	if len(hello.Listen) != 1 || hello.Listen[0] != (ipc.Listen{Name: "web", Address: ":1", Steering: "spread"}) {
		t.Errorf("hello names %+v", hello.Listen)
	}
	s.welcomes(life(), true)
	s.hears(ipc.Ready)
	if _, err := s.get("/"); err != nil {
		t.Error(err)
	}
	s.says(ipc.Message{Kind: ipc.Drain})
	s.ends(0)
}

// Told that the app will stop, it serves on.
func TestStoppingIsNotDraining(t *testing.T) {
	s := start(t, "", true)
	s.hears(ipc.Hello)
	s.welcomes(life(), false)
	s.hears(ipc.Ready)
	s.says(ipc.Message{Kind: ipc.Stopping})
	if _, err := s.get("/stopping"); err != nil { // answered once the worker knows
		t.Error(err)
	}
	if _, err := s.get("/"); err != nil {
		t.Error("it does not serve on:", err)
	}
	s.says(ipc.Message{Kind: ipc.Drain})
	s.ends(0)
}

// A final drain answers what is queued, here in a sibling's socket, and says
// when nothing more is accepted.
func TestFinalDrainEmptiesTheSiblingsQueues(t *testing.T) {
	s := start(t, "", true)
	sibling := start(t, "", false) // only its socket matters
	s.hears(ipc.Hello)
	queued := make(chan error)
	s.says(ipc.Message{
		Kind: ipc.Welcome, Life: life(),
		Listen:  []ipc.Listen{{Name: "web", Address: s.socket.Addr().String()}},
		Sockets: []ipc.Socket{{Listen: 0, Slot: 4}},
	}, s.boards, sibling.fd)
	s.hears(ipc.Ready)
	go func() {
		_, err := sibling.get("/")
		queued <- err
	}()
	for n := 0; n == 0; {
		n, _ = sys.Queued(sibling.fd)
	}
	s.says(ipc.Message{Kind: ipc.Drain, Final: true})
	if err := <-queued; err != nil {
		t.Errorf("queued when the app stopped: %v", err)
	}
	s.hears(ipc.Closed)
	s.ends(0)
}

// A client that has connected and not sent its request is in no queue where accepting
// is deferred: a final drain waits for it, as it does for one that was accepted.
func TestFinalDrainWaitsForWhoHasConnected(t *testing.T) {
	s := start(t, "", true)
	s.hears(ipc.Hello)
	l := life()
	l.LameDuck = 2 * time.Second
	s.welcomes(l, false)
	s.hears(ipc.Ready)
	if err := sys.ListenerOptions(s.fd, true); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", s.socket.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // nobody resets it: this process has the socket too
	s.says(ipc.Message{Kind: ipc.Drain, Final: true})
	closed := make(chan struct{})
	go func() {
		s.hears(ipc.Closed)
		close(closed)
	}()
	select {
	case <-closed:
		t.Error("it has closed its sockets while somebody is on the way")
	case <-time.After(300 * time.Millisecond):
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
		t.Error(err)
	}
	if answer, err := io.ReadAll(c); err != nil || !strings.Contains(string(answer), "slot 3") {
		t.Errorf("%q, %v", answer, err)
	}
	<-closed
	s.ends(0)
}

// TERM from anyone drains; the master is told that nobody there asked.
func TestTermFromAnyone(t *testing.T) {
	s := start(t, "", true)
	s.hears(ipc.Hello)
	s.welcomes(life(), false)
	s.hears(ipc.Ready)
	if err := sys.KillGroup(s.pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if m := s.hears(ipc.Leaving); !strings.Contains(m.Reason, "terminated") {
		t.Errorf("it leaves because %q", m.Reason)
	}
	s.ends(0)
}

// HUP is the master's to act on.
func TestHupIsIgnored(t *testing.T) {
	s := start(t, "", true)
	s.hears(ipc.Hello)
	s.welcomes(life(), false)
	s.hears(ipc.Ready)
	if err := sys.KillGroup(s.pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if _, err := s.get("/"); err != nil {
		t.Error(err)
	}
	s.says(ipc.Message{Kind: ipc.Drain})
	s.ends(0)
}

// Without a master it serves on for a while, then leaves.
func TestMasterIsGone(t *testing.T) {
	s := start(t, "", true)
	s.hears(ipc.Hello)
	l := life()
	l.OrphanTimeout = 200 * time.Millisecond
	s.welcomes(l, false)
	s.hears(ipc.Ready)
	begun := time.Now()
	s.conn.Close()
	s.ends(0)
	if took := time.Since(begun); took < l.OrphanTimeout {
		t.Errorf("it left after %v, not after %v", took, l.OrphanTimeout)
	}
	if out := s.printed(); !strings.Contains(out, "the master is gone") || !strings.Contains(out, "no new master came") {
		t.Errorf("it says %q", out)
	}
}

// A heart that beats is seen by the master.
func TestItBeats(t *testing.T) {
	s := start(t, "", true)
	s.hears(ipc.Hello)
	s.welcomes(life(), false)
	s.hears(ipc.Ready)
	first := s.board.Snapshot().Heartbeat
	for deadline := time.Now().Add(time.Minute); s.board.Snapshot().Heartbeat == first; {
		if time.Now().After(deadline) {
			t.Fatal("no heartbeat within a minute")
		}
	}
	s.says(ipc.Message{Kind: ipc.Drain})
	s.ends(0)
}

func TestAcceptingByHand(t *testing.T) {
	s := start(t, "by hand", true)
	s.hears(ipc.Hello)
	s.welcomes(life(), false)
	s.hears(ipc.Ready)
	c, err := net.Dial("tcp", s.socket.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if text, err := io.ReadAll(c); err != nil || string(text) != "by hand" {
		t.Errorf("%q, %v", text, err)
	}
	s.says(ipc.Message{Kind: ipc.Drain})
	s.ends(0)
}

// What goes wrong is said in one line, with exit code 1.
func TestWhatGoesWrong(t *testing.T) {
	for _, c := range []struct {
		name      string
		behaviour string
		socket    bool
		welcome   func(s *started)
		want      string
	}{
		{"unknown listener", "wrong name", true, func(s *started) { s.welcomes(life(), false) }, `no listener is named "admin": there are ["web"]`},
		{"engine", "broken engine", true, func(s *started) { s.welcomes(life(), false) }, "serve on 127.0.0.1:"},
		{"master closes", "", true, func(s *started) { s.conn.Close() }, "the master ended the connection instead of answering"},
		{"not a welcome", "", true, func(s *started) { s.says(ipc.Message{Kind: ipc.Drain}) }, `the master answered with "drain" and 0 descriptors`},
		{"no socket", "", false, func(s *started) { s.welcomes(life(), false) }, "the master sent no socket of 127.0.0.1:"},
		{"no scoreboard", "", true, func(s *started) {
			s.says(ipc.Message{Kind: ipc.Welcome, Life: life(), Listen: []ipc.Listen{{Name: "web", Address: "a:1"}}}, s.fd)
		}, "scoreboard"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, c.behaviour, c.socket)
			s.hears(ipc.Hello)
			c.welcome(s)
			s.ends(1)
			if out := s.printed(); !strings.HasPrefix(out, "failed: ") || !strings.Contains(out, c.want) || strings.Count(out, "\n") != 1 {
				t.Errorf("it says %q, want one line with %q", out, c.want)
			}
		})
	}
}
