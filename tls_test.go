package drover_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drover/internal/authority"
	"drover/internal/load"
)

// Over TLS: a client resumes with any worker, a replaced certificate and a reload cost
// nobody anything, a killed worker what it had accepted; and nothing of a key is to be
// seen from outside.
func TestTLS(t *testing.T) {
	both(t, func(t *testing.T, engine string) {
		h := newPlainHerd(t, engine)
		a, dir := authority.New(), t.TempDir()
		certificate, key := a.Write(dir, "live", "herd.test")
		h.env = append(h.env, "HERD_WORKERS=4", "HERD_MIN_UPTIME=100ms", "HERD_TLS="+certificate+":"+key)
		h.launch()
		h.await("four ready workers", func(e []event) bool { return count(e, "ready") >= 4 })

		config := &tls.Config{RootCAs: a.Pool(), ServerName: "herd.test"}
		h.hidesItsKey(key)

		// The first asks for a ticket; each answer brings another.
		resuming := config.Clone()
		resuming.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		resumed := 0
		const connections = 101
		for range connections {
			if h.overTLS(resuming).DidResume {
				resumed++
			}
		}
		if resumed < connections-1 {
			t.Errorf("%d of %d connections were resumed by four workers, want all but the first", resumed, connections)
		}

		names := config.Clone() // of two certificates, the first and its successor
		names.InsecureSkipVerify = true
		r := load.Start(load.Load{Addr: h.addr, KeepAlive: 4, PerRequest: 4, Slow: 2, TLS: names})
		defer r.Stop()
		if err := r.AwaitOK(50); err != nil {
			t.Fatal(err)
		}
		a.Write(dir, "live", "next.test")
		h.await("the new certificate", func(e []event) bool { return count(e, "certificate") >= 2 })
		next := config.Clone()
		next.ServerName = "next.test"
		// The master tells of it when it has sent it: a worker may have it a little later.
		for deadline := time.Now().Add(patience); ; {
			c, err := tls.Dial("tcp", h.addr, next)
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the new certificate is not served: %v", err)
			}
		}
		if err := h.client().Reload(context.Background()); err != nil {
			t.Fatal(err)
		}
		h.overTLS(next)
		if c := r.Counts(); c.Lost() != 0 {
			t.Errorf("a new certificate and a reload: %s; the first losses:\n%s", c, r.Losses())
		}
		before := r.Counts()
		victim := h.ready()[0]
		if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.await("a successor", func(e []event) bool { return count(e, "ready") >= 9 })
		had := 1 // beside what the exit tells of: one may have been accepted just then
		for _, exit := range pick(h.happened(), "exit") {
			if exit.PID == victim.PID { // of the others, who left for the reload, some may come later
				had += exit.Connections
			}
		}
		if err := r.AwaitOK(50); err != nil {
			t.Error(err)
		}
		lost(t, r, r.Stop().Minus(before), had)
		h.hidesItsKey(key)
		h.stop()
	})
}

// overTLS asks once, on a connection of its own, and says what was agreed on.
func (h *herd) overTLS(config *tls.Config) tls.ConnectionState {
	h.t.Helper()
	c, kind, err := load.Dial(h.addr, 10*time.Second)
	if kind == load.OK {
		kind, err = c.Encrypt(config, 10*time.Second)
	}
	if kind == load.OK {
		kind, err = c.Get("/", false, 10*time.Second, "ok")
	}
	if kind != load.OK {
		h.t.Fatalf("over TLS: %s: %v", kind, err)
	}
	return c.Conn.(*tls.Conn).ConnectionState()
}

// hidesItsKey looks for a key, in the forms that it could have, in what other users
// or a log may show of the processes.
func (h *herd) hidesItsKey(path string) {
	h.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	secrets := [][]byte{[]byte(strings.Split(string(text), "\n")[1]), block.Bytes, []byte(fmt.Sprintf("%x", block.Bytes))}
	shown := map[string][]byte{"the log": []byte(h.log())}
	for _, pid := range append(h.living(), h.master.Process.Pid) {
		for _, file := range []string{"environ", "cmdline"} {
			path := fmt.Sprintf("/proc/%d/%s", pid, file)
			if shown[path], err = os.ReadFile(path); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	for where, data := range shown {
		for _, secret := range secrets {
			if bytes.Contains(data, secret) {
				h.t.Errorf("%s shows the private key", where)
			}
		}
	}
}

// Workers of another user serve with a key that only root may read, a new one too.
func TestWorkersNeedNotReadTheKey(t *testing.T) {
	app, err := plainApp()
	if err != nil {
		t.Fatal(err)
	}
	lines := asNobody(t, app)
	h := newFileHerd(t)
	h.bare = true
	a, dir := authority.New(), t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	certificate, key := a.Write(dir, "live", "herd.test")
	h.configure(append(lines, "env: {HERD_ENGINE: fasthttp}", "listen: [{address: '$ADDR', tls: {certificate: "+certificate+", key: "+key+"}}]")...)
	h.start()
	h.overTLS(&tls.Config{RootCAs: a.Pool(), ServerName: "herd.test"})
	a.Write(dir, "live", "next.test")
	if err := h.client().Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.overTLS(&tls.Config{RootCAs: a.Pool(), ServerName: "next.test"})
	for _, w := range h.ready() {
		if got := credentials(t, w.PID); got != nobody {
			t.Errorf("%s, want %s", got, nobody)
		}
	}
	h.stop()
}

// An answer of several records is one read and one write, as in plain text.
func TestSystemCallsOfARequestOverTLS(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("needs strace, which scripts/test installs")
	}
	h := newPlainHerd(t, "fasthttp")
	a := authority.New()
	certificate, key := a.Write(t.TempDir(), "herd", "herd.test")
	h.env = append(h.env, "HERD_WORKERS=1", "HERD_TLS="+certificate+":"+key)
	h.launch()
	h.await("a ready worker", func(e []event) bool { return serving(e) == 1 })
	const requests, clients = 1600, 8
	conns := make([]*load.Conn, clients)
	ask := func(c *load.Conn) error {
		kind, err := c.Get("/10k", true, 10*time.Second, tenKiB)
		if kind != load.OK {
			return fmt.Errorf("%s: %w", kind, err)
		}
		return nil
	}
	for i := range conns {
		c, kind, err := load.Dial(h.addr, 10*time.Second)
		if kind == load.OK {
			kind, err = c.Encrypt(&tls.Config{RootCAs: a.Pool(), ServerName: "herd.test"}, 10*time.Second)
		}
		if kind != load.OK {
			t.Fatal(err)
		}
		if err := ask(c); err != nil {
			t.Fatal(err)
		}
		conns[i] = c
	}
	counted := traced(t, h.ready()[0].PID, func() {
		var all sync.WaitGroup
		for _, c := range conns {
			all.Go(func() {
				for range requests / clients {
					if err := ask(c); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	})
	per := func(n int) float64 { return float64(n) / requests }
	reads, none, writes := ioCalls(counted)
	t.Logf("a request: %.3f reads, %.3f writes, %.3f reads of nothing", per(reads), per(writes), per(none))
	if per(reads) > 1.02 || per(writes) > 1.02 || per(none) > 0.02 {
		t.Errorf("%.3f reads, %.3f writes and %.3f reads of nothing a request, want 1, 1 and none", per(reads), per(writes), per(none))
	}
	for _, c := range conns {
		c.Close() // else the stop waits for them
	}
	h.stop()
}
