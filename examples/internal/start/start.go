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
	"regexp"
	"strconv"
	"sync"
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

// Both runs a test on both engines: of an example whose engine $ENGINE names.
func Both(t *testing.T, test func(t *testing.T, engine string)) {
	for _, engine := range []string{"fasthttp", "nethttp"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			test(t, engine)
		})
	}
}

// Program is an example that runs.
type Program struct {
	URL     string // http://127.0.0.1:PORT
	Address string // 127.0.0.1:PORT
	runtime string // its DROVER_RUNTIME_DIR
	process *exec.Cmd
	out     output
}

// Example starts the example on a free port, by PORT=0, with further variables of its
// environment, and waits until it answers. At the test's end it is told to stop, which
// must succeed.
func Example(t *testing.T, env ...string) *Program {
	t.Helper()
	p := &Program{runtime: t.TempDir(), process: exec.Command(os.Args[0]), out: output{port: make(chan string, 1)}}
	p.process.Stdout, p.process.Stderr = &p.out, &p.out
	p.process.Env = append(os.Environ(), "DROVER_EXAMPLE=1", "PORT=0", "DROVER_RUNTIME_DIR="+p.runtime,
		"GORACE=atexit_sleep_ms=0") // with the race detector each process would sleep for a second at its end
	p.process.Env = append(p.process.Env, env...)
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end(t) })
	select {
	case port := <-p.out.port:
		p.Address = "127.0.0.1:" + port
		p.URL = "http://" + p.Address
	case <-time.After(Patience):
		t.Fatal("the example does not listen")
	}
	answer, err := http.Get(p.URL) // queued until a worker is there
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return p
}

// output is what an example prints.
type output struct {
	port chan string // gets the port that it listens on

	mu    sync.Mutex
	text  bytes.Buffer
	known bool // port has it
}

var listening = regexp.MustCompile(`listening on \S*:(\d+)\n`)

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	if !o.known {
		if m := listening.FindSubmatch(o.text.Bytes()); m != nil {
			o.known = true
			o.port <- string(m[1])
		}
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
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
