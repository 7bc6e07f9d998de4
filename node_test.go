package drover_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/internal/authority"
	"drover/internal/load"
	"drover/internal/sys"
)

// newNodeHerd prepares to run testdata/node/app.js, with more lines in the file.
func newNodeHerd(t *testing.T, lines ...string) *herd {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("no node")
	}
	return newFileHerd(t, append([]string{"run: [" + absolute(t, "testdata/node/app.js") + "]"}, lines...)...)
}

// pids are the processes that answer, of so many requests.
func (h *herd) pids(requests int) map[string]int {
	h.t.Helper()
	pids := map[string]int{}
	for range requests {
		pids[h.get("/pid")]++
	}
	return pids
}

// modes runs a test with each scheduling.
func modes(t *testing.T, test func(t *testing.T, h *herd)) {
	for _, mode := range []string{"shared", "rr"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			test(t, newNodeHerd(t, "node: {scheduling: "+mode+"}"))
		})
	}
}

func TestNodeServes(t *testing.T) {
	modes(t, func(t *testing.T, h *herd) {
		h.start()
		if pids := h.pids(40); len(pids) != 2 {
			t.Errorf("40 requests were answered by %v, want two workers", pids)
		}
		h.stop()
		for _, e := range pick(h.happened(), "exit") {
			if !e.Planned || e.Reason != "exit status 0" {
				t.Errorf("it was told to leave: %+v", e)
			}
		}
	})
}

