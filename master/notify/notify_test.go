package notify

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNotices(t *testing.T) {
	s, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unixgram", s.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, c := range []struct {
		text string
		want Notice
	}{
		{"READY=1", Notice{Ready: true}},
		{"READY=1\n", Notice{Ready: true}},
		{"STATUS=two\nREADY=1\nMAINPID=7", Notice{Ready: true}},
		{"STOPPING=1\nSTATUS=x", Notice{Stopping: true}},
		{"STATUS=READY=1", Notice{}},
		{"READY=0\nXREADY=1\nREADY=1 ", Notice{}},
		{"", Notice{}},
		{strings.Repeat("x", 5000) + "\nREADY=1", Notice{}}, // beyond what is read
		{"WATCHDOG=1", Notice{}},
	} {
		if _, err := conn.Write([]byte(c.text)); err != nil {
			t.Fatal(err)
		}
		c.want.PID = os.Getpid()
		if got, err := s.Receive(); err != nil || got != c.want {
			t.Errorf("%.40q: %+v, %v, want %+v", c.text, got, err, c.want)
		}
	}
	// What is queued is read after the hurry, and then nothing is waited for.
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Hurry(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Receive(); !n.Ready || err != nil {
		t.Errorf("%+v, %v", n, err)
	}
	if _, err := s.Receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	s.Close()
}

// A barrier's descriptor is closed, which is what its sender waits for
// (sd_notify_barrier(3)).
func TestBarrier(t *testing.T) {
	s, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, _, err := conn.WriteMsgUnix([]byte("BARRIER=1"), syscall.UnixRights(int(w.Fd())), &net.UnixAddr{Name: s.Address, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := s.Receive(); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("%d, %v: want the end of the pipe", n, err)
	}
}

func TestNoServiceManagerIsToldNothing(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	s, err := ForService()
	if s != nil || err != nil {
		t.Fatal(s, err)
	}
	s.Ready()
	s.Reloading()
	s.Stopping()
	s.Status("x")
	s.Beat(time.Now())
	s.Close(0)
}

func TestService(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "2000000")
	s, err := ForService()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	s.Status("starting")
	s.Status("starting") // once
	s.Ready()
	s.Beat(now)
	s.Beat(now.Add(time.Second / 2)) // not yet
	s.Beat(now.Add(time.Second))
	s.Reloading()
	s.Stopping()
	s.Close(time.Minute)
	buf := make([]byte, 4096)
	for _, want := range []string{"STATUS=starting", "READY=1", "WATCHDOG=1", "WATCHDOG=1", "RELOADING=1\nMONOTONIC_USEC=", "STOPPING=1"} {
		n, err := l.Read(buf)
		if got := string(buf[:n]); err != nil || !strings.HasPrefix(got, want) || strings.HasSuffix(got, "\n") {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
}

// One that does not read is not waited for.
func TestDeafServiceManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Service{words: make(chan string, 64), done: make(chan struct{})} // whose run hangs
		for range 1000 {
			s.Ready()
		}
		s.Close(time.Second)
	})
}
