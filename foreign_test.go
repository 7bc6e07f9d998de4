package drover_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drover/internal/load"
)

// command is cmd/drover, built plain.
var command = sync.OnceValues(func() (string, error) { return build("drover", "./cmd/drover") })

// build builds a package of this module, plain.
func build(name, pkg string) (string, error) {
	dir, err := scratch()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	if out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// newFileHerd prepares to run drover -c with a file of these lines, on a free
// port that stands in the text as $ADDR.
func newFileHerd(t *testing.T, lines ...string) *herd {
	t.Helper()
	drover, err := command()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	h := &herd{t: t, name: "herd", addr: addr, dir: filepath.Join(dir, "run"), wrap: []string{drover, "-c"}, program: filepath.Join(dir, "drover.yaml")}
	h.env = append(os.Environ(), "DROVER_RUNTIME_DIR="+h.dir)
	h.configure(lines...)
	return h
}

// configure writes the file anew.
func (h *herd) configure(lines ...string) {
	h.t.Helper()
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "min_uptime") }) {
		lines = append(lines, "min_uptime: 300ms")
	}
	if !h.bare {
		lines = append(lines, "listen: [{address: '$ADDR', name: web}]")
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "workers") }) {
		lines = append(lines, "workers: 2")
	}
	text := strings.Join(append(lines, "name: herd", "drain: 10s", "logs: {format: json}"), "\n")
	if err := os.WriteFile(h.program, []byte(strings.ReplaceAll(text, "$ADDR", h.addr)), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// accepting builds testdata/foreign/accept.c.
func accepting(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "accept")
	if out, err := exec.Command("gcc", "-O1", "-pthread", "-o", path, "testdata/foreign/accept.c").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return path
}