// A killed worker costs what it had accepted, and nothing that was queued.
func TestNodeWorkerKilledUnderLoad(t *testing.T) {
	modes(t, func(t *testing.T, h *herd) {
		h.start()
		r, c := h.underLoad(func(r *load.Run) {
			for n := range 2 {
				if err := syscall.Kill(h.ready()[n].PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				h.await("successor", func(e []event) bool { return count(e, "ready") == 3+n })
			}
			if err := r.AwaitOK(200); err != nil {
				t.Error(err)
			}
		})
		lost(t, r, c, 2*(8+8+6)) // a request of each client
		t.Log(c)
		h.stop()
	})
}

// Reloads lose nothing of clients that ask for a connection each.
func TestNodeReloadUnderLoad(t *testing.T) {
	modes(t, func(t *testing.T, h *herd) {
		h.start()
		r := load.Start(load.Load{Addr: h.addr, PerRequest: 16, KeepAlive: -1})
		defer r.Stop()
		if err := r.AwaitOK(100); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		for range 3 {
			if err := h.client().Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("3 reloads in %v", time.Since(begun))
		h.await("the old ones' end", func(e []event) bool { return count(e, "exit") == 6 })
		if err := r.AwaitOK(100); err != nil {
			t.Error(err)
		}
		lost(t, r, r.Stop(), 0)
		for _, e := range pick(h.happened(), "exit") {
			if !e.Planned || e.Reason != "exit status 0" {
				t.Errorf("it was told to leave: %+v", e)
			}
		}
		h.stop()
	})
}

func TestNodeStormOfKills(t *testing.T) {
	modes(t, func(t *testing.T, h *herd) {
		h.start()
		kills := 0
		r, c := h.underLoad(func(r *load.Run) {
			begun := time.Now()
			for n := 1; n <= 5000/300; n++ { // for five seconds
				if living := h.living(); len(living) > 0 && syscall.Kill(living[0], syscall.SIGKILL) == nil {
					kills++
				}
				wait(begun.Add(time.Duration(n) * 300 * time.Millisecond))
			}
			h.await("two workers after the storm", func(e []event) bool { return serving(e) == 2 })
		})
		lost(t, r, c, kills*(8+8+6))
		t.Logf("%d kills: %s", kills, c)
		h.stop()
	})
}

// A worker is ready when it says so, where that is asked for; and each way to be
// told to leave is understood.
func TestNodeReadyAndStop(t *testing.T) {
	for _, c := range []struct{ by, handles string }{{"INT", "SIGINT"}, {"TERM", "SIGTERM"}, {"shutdown", "shutdown"}} {
		t.Run(c.by, func(t *testing.T) {
			t.Parallel()
			h := newNodeHerd(t, "node: {wait_ready: true, stop_by: "+c.by+"}", "env: {APP_READY_AFTER: 400, APP_HANDLES: "+c.handles+"}")
			h.start()
			for _, e := range pick(h.happened(), "ready") {
				var started time.Time
				for _, s := range pick(h.happened(), "started") {
					if s.Life == e.Life {
						started = s.Time
					}
				}
				if took := e.Time.Sub(started); took < 400*time.Millisecond {
					t.Errorf("worker %d was ready after %v: it said so after 400 ms", e.Slot, took)
				}
			}
			slow, _ := load.Queue(h.addr, "/slow", 8, patience)
			h.stop()
			if got := load.Answers(slow, "ok"); got[load.OK] != 8 {
				t.Errorf("of 8 requests that had come before the stop: %s", got)
			}
			for _, e := range pick(h.happened(), "exit") {
				if e.Reason != "exit status 0" {
					t.Errorf("%+v", e)
				}
			}
		})
	}
}

// What one worker sends that Node would not hurts nobody else, and a channel that a
// worker closes itself, or exit code 0, is a death.
func TestNodeWorkerMisbehaves(t *testing.T) {
	h := newNodeHerd(t)
	h.start()
	if got := h.get("/garbage"); got != "ok" {
		t.Errorf("%q", got)
	}
	h.await("the bad message", func(e []event) bool { return count(e, "bad_message") == 1 && count(e, "objection") == 2 })
	if pids := h.pids(40); len(pids) != 2 {
		t.Errorf("40 requests were answered by %v, want two workers", pids)
	}
	if n := count(h.happened(), "exit"); n != 0 {
		t.Errorf("%d workers ended", n)
	}
	for n, path := range []string{"/leave", "/exit"} {
		if conns, _ := load.Queue(h.addr, path, 1, patience); len(conns) == 1 {
			defer conns[0].Close()
		}
		h.await("the successor", func(e []event) bool { return count(e, "ready") == 3+n })
		exits := pick(h.happened(), "exit")
		if e := exits[n]; e.Planned || e.Reason != "exit status 0" {
			t.Errorf("%s: %+v, want a death", path, e)
		}
	}
	h.stop()
}

// A line of 100 MB is the fault of who sent it, and of nobody else: it is not kept, the
// channel works on, and others answer meanwhile.
func TestNodeWorkerFloodsItsChannel(t *testing.T) {
	h := newNodeHerd(t)
	h.start()
	flooded := make(chan string, 1)
	go func() { flooded <- h.get("/flood") }()
	h.await("the objection", func(e []event) bool { return count(e, "bad_message") == 1 })
	if pids := h.pids(40); len(pids) != 2 {
		t.Errorf("40 requests were answered by %v, want two workers", pids)
	}
	<-flooded
	heard := map[string]bool{}
	h.await("what both hear after it", func([]event) bool {
		if text := h.get("/heard"); text != "[]" {
			heard[text] = true
		}
		return len(heard) == 2
	})
	if s := h.status(); s.Master.RSSBytes > 100<<20 || len(s.Exits) > 0 {
		t.Errorf("the master takes %d MiB, and workers ended: %+v", s.Master.RSSBytes>>20, s.Exits)
	}
	h.stop()
}

// Node workers end with their master; one that cannot, since it waits for the master to
// say that it has a socket, is relieved by the next master of the name.
func TestNodeMasterKilled(t *testing.T) {
	h := newNodeHerd(t)
	h.start()
	ended := map[int]chan error{}
	for _, w := range h.ready() {
		fd, err := sys.PidfdOpen(w.PID)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "pidfd")
		end := make(chan error, 1)
		ended[w.PID] = end
		go func() {
			defer f.Close()
			end <- sys.AwaitReadable(f)
		}()
	}
	if err := h.master.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	orphan, err := strconv.Atoi(h.get("/owes"))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.master.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-h.ended
	for pid, end := range ended {
		if pid != orphan {
			if err := <-end; err != nil {
				t.Error(err)
			}
		}
	}
	if pid := h.get("/pid"); pid != strconv.Itoa(orphan) {
		t.Errorf("%s answers, want %d, which was left", pid, orphan)
	}
	h.start()
	h.await("the orphan's relief", func(e []event) bool { return count(e, "relieved") == 1 })
	if err := <-ended[orphan]; err != nil {
		t.Error(err)
	}
	if pids := h.pids(40); len(pids) != 2 || pids[strconv.Itoa(orphan)] > 0 {
		t.Errorf("40 requests were answered by %v, want two workers, none of them %d", pids, orphan)
	}
	h.stop()
}

// The app's own address serves where none is given; what is taken already is told
// to the app, and so is a second server of one worker there.
func TestNodeAppNamesItsAddress(t *testing.T) {
	app := "run: [" + absolute(t, "testdata/node/app.js")
	for _, mode := range []string{"shared", "rr"} {
		scheduling := "node: {scheduling: " + mode + "}"
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			h := newNodeHerd(t)
			h.bare = true
			host, port, _ := net.SplitHostPort(h.addr)
			h.env = append(h.env, "APP_HOST="+host, "APP_PORT="+port, "APP_TWICE=1")
			h.configure(app+", --flag, x]", scheduling)
			h.start()
			h.await("the app's being told", func([]event) bool { return strings.Count(h.log(), "twice: EADDRINUSE") == 2 })
			if pids := h.pids(40); len(pids) != 2 {
				t.Errorf("40 requests were answered by %v, want two workers", pids)
			}
			if got := h.get("/args"); got != `{"args":["--flag","x"],"flags":[]}` {
				t.Errorf("%s", got)
			}
			// Another app wants the same.
			other := newNodeHerd(t)
			other.bare = true
			other.env = append(other.env, "APP_HOST="+host, "APP_PORT="+port)
			other.configure(app+"]", scheduling)
			other.launch()
			other.exited(3)
			if log := other.log(); !strings.Contains(log, "app: EADDRINUSE") || !strings.Contains(log, "already in use by process") {
				t.Errorf("the app's own error, and who has it, is not told:\n%s", log)
			}
			h.stop()
		})
	}
}

