package drover_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drover/internal/load"
)

// unixClients ask again and again over a unix socket, each request on a
// connection of its own, until stop; stop returns how many were answered, and
// what was not.
func unixClients(t *testing.T, path string) (answered *atomic.Int64, stop func() []error) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	answered = new(atomic.Int64)
	ended := make(chan struct{})
	failed := make(chan []error)
	const clients = 4
	for range clients {
		go func() {
			var errs []error
			for {
				select {
				case <-ended:
					failed <- errs
					return
				default:
				}
				resp, err := client.Get("http://app/")
				if err == nil {
					var body []byte
					if body, err = io.ReadAll(resp.Body); err == nil && string(body) != "ok" {
						err = fmt.Errorf("answered %q", body)
					}
					resp.Body.Close()
				}
				if err != nil {
					errs = append(errs, err)
				} else {
					answered.Add(1)
				}
			}
		}()
	}
	return answered, func() []error {
		close(ended)
		var all []error
		for range clients {
			all = append(all, <-failed...)
		}
		return all
	}
}

// A unix path: every worker accepts on it; a killed worker costs what it had
// accepted; a killed master nothing, once another is started; a second one is
// refused; at the stop the path is gone.
func TestUnixSocket(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	path := filepath.Join(filepath.Dir(h.dir), "a.sock")
	h.env = append(h.env, "HERD_LISTEN=unix:"+path)
	h.start()
	if got := h.status().Listen[0]; got.Steering != "shared" || got.Address != "unix:"+path {
		t.Errorf("the status says %+v", got)
	}
	other := newPlainHerd(t, "fasthttp")
	other.env = append(other.env, "HERD_LISTEN=unix:"+path, "DROVER_RUNTIME_DIR="+h.dir, "HERD_NAME=other")
	other.launch()
	other.exited(1)
	if want := fmt.Sprintf(`listen on unix:%s: address already in use by drover "herd" (pid %d)`, path, h.master.Process.Pid); !strings.Contains(other.log(), want) {
		t.Errorf("a second master: %q, want %q", other.log(), want)
	}

	answered, stop := unixClients(t, path)
	more := func(n int64) {
		t.Helper()
		target := answered.Load() + n
		h.await("answers", func([]event) bool { return answered.Load() >= target })
	}
	more(200)
	victim := h.ready()[0]
	wait(readyAt(h.happened(), int(victim.ID)).Add(time.Second))
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.await("successor", func(e []event) bool { return count(e, "exit") == 1 && serving(e) == 2 })
	allowed := pick(h.happened(), "exit")[0].Connections + 1
	more(200)

	if err := h.master.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-h.ended
	h.start()
	h.await("relief", func(e []event) bool { return count(e, "relieved") == 2 })
	more(200)
	errs := stop()
	// Shut down by one of them it is nobody's any more, and all get another.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	for another := true; another; { // worker has answered
		resp, err := client.Get("http://app/misbehave/0/shutdown")
		if another = err == nil; another {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			another = string(body) == "another's"
		}
	}
	h.await("another socket", func(e []event) bool { return count(e, "mended") == 1 && count(e, "exit") == 2 && serving(e) == 2 })
	if resp, err := client.Get("http://app/"); err != nil {
		t.Error("after a shutdown:", err)
	} else {
		resp.Body.Close()
	}
	if len(errs) > allowed {
		t.Errorf("%d lost, want at most %d: %v", len(errs), allowed, errs)
	}
	h.stop()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the path is still there: %v", err)
	}
}

// What is queued at a unix socket when the app stops is answered.
func TestStopAnswersWhatIsQueuedAtAUnixSocket(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	path := filepath.Join(filepath.Dir(h.dir), "a.sock")
	h.env = append(h.env, "HERD_LISTEN=unix:"+path)
	h.start()
	for _, w := range h.ready() {
		stopped(t, w.PID)
	}
	const clients = 50
	answers := make(chan error, clients)
	for range clients {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: app\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		go func() {
			defer conn.Close()
			text, err := io.ReadAll(conn)
			if !strings.HasSuffix(string(text), "\r\n\r\nok") {
				err = fmt.Errorf("answered %q, %v", text, err)
			}
			answers <- err
		}()
	}
	if err := h.client().Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.await("the path's end", func([]event) bool {
		_, err := os.Lstat(path)
		return errors.Is(err, fs.ErrNotExist)
	})
	for _, w := range h.living() {
		if err := syscall.Kill(w, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	for range clients {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	h.exited(0)
}

// A socket from a service manager: every worker accepts on it, it is never made
// blocking, and it outlives the app with its queue, which the next start answers.
func TestSocketActivation(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	l, err := net.Listen("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if h.inherit, err = l.(*net.TCPListener).File(); err != nil {
		t.Fatal(err)
	}
	defer h.inherit.Close()
	h.wrap = []string{"sh", "-c", `LISTEN_FDS=1 LISTEN_FDNAMES=app.socket LISTEN_PID=$$ exec "$0"`}
	flags := func() int64 {
		t.Helper()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/3", h.master.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		var position, flags int64
		if _, err := fmt.Sscanf(string(text), "pos: %d\nflags: %o", &position, &flags); err != nil {
			t.Fatal(err)
		}
		return flags
	}
	h.start()
	if got := h.status().Listen[0]; got.Steering != "shared" || got.Address != h.addr || got.Why != "the socket came from the service manager" {
		t.Errorf("the status says %+v", got)
	}
	r, c := h.underLoad(func(r *load.Run) {
		victim := h.ready()[0]
		wait(readyAt(h.happened(), int(victim.ID)).Add(time.Second))
		if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.await("successor", func(e []event) bool { return count(e, "exit") == 1 && serving(e) == 2 })
		if err := h.client().Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.AwaitOK(200); err != nil {
			t.Fatal(err)
		}
	})
	lost(t, r, c, pick(h.happened(), "exit")[0].Connections+1)
	if f := flags(); f&syscall.O_NONBLOCK == 0 || f&syscall.O_CLOEXEC == 0 {
		t.Errorf("flags %#o: want non-blocking and close-on-exec", f)
	}
	h.stop()
	conn, err := net.Dial("tcp", h.addr) // queued while nobody runs
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	h.start()
	if text, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(text), "ok") {
		t.Errorf("what was queued between two starts is answered %q, %v", text, err)
	}
	h.stop()
}