// absolute is a file's path wherever a worker stands.
func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// A kill, a reload, a scaling down and a stop of programs that do not know of
// drover, under a light load: only what a killed one had accepted is lost.
func TestForeignPrograms(t *testing.T) {
	for _, c := range []struct {
		name  string
		taken bool // for ready, since it does not say so
		lines func(t *testing.T) []string
	}{
		{"C", false, func(t *testing.T) []string {
			return []string{"run: [" + accepting(t) + "]", "ready: notify"}
		}},
		{"Python", true, func(t *testing.T) []string {
			python, err := exec.LookPath("python3")
			if err != nil {
				t.Skip("no python3")
			}
			return []string{"run: [" + python + ", " + absolute(t, "testdata/foreign/accept.py") + "]", "min_uptime: 1s"} // TERM before it is up would end it
		}},
		{"go-systemd", false, func(t *testing.T) []string {
			path, err := build("activated", "./testdata/foreign/activated")
			if err != nil {
				t.Fatal(err)
			}
			// Its module is drover's own: it looks as if it were built on it.
			return []string{"run: [" + path + "]", "kind: foreign", "ready: notify"}
		}},
		{"nginx", true, func(t *testing.T) []string {
			nginx, err := exec.LookPath("nginx")
			if err != nil {
				t.Skip("no nginx: apt-get install nginx-light")
			}
			return []string{"run: [" + nginx + ", -p, " + t.TempDir() + ", -c, $NGINX]", "env: {NGINX: '3;'}", "stop_signal: QUIT", "nonblocking: true"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			lines := c.lines(t)
			h := newFileHerd(t)
			if c.name == "nginx" {
				lines[0] = strings.Replace(lines[0], "$NGINX", nginxConf(t, h.addr), 1)
			}
			h.configure(lines...)
			h.start()
			for _, e := range pick(h.happened(), "ready") {
				if taken := strings.Contains(e.Msg, "does not say so"); taken != c.taken {
					t.Errorf("%q: want taken for ready %v", e.Msg, c.taken)
				}
			}
			r, killed := h.underLoad(func(r *load.Run) {
				if err := syscall.Kill(-h.ready()[0].PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				h.await("successor", func(e []event) bool { return count(e, "ready") == 3 })
				if err := r.AwaitOK(200); err != nil {
					t.Error(err)
				}
			})
			lost(t, r, killed, 8+8+6) // a request of each client
			r, others := h.underLoad(func(r *load.Run) {
				if err := h.client().Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
				h.await("the old ones' end", func(e []event) bool { return count(e, "exit") == 3 })
				if err := h.client().Scale(t.Context(), 1); err != nil {
					t.Fatal(err)
				}
				h.await("the surplus one's end", func(e []event) bool { return count(e, "exit") == 4 })
				if err := r.AwaitOK(100); err != nil {
					t.Error(err)
				}
			})
			lost(t, r, others, 0)
			for _, e := range pick(h.happened(), "exit")[1:] {
				if !e.Planned || e.Reason != "exit status 0" {
					t.Errorf("it was told to leave: %+v", e)
				}
			}
			slow, lostCounts := load.Queue(h.addr, "/slow", 20, patience)
			if lostCounts.Lost() != 0 {
				t.Errorf("%s", lostCounts)
			}
			h.stop()
			if answered := load.Answers(slow, "ok"); answered[load.OK] != 20 {
				t.Errorf("of 20 requests that had come before the stop: %s", answered)
			}
			t.Logf("kill: %s; reload and scaling down: %s", killed, others)
		})
	}
}

func nginxConf(t *testing.T, addr string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "nginx.conf")
	text := `daemon off; worker_processes 1; error_log stderr; pid ` + dir + `/nginx.pid;
events { }
http {
	access_log off; keepalive_timeout 0;
	client_body_temp_path ` + dir + `; proxy_temp_path ` + dir + `; fastcgi_temp_path ` + dir + `; uwsgi_temp_path ` + dir + `; scgi_temp_path ` + dir + `;
	server { listen ` + addr + `; location / { default_type text/plain; return 200 ok; } }
}
`
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// What is queued when the app stops is taken before the program is told to leave.
func TestForeignProgramTakesItsQueueBeforeItLeaves(t *testing.T) {
	h := newFileHerd(t, "run: ["+accepting(t)+"]", "ready: notify")
	h.start()
	workers := h.ready()
	for _, w := range workers {
		if err := syscall.Kill(w.PID, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	queued, missed := load.Queue(h.addr, "/", 50, patience)
	if missed.Lost() != 0 {
		t.Errorf("%s", missed)
	}
	if err := h.client().Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Nobody is let in any more: the stop has begun. TERM would find them stopped.
	late, err := net.DialTimeout("tcp", h.addr, 300*time.Millisecond)
	if err == nil {
		late.Close()
		t.Error("a late connection was let in")
	}
	for _, w := range workers {
		if pending, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.PID)); err != nil || !strings.Contains(string(pending), "ShdPnd:\t0000000000000000") {
			t.Errorf("it was told to leave before its queue was empty: %v\n%s", err, pending)
		}
		if err := syscall.Kill(w.PID, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	if got := load.Answers(queued, "ok"); got[load.OK] != 50 {
		t.Errorf("of 50 that were queued: %s", got)
	}
	h.exited(0)
}

// A wrapper becomes a program on drover, which says hello: then its sockets are
// non-blocking, and siblings accept for each other.
func TestWrapperOfAProgramOnDrover(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	drover, err := command()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "start.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec "+h.program+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.wrap = []string{drover, "run", "--log-format", "json", "--name", h.name, "--workers", "2", "--listen", h.addr}
	h.program = script
	h.start()
	if count(h.happened(), "native") != 1 {
		t.Error("nobody noticed that the program is built on drover")
	}
	r, c := h.underLoad(func(r *load.Run) {
		if err := h.client().Reload(t.Context()); err != nil {
			t.Error(err)
		}
	})
	lost(t, r, c, 0)
	h.stop()
}

// What serves and what is to come cannot have one socket in two modes.
func TestReloadCannotChangeTheMode(t *testing.T) {
	run := "run: [" + accepting(t) + "]"
	h := newFileHerd(t, run)
	h.start()
	h.configure(run, "nonblocking: true")
	err := h.client().Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "needs non-blocking sockets") {
		t.Errorf("%v", err)
	}
	h.configure(run)
	if err := h.client().Reload(t.Context()); err != nil {
		t.Error(err)
	}
	h.stop()
}

// A notice counts only from the life's own processes.
func TestNoticeOfAStranger(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("no python3")
	}
	dir := t.TempDir()
	mark, notice := filepath.Join(dir, "go"), filepath.Join(dir, "notice.py")
	text := "import os, socket, time\n" +
		"socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', '\\0' + os.environ['NOTIFY_SOCKET'][1:])\n" +
		"time.sleep(100)\n"
	if err := os.WriteFile(notice, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	h := newFileHerd(t, "run: [sh, -c, 'echo at=$NOTIFY_SOCKET >&2; until [ -e "+mark+" ]; do sleep 0.1; done; python3 "+notice+"; true']", "ready: notify")
	h.launch()
	var address string
	h.await("the notify socket's name", func([]event) bool {
		_, text, ok := strings.Cut(h.log(), "at=")
		address, _, _ = strings.Cut(text, "\"")
		return ok
	})
	conn, err := net.Dial("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		t.Fatal(err)
	}
	h.await("the stranger's being refused", func(e []event) bool {
		return count(e, "bad_notice") == 1 && count(e, "ready") == 0 && pick(e, "bad_notice")[0].PID == os.Getpid()
	})
	// Control: from a child of the process itself it counts.
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	h.await("two ready workers", func(e []event) bool { return count(e, "ready") == 2 })
	h.stop()
}

// The master tells the service manager that started it how it is.
func TestServiceManagerIsTold(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h.env = append(h.env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=200000", "HERD_MIN_UPTIME=200ms")
	var told []string
	until := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		_ = l.SetReadDeadline(time.Now().Add(patience))
		for {
			n, err := l.Read(buf)
			if err != nil {
				t.Fatalf("not told %q, but %q: %v", want, told, err)
			}
			text := string(buf[:n])
			if told = append(told, text); strings.HasPrefix(text, want) {
				return
			}
		}
	}
	h.launch()
	until("READY=1")
	until("STATUS=running: 2 of 2 workers ready, generation 1")
	until("WATCHDOG=1")
	h.deploy("exit")
	if err := h.master.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until("RELOADING=1\nMONOTONIC_USEC=")
	until("READY=1") // it serves on, whatever became of the reload
	h.stop()
	until("STOPPING=1")
}

// As the first process of a PID namespace, as in a container, drover collects the
// orphans, obeys signals that have no default there, and when it is killed nothing
// of it is left.
func TestFirstProcess(t *testing.T) {
	h := newFileHerd(t)
	accept := accepting(t)
	start := filepath.Join(t.TempDir(), "start.sh")
	if err := os.WriteFile(start, []byte("#!/bin/sh\nfor i in $(seq 50); do (setsid sleep 1 &); done\nexec "+accept+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.configure("run: ["+start+"]", "ready: notify")
	unshare := []string{"--pid", "--fork", "--mount-proc"}
	if out, err := exec.Command("unshare", append(unshare, "true")...).CombinedOutput(); err != nil {
		t.Skipf("no PID namespace: %v: %s", err, out)
	}
	// The log's pids are the namespace's: nothing here may be killed by them.
	run := func() (cmd *exec.Cmd, first int) {
		t.Helper()
		cmd = exec.Command("unshare", append(append(unshare, h.wrap...), h.program)...)
		cmd.Env = h.env
		out, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		lines := bufio.NewScanner(out)
		for ready := 0; ready < 2 && lines.Scan(); {
			if strings.Contains(lines.Text(), `"event":"ready"`) {
				ready++
			}
		}
		go func() {
			for lines.Scan() {
			}
		}()
		children := childrenOf(cmd.Process.Pid)
		if len(children) != 1 {
			t.Fatalf("unshare has the children %v", children)
		}
		return cmd, children[0]
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd, first := run()
		if got := h.get("/"); got != "ok" {
			t.Errorf("%q", got)
		}
		orphans := 0
		for deadline := time.Now().Add(patience); ; {
			children := childrenOf(first)
			orphans = max(orphans, len(children)-2)
			if len(children) == 2 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d children: orphans are left", len(children))
			}
		}
		if orphans < 20 {
			t.Errorf("%d orphans fell to it at once: the test shows less than it says", orphans)
		}
		if err := syscall.Kill(first, sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %v: %v", sig, err)
		}
	}
	cmd, first := run()
	workers := childrenOf(first)
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, pid := range workers {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d outlived the namespace: %v", pid, err)
		}
	}
}

// childrenOf are the children of a process, zombies too.
func childrenOf(pid int) []int {
	var pids []int
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		for _, field := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(field); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}