// What the system refuses reaches the app as its server's error.
func TestNodeMayNotListen(t *testing.T) {
	h := newNodeHerd(t)
	h.bare = true
	h.wrap = append([]string{"setpriv", "--bounding-set=-net_bind_service"}, h.wrap...) // root without the right to ports below 1024
	h.env = append(h.env, "APP_HOST=127.0.0.1", "APP_PORT=81")
	h.configure("run: [" + absolute(t, "testdata/node/app.js") + "]")
	h.launch()
	h.exited(3)
	if log := h.log(); !strings.Contains(log, "app: EACCES") {
		t.Errorf("the app is not told:\n%s", log)
	}
}

// Of an https app a client resumes its session with any worker, and after a reload,
// which brings new keys of tickets, with any of the new ones.
func TestNodeHTTPS(t *testing.T) {
	modes(t, func(t *testing.T, h *herd) {
		a := authority.New()
		certificate, key := a.Write(t.TempDir(), "app", "app.test")
		h.env = append(h.env, "APP_TLS="+certificate+":"+key)
		h.start()
		config := &tls.Config{RootCAs: a.Pool(), ServerName: "app.test", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		resume := func() {
			t.Helper()
			h.overTLS(config)
			for range 20 {
				if !h.overTLS(config).DidResume {
					t.Error("a session was not resumed")
				}
			}
		}
		resume()
		if err := h.client().Reload(context.Background()); err != nil {
			t.Fatal(err)
		}
		h.await("only new workers", func([]event) bool { return len(h.living()) == 2 })
		resume()
		h.stop()
	})
}

// What runs cannot become a Node program, nor cease to be one: who answers for its
// sockets is settled by the first.
func TestReloadCannotLeaveNode(t *testing.T) {
	node, other := "run: ["+absolute(t, "testdata/node/app.js")+"]", "run: ["+accepting(t)+"]"
	for from, to := range map[string]string{node: other, other: node} {
		h := newNodeHerd(t)
		h.configure(from)
		h.start()
		h.configure(to)
		if err := h.client().Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "Node") {
			t.Errorf("from %s to %s: %v", from, to, err)
		}
		h.configure(from)
		if err := h.client().Reload(t.Context()); err != nil {
			t.Errorf("%s once more: %v", from, err)
		}
		h.stop()
	}
}

