// Package start runs an example for its test: the test's own binary becomes the
// program.
package start

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Patience bounds what a test waits for: the machine may be busy.
const Patience = 60 * time.Second

// Main is a TestMain: the example's main in a process that Example has started, and
// in the workers of that; the tests in any other.
func Main(m *testing.M, main func()) {
	if os.Getenv("DROVER_EXAMPLE") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// Program is an example that runs.
type Program struct {
	URL     string // http://127.0.0.1:PORT
	Address string // 127.0.0.1:PORT
	runtime string // its DROVER_RUNTIME_DIR
	process *exec.Cmd
	out     bytes.Buffer // to be read once it has ended
}

// Example starts the example on a free port, told by $PORT, with further variables
// of its environment, and waits until it answers. At the test's end it is told to
// stop, which must succeed.
func Example(t *testing.T, env ...string) *Program {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	p := &Program{URL: "http://" + address, Address: address, runtime: t.TempDir(), process: exec.Command(os.Args[0])}
	p.process.Stdout, p.process.Stderr = &p.out, &p.out
	_, port, _ := net.SplitHostPort(address)
	p.process.Env = append(os.Environ(), "DROVER_EXAMPLE=1", "PORT="+port, "DROVER_RUNTIME_DIR="+p.runtime,
		"GORACE=atexit_sleep_ms=0") // with the race detector each process would sleep for a second at its end
	p.process.Env = append(p.process.Env, env...)
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end(t) })
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(Patience); ; <-tick.C {
		answer, err := http.Get(p.URL)
		if err == nil {
			answer.Body.Close()
			return p
		}
		if time.Now().After(deadline) {
			t.Fatalf("the example does not answer: %v", err)
		}
	}
}

// Stop tells it to stop, and gives what it has printed once it has.
func (p *Program) Stop(t *testing.T) string {
	t.Helper()
	http.DefaultClient.CloseIdleConnections() // else they are kept for the lame-duck time
	if p.process.ProcessState == nil {
		ended := time.AfterFunc(Patience, func() { _ = p.process.Process.Kill() })
		defer ended.Stop()
		_ = p.process.Process.Signal(syscall.SIGTERM) // fails only where it has ended
		if err := p.process.Wait(); err != nil {
			t.Errorf("the example ended with %v, want exit status 0", err)
		}
	}
	return p.out.String()
}

func (p *Program) end(t *testing.T) {
	if out := p.Stop(t); t.Failed() {
		t.Logf("the example printed:\n%s", out)
	}
}

// Metrics are what the master of the example says of it.
func (p *Program) Metrics(t *testing.T) string {
	t.Helper()
	sockets, err := filepath.Glob(filepath.Join(p.runtime, "*.sock"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("control sockets: %v, %v", sockets, err)
	}
	over := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sockets[0])
	}}}
	answer, err := over.Get("http://drover/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Do sends a request, and fails the test where it is not answered.
func (p *Program) Do(t *testing.T, r *http.Request) *http.Response {
	t.Helper()
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	return answer
}

// Request makes a request for a path of the example.
func (p *Program) Request(t *testing.T, method, path string, body []byte, header ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, p.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// PeakMemory is the most that a process has ever had resident, in bytes
// (proc_pid_status(5), VmHWM).
func PeakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := bytes.Cut(status, []byte("VmHWM:"))
	field := bytes.Fields(after)
	if !ok || len(field) == 0 {
		t.Fatalf("no VmHWM of process %d", pid)
	}
	kib, err := strconv.ParseInt(string(field[0]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
