package drover_test

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// spins reports more than a fifth of a CPU, over two seconds.
func (h *herd) spins() {
	h.t.Helper()
	before := cpu(h.t, h.master.Process.Pid)
	const span = 2 * time.Second
	wait(time.Now().Add(span))
	if used := cpu(h.t, h.master.Process.Pid) - before; used > span/5 {
		h.t.Errorf("the master used %v of CPU in %v", used, span)
	}
}

// With next to no descriptors the master says what it lacks, and does not spin.
func TestFewDescriptors(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.wrap = []string{"sh", "-c", `ulimit -n 64; exec "$0"`}
	h.start()
	h.get("/")

	// More workers than there are descriptors for.
	err := h.client().Scale(t.Context(), 16)
	if err == nil || !strings.Contains(err.Error(), "too many open files") {
		t.Errorf("scale: %v", err)
	}
	h.spins()
	h.get("/")
	if n := count(h.happened(), "exit"); n > 100 {
		t.Errorf("%d attempts", n)
	}
	if err := h.client().Scale(t.Context(), 2); err != nil {
		t.Error(err)
	}
	h.await("two workers", func(e []event) bool { return len(h.ready()) == 2 })
	h.get("/")
	h.stop()
}

// When no process can be made, the master lives and goes on trying, with its
// backoff; the workers that there are serve.
func TestNoMoreProcesses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be a user with processes to count")
	}
	h := newPlainHerd(t, "fasthttp")
	// A user of the test's own: the limit counts all of a user's processes.
	for _, dir := range []string{h.program, h.dir} {
		for ; dir != os.TempDir() && dir != "/"; dir = dir[:strings.LastIndex(dir, "/")] {
			_ = os.Chmod(dir, 0o755)
		}
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const uid = 64123
	if err := os.Chown(h.dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	h.wrap = []string{"setpriv", "--reuid=64123", "--regid=64123", "--clear-groups"}
	h.start()
	// From now on there may be no more threads than there are.
	limit := func(soft string) {
		t.Helper()
		args := append(slices.Clone(h.wrap), "prlimit", "--nproc="+soft+":", "--pid", strconv.Itoa(h.master.Process.Pid))
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	limit("1")
	if err := syscall.Kill(h.ready()[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.await("failing starts", func(e []event) bool { return strings.Count(h.log(), "resource temporarily unavailable") >= 3 })
	h.spins()
	h.get("/")
	limit("1000")
	h.await("two workers", func(e []event) bool { return len(h.ready()) == 2 })
	h.stop()
}

// A log that cannot be written costs the log, and nothing else.
func TestFullLog(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	cmd := exec.Command(h.program)
	cmd.Env, cmd.Stderr, cmd.Stdout = h.env, full, full
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.master, h.ended = cmd, make(chan struct{})
	go func() { cmd.Wait(); close(h.ended) }()
	defer func() { cmd.Process.Kill(); <-h.ended }()
	h.awaitRunning()
	victim := h.ready()[0]
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); len(h.ready()) != 2 || h.ready()[0].PID == victim.PID; {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", h.status().Workers)
		}
	}
	h.spins()
	h.get("/")
	h.stop()
}