// A program that listens on nothing is served by nobody's clients, but supervised as
// others are.
func TestNodeNeverListens(t *testing.T) {
	h := newNodeHerd(t)
	h.bare = true
	script := filepath.Join(t.TempDir(), "consumer.js")
	if err := os.WriteFile(script, []byte("setInterval(() => {}, 1000)"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.configure("run: ["+script+"]", "node: {never_listens: true, stop_by: TERM}", "min_uptime: 200ms")
	h.start()
	if err := h.client().Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	h.stop()
}

// The environment and flags of a worker are as Node's cluster and PM2 have them.
func TestNodeEnvironment(t *testing.T) {
	h := newNodeHerd(t, "node: {args: [--max-old-space-size=123]}", "env: {HOST: mine}")
	h.start()
	var env map[string]string
	if err := json.Unmarshal([]byte(h.get("/env")), &env); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(h.addr)
	if env["PORT"] != port || env["HOST"] != "mine" || env["NODE_APP_INSTANCE"] != env["pm_id"] || !slices.Contains([]string{"0", "1"}, env["pm_id"]) {
		t.Errorf("PORT %q, HOST %q, NODE_APP_INSTANCE %q, pm_id %q", env["PORT"], env["HOST"], env["NODE_APP_INSTANCE"], env["pm_id"])
	}
	for name := range env {
		if strings.HasPrefix(name, "DROVER_CHANNEL") || strings.HasPrefix(name, "NODE_CHANNEL") || name == "NODE_UNIQUE_ID" || name == "GODEBUG" {
			t.Errorf("%s is none of the app's business", name)
		}
	}
	if got := h.get("/args"); got != `{"args":[],"flags":["--max-old-space-size=123"]}` {
		t.Errorf("%s", got)
	}
	h.stop()
}

// A worker that computes without an end keeps nobody waiting but whom it has
// accepted: what is queued for it is answered by the other, nothing more is steered
// to it, and in the end it is replaced.
func TestNodeWorkerThatSpins(t *testing.T) {
	h := newNodeHerd(t, "hang_timeout: 2s")
	h.start()
	spin, _ := load.Queue(h.addr, "/spin", 1, patience)
	defer spin[0].Close()
	h.await("its spinning", func([]event) bool { return strings.Contains(h.log(), `"spinning"`) })
	begun := time.Now()
	conns, missed := load.Queue(h.addr, "/", 40, patience)
	if missed.Lost() != 0 {
		t.Errorf("%s", missed)
	}
	if got := load.Answers(conns, "ok"); got[load.OK] != 40 {
		t.Errorf("of 40 that were queued: %s", got)
	}
	took := time.Since(begun)
	if took > 2*time.Second {
		t.Errorf("the last was answered after %v, want a second or so", took)
	}
	h.await("word of it", func(e []event) bool { return count(e, "rescued") == 1 && count(e, "late") == 1 })
	begun = time.Now()
	if pids := h.pids(40); len(pids) != 1 {
		t.Errorf("40 requests were answered by %v, want one worker", pids)
	}
	if steered := time.Since(begun); steered > time.Second {
		t.Errorf("40 requests took %v: some waited for the worker that spins", steered)
	}
	h.await("its successor", func(e []event) bool { return count(e, "ready") == 3 })
	if pids := h.pids(40); len(pids) != 2 {
		t.Errorf("40 requests were answered by %v, want two workers", pids)
	}
	t.Log(took)
	h.stop()
}

// Where connections are dealt out, the one that such a worker was given last is given
// to another when it is replaced; no other waits.
func TestNodeWorkerThatSpinsIsDealtNoMore(t *testing.T) {
	h := newNodeHerd(t, "hang_timeout: 2s", "node: {scheduling: rr}")
	h.start()
	spin, _ := load.Queue(h.addr, "/spin", 1, patience)
	defer spin[0].Close()
	h.await("its spinning", func([]event) bool { return strings.Contains(h.log(), "spinning") })
	conns, missed := load.Queue(h.addr, "/", 40, patience)
	if missed.Lost() != 0 {
		t.Errorf("%s", missed)
	}
	if got := load.Answers(conns, "ok"); got[load.OK] != 40 {
		t.Errorf("of 40 that were dealt out: %s", got)
	}
	h.await("its successor", func(e []event) bool { return count(e, "ready") == 3 })
	h.stop()
}

// A worker that leaves asks its clients to close first: kept connections lose
// nothing either.
func TestNodeDrainHeader(t *testing.T) {
	for _, mode := range []string{"shared", "rr"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			h := newNodeHerd(t, "node: {drain_header: true, scheduling: "+mode+"}", "lame_duck: 500ms")
			h.start()
			r, c := h.underLoad(func(r *load.Run) {
				begun := time.Now()
				for range 3 {
					if err := h.client().Reload(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				t.Logf("3 reloads in %v", time.Since(begun))
				h.await("the old ones' end", func(e []event) bool { return count(e, "exit") == 6 })
			})
			lost(t, r, c, 0)
			t.Log(c)
			h.stop()
		})
	}
}

// Socket.IO's adapter finds the primary that it expects: what one worker publishes
// every other hears, and an answer goes to who asked.
func TestNodeSocketIOAdapter(t *testing.T) {
	h := newNodeHerd(t, "workers: 3")
	h.start()
	h.await("the third", func(e []event) bool { return count(e, "ready") == 3 })
	publisher := h.get("/publish")
	type word struct {
		PID  int    `json:"pid"`
		Type int    `json:"type"`
		To   string `json:"to"`
	}
	heard := map[string][]word{}
	h.await("two who heard it and two answers", func([]event) bool {
		var words []word
		if err := json.Unmarshal([]byte(h.get("/heard")), &words); err != nil {
			t.Fatal(err)
		}
		if len(words) > 0 {
			heard[strconv.Itoa(words[0].PID)] = words
		}
		return len(heard) == 3 && len(heard[publisher]) == 2
	})
	for pid, words := range heard {
		for _, w := range words {
			if answer := pid == publisher; answer != (w.Type == 8) || answer != (w.To == "adapter "+publisher) {
				t.Errorf("worker %s (the publisher: %v) heard %+v", pid, answer, w)
			}
		}
		if pid != publisher && len(words) != 1 {
			t.Errorf("worker %s heard %+v, want the one message", pid, words)
		}
	}
	h.stop()
}

// The other kinds of sockets: unix, dealt out since there can be but one; UDP; and
// one that drover was started with.
func TestNodeOtherSockets(t *testing.T) {
	app := "run: [" + absolute(t, "testdata/node/app.js") + "]"
	pids := func(t *testing.T, network, address string) {
		t.Helper()
		seen := map[string]bool{}
		client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			}}}
		for range 40 {
			resp, err := client.Get("http://app/pid")
			if err != nil {
				t.Fatal(err)
			}
			pid, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			seen[string(pid)] = true
		}
		if len(seen) != 2 {
			t.Errorf("40 requests were answered by %v, want two workers", seen)
		}
	}
	t.Run("unix", func(t *testing.T) {
		t.Parallel()
		h := newNodeHerd(t)
		h.bare = true
		path := filepath.Join(t.TempDir(), "s")
		h.env = append(h.env, "APP_PORT="+path)
		h.configure(app)
		h.start()
		pids(t, "unix", path)
		h.stop()
		if _, err := os.Stat(path); err == nil {
			t.Error("the socket's path is left")
		}
	})
	t.Run("abstract", func(t *testing.T) {
		t.Parallel()
		h := newNodeHerd(t)
		h.bare = true
		name := fmt.Sprintf("drover-test-%d", os.Getpid())
		h.env = append(h.env, "APP_ABSTRACT="+name)
		h.configure(app)
		h.start()
		pids(t, "unix", "@"+name)
		h.stop()
	})
	t.Run("UDP", func(t *testing.T) {
		t.Parallel()
		h := newNodeHerd(t)
		_, port, _ := net.SplitHostPort(h.addr)
		h.env = append(h.env, "APP_UDP="+port)
		h.start()
		conn, err := net.Dial("udp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		n, err := conn.Read(buf)
		if err != nil || !strings.HasPrefix(string(buf[:n]), "hello from ") {
			t.Errorf("%q, %v", buf[:n], err)
		}
		h.stop()
	})
	t.Run("descriptor", func(t *testing.T) {
		t.Parallel()
		h := newNodeHerd(t)
		h.bare = true
		l, err := net.Listen("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		h.inherit = f // becomes 3
		h.env = append(h.env, "APP_FD=3")
		h.configure(app)
		h.start()
		f.Close()
		pids(t, "tcp", h.addr)
		h.stop()
	})
	t.Run("no descriptor", func(t *testing.T) {
		t.Parallel()
		h := newNodeHerd(t)
		h.bare = true
		h.env = append(h.env, "APP_FD=5")
		h.configure(app)
		h.launch()
		h.exited(3)
		if log := h.log(); !strings.Contains(log, "app: EBADF") {
			t.Errorf("the app is not told:\n%s", log)
		}
	})
}

// The steering asked for is that of the addresses that the program asks for, too.
func TestNodeSticky(t *testing.T) {
	h := newNodeHerd(t)
	host, port, err := net.SplitHostPort(h.addr)
	if err != nil {
		t.Fatal(err)
	}
	h.bare = true
	h.env = append(h.env, "APP_HOST="+host, "APP_PORT="+port)
	h.configure("run: ["+absolute(t, "testdata/node/app.js")+"]", "node: {steering: sticky}")
	h.start()
	pids := map[string]bool{}
	for client := range 16 {
		from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 2, byte(client+1))}}
		asks := http.Client{Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}}
		first := ""
		for range 5 {
			resp, err := asks.Get("http://" + h.addr + "/pid")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if pid := string(body); first == "" {
				first = pid
			} else if pid != first {
				t.Errorf("client %d was answered by %s, then by %s", client, first, pid)
			}
		}
		pids[first] = true
	}
	if len(pids) != 2 {
		t.Errorf("16 clients were answered by %v, want two workers", pids)
	}
	h.stop()
}
