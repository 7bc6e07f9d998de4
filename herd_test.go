package drover_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drover"
	"drover/master/admin"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/prefork"
)

// The test binary is also the app under test. A copy of it is deployed like any
// program; what its workers do is written behind its last byte, so that each
// deploy can bring another.
func TestMain(m *testing.M) {
	if os.Getenv("HERD_ENGINE") != "" {
		app()
		return
	}
	if os.Getenv("HERD_IDLE") != "" {
		for range time.Tick(100 * time.Millisecond) { // as a worker beats
		}
	}
	code := m.Run()
	os.RemoveAll(builds)
	os.Exit(code)
}

// builds is a directory that ends with the tests; empty is none.
var builds string

// scratch makes it.
var scratch = sync.OnceValues(func() (dir string, err error) {
	builds, err = os.MkdirTemp("", "drover-test")
	return builds, err
})

// plainApp is this program without the race detector, which makes starts and
// requests several times as slow, and processes as large.
var plainApp = sync.OnceValues(func() (string, error) {
	if !raceDetector {
		return os.Executable()
	}
	dir, err := scratch()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "app")
	if out, err := exec.Command("go", "test", "-c", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the app: %w\n%s", err, out)
	}
	return path, nil
})

const trailer = "\x00herd:"

// behaviour is what is written behind the running program's last byte.
func behaviour() string {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		panic(err)
	}
	defer f.Close()
	end := make([]byte, 64)
	if _, err := f.Seek(-int64(len(end)), io.SeekEnd); err != nil {
		panic(err)
	}
	if _, err := io.ReadFull(f, end); err != nil {
		panic(err)
	}
	_, text, _ := strings.Cut(string(end), trailer)
	return text
}

func app() {
	if os.Getenv("HERD_ENGINE") == "prefork" {
		preforkApp()
		return
	}
	c := drover.Config{
		Name:      os.Getenv("HERD_NAME"),
		Workers:   2,
		Listen:    []drover.Listen{{Address: os.Getenv("HERD_LISTEN"), Steering: os.Getenv("HERD_STEERING")}},
		LogFormat: "json",
	}
	if certificate, key, ok := strings.Cut(os.Getenv("HERD_TLS"), ":"); ok {
		c.Listen[0].TLS = &drover.TLS{Certificates: []drover.Certificate{{Certificate: certificate, Key: key}}}
	}
	if proxies := os.Getenv("HERD_PROXIES"); proxies != "" {
		c.TrustedProxies, c.Listen[0].ProxyProtocol = []string{proxies}, true
	}
	for name, field := range map[string]*time.Duration{
		"HERD_READY_TIMEOUT": &c.ReadyTimeout, "HERD_HANG_TIMEOUT": &c.HangTimeout, "HERD_DRAIN": &c.Drain,
		"HERD_REQUEST_TIMEOUT": &c.Limits.RequestTimeout, "HERD_MIN_UPTIME": &c.MinUptime,
	} {
		if d, err := time.ParseDuration(os.Getenv(name)); err == nil {
			*field = d
		}
	}
	c.NoSchedTrace = os.Getenv("HERD_NO_SCHEDTRACE") != ""
	if n, err := strconv.Atoi(os.Getenv("HERD_WORKERS")); err == nil {
		c.Workers = n
	}
	c.Limits.MaxRequests, _ = strconv.ParseInt(os.Getenv("HERD_MAX_REQUESTS"), 10, 64)
	c.Limits.MaxMemory, _ = strconv.ParseInt(os.Getenv("HERD_MAX_MEMORY"), 10, 64)
	drover.Main(c, work)
}

// preforkApp is the peer of a control: fasthttp's own prefork. Each of its
// workers prints its pid once it accepts.
func preforkApp() {
	server := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) { ctx.WriteString("ok") }}
	p := prefork.New(server)
	p.Reuseport = true
	p.OnMasterDeath = func() { os.Exit(1) }
	p.ServeFunc = func(l net.Listener) error {
		fmt.Println(os.Getpid())
		return server.Serve(l)
	}
	if err := p.ListenAndServe(os.Getenv("HERD_LISTEN")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// work is what a worker does.
func work(w *drover.Worker) error {
	if _, err := os.Stat(os.Getenv("HERD_BROKEN")); err == nil {
		return errors.New("the database is away")
	}
	if slot, err := os.ReadFile(os.Getenv("HERD_BROKEN") + ".slot"); err == nil && string(slot) == strconv.Itoa(w.Slot()) {
		return errors.New("this slot is broken")
	}
	body := "ok"
	switch do := behaviour(); do {
	case "", "good":
	case "exit":
		fmt.Println("about to fail")
		return errors.New("no such table: users")
	case "never":
		select {}
	case "second fails":
		if w.Slot() > 0 {
			return errors.New("only one of us can")
		}
	case "dies soon":
		time.AfterFunc(300*time.Millisecond, func() { os.Exit(9) })
	default:
		body = do
	}
	if os.Getenv("HERD_MESSAGES") != "" {
		post = newPostman(w)
	}
	if os.Getenv("HERD_ENGINE") == "proxy" {
		return proxyApp(w)
	}
	if os.Getenv("HERD_ENGINE") == "fasthttp" {
		return w.Serve(drover.FastHTTP(func(ctx *fasthttp.RequestCtx) {
			if string(ctx.Path()) == "/client" {
				ctx.WriteString(ctx.RemoteAddr().String())
				return
			}
			ctx.WriteString(answer(w, string(ctx.Path()), body))
		}))
	}
	return w.Serve(drover.NetHTTP(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/client" {
			io.WriteString(rw, r.RemoteAddr)
			return
		}
		io.WriteString(rw, answer(w, r.URL.Path, body))
	})))
}

var (
	tenKiB = strings.Repeat("0123456789abcdef", 640)
	grown  []byte
	post   *postman // where the test is about messages
)

// answer is what a path is answered with, once it is.
func answer(w *drover.Worker, path, body string) string {
	if do, ok := strings.CutPrefix(path, "/misbehave/"); ok {
		slot, kind, _ := strings.Cut(do, "/")
		if slot != strconv.Itoa(w.Slot()) {
			return "another's"
		}
		misbehave(w, strings.ReplaceAll(kind, "_", " "))
		return body
	}
	if do, ok := strings.CutPrefix(path, "/messages/"); ok {
		slot, do, _ := strings.Cut(do, "/")
		if slot != strconv.Itoa(w.Slot()) {
			return "another's"
		}
		return post.answer(do)
	}
	switch path {
	case "/slow":
		<-time.After(200 * time.Millisecond)
	case "/10k":
		return tenKiB
	case "/slot":
		return strconv.Itoa(w.Slot())
	case "/goroutines":
		return fmt.Sprint(w.Slot(), " ", runtime.NumGoroutine())
	case "/spin":
		for n := 0; ; n++ {
			runtime.KeepAlive(n)
		}
	case "/block":
		var ends [2]int
		if err := syscall.Pipe(ends[:]); err != nil {
			panic(err)
		}
		_, _ = syscall.Read(ends[0], make([]byte, 1)) // never comes back
	case "/capture":
		for { // waits for ever, which the runtime does not know: it keeps its processor
			_, _, _ = syscall.RawSyscall6(syscall.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
		}
	case "/deadlock":
		select {}
	case "/burn":
		burn(600 * time.Millisecond)
	case "/upstream":
		return askUpstream()
	case "/grow":
		grown = bytes.Repeat([]byte("x"), 200_000_000)
	}
	return body
}

// herd is a running app: its master, started from a deployed binary.
type herd struct {
	t          *testing.T
	build      string // the program as it was built
	program    string // where it is deployed
	name       string
	addr       string
	bare       bool   // its file names no address
	brokenSlot string // a file that holds the slot whose workers fail at their start
	dir        string // runtime directory
	env        []string
	inherit    *os.File // left open in the master, when not nil
	wrap       []string // a command that runs the program on a terminal
	keys       io.Writer
	asked      int // requests of our own that were answered
	master     *exec.Cmd
	ended      chan struct{} // closed when the master has ended

	mu     sync.Mutex
	events []event
	lines  []string
	news   chan struct{} // closed and replaced at each event
}

// event is a line of the master's log.
type event struct {
	Event       string    `json:"event"`
	Time        time.Time `json:"time"`
	Slot        int       `json:"slot"`
	Life        int       `json:"life"`
	PID         int       `json:"pid"`
	Generation  int       `json:"generation"`
	Reason      string    `json:"reason"`
	Why         string    `json:"why"`
	Planned     bool      `json:"planned"`
	Connections int       `json:"connections"`
	AgeMS       int       `json:"age_ms"`
	LastLines   []string  `json:"last_lines"`
	Msg         string    `json:"msg"`
}

// both runs a test on each engine, at the same time: most of a test's time is
// waiting.
func both(t *testing.T, test func(t *testing.T, engine string)) {
	inTurn(t, func(t *testing.T, engine string) {
		t.Parallel()
		test(t, engine)
	})
}

// inTurn runs a test on one engine after the other: it measures.
func inTurn(t *testing.T, test func(t *testing.T, engine string)) {
	for _, engine := range []string{"fasthttp", "nethttp"} {
		t.Run(engine, func(t *testing.T) { test(t, engine) })
	}
}

// newHerd deploys a good program, and prepares to run it on a free port. Under
// the race detector the program is under it too.
func newHerd(t *testing.T, engine string) *herd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return newHerdOf(t, engine, self)
}

// newPlainHerd is newHerd for tests with bounds of time or size.
func newPlainHerd(t *testing.T, engine string) *herd {
	t.Helper()
	app, err := plainApp()
	if err != nil {
		t.Fatal(err)
	}
	return newHerdOf(t, engine, app)
}

func newHerdOf(t *testing.T, engine, build string) *herd {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	h := &herd{t: t, build: build, name: "herd", addr: addr, dir: filepath.Join(t.TempDir(), "run"), program: filepath.Join(t.TempDir(), "app")}
	broken := filepath.Join(t.TempDir(), "broken")
	h.brokenSlot = broken + ".slot"
	h.env = append(os.Environ(),
		"HERD_ENGINE="+engine, "HERD_LISTEN="+addr, "HERD_NAME="+h.name, "HERD_BROKEN="+broken,
		"DROVER_RUNTIME_DIR="+h.dir)
	h.deploy("good")
	return h
}

// deploy moves a program with the given behaviour over the app's path.
func (h *herd) deploy(do string) {
	h.t.Helper()
	data, err := os.ReadFile(h.build)
	if err != nil {
		h.t.Fatal(err)
	}
	// A process that is forked meanwhile would hold the file open for writing for a
	// moment, and it could not be executed.
	syscall.ForkLock.RLock()
	err = os.WriteFile(h.program+".new", append(data, trailer+do...), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(h.program+".new", h.program); err != nil {
		h.t.Fatal(err)
	}
}

// start starts a master and waits until every worker is ready.
func (h *herd) start() {
	h.t.Helper()
	h.launch()
	h.await("two ready workers", func(e []event) bool { return count(e, "ready") >= 2 })
}

// launch starts a master.
func (h *herd) launch() {
	h.t.Helper()
	command := append(slices.Clone(h.wrap), h.program)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = h.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StderrPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if h.inherit != nil {
		cmd.ExtraFiles = []*os.File{h.inherit}
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.master, h.ended = cmd, make(chan struct{})
	h.mu.Lock()
	h.events, h.lines, h.news = nil, nil, make(chan struct{})
	h.mu.Unlock()
	ended := h.ended
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var e event
			_ = json.Unmarshal(lines.Bytes(), &e)
			h.mu.Lock()
			h.lines = append(h.lines, lines.Text())
			if e.Event != "" {
				h.events = append(h.events, e)
			}
			close(h.news)
			h.news = make(chan struct{})
			h.mu.Unlock()
		}
		cmd.Wait()
	}()
	h.t.Cleanup(func() {
		for _, pid := range h.living() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		cmd.Process.Kill()
		<-ended
		if strings.Contains(h.log(), "DATA RACE") {
			h.t.Error("a data race in the master or a worker")
		}
		if h.t.Failed() {
			h.t.Logf("the master's log:\n%s", h.log())
		}
	})
}

// launchOnTerminal starts a master on a terminal of its own, whose keys are
// h.keys, and waits until it serves.
func (h *herd) launchOnTerminal() {
	h.t.Helper()
	cmd := exec.Command(h.wrap[0], h.wrap[1:]...)
	cmd.Env = h.env
	keys, err := cmd.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.keys, h.master, h.ended = keys, cmd, make(chan struct{})
	ended := h.ended
	go func() { cmd.Wait(); close(ended) }()
	h.t.Cleanup(func() { keys.Close(); cmd.Process.Kill(); <-ended })
	h.awaitRunning()
}

// awaitRunning waits until the app says that it runs, whatever its log says.
func (h *herd) awaitRunning() {
	h.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		if c, err := admin.Dial(h.dir, h.name); err == nil {
			if s, err := c.Status(context.Background()); err == nil && s.State == "running" {
				return
			}
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("no app within %s", patience)
		}
	}
}

func (h *herd) log() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.lines, "\n")
}

// happened are the events up to now.
func (h *herd) happened() []event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events)
}

// living are the pids of workers that were started and have not exited, as far
// as the log tells.
func (h *herd) living() []int {
	var pids []int
	for _, e := range h.happened() {
		switch e.Event {
		case "started":
			pids = append(pids, e.PID)
		case "exit":
			pids = slices.DeleteFunc(pids, func(pid int) bool { return pid == e.PID })
		}
	}
	return pids
}

// patience is how long a fact is waited for.
const patience = 30 * time.Second

// await waits until the events, or whatever ok looks at, say so.
func (h *herd) await(what string, ok func([]event) bool) []event {
	h.t.Helper()
	deadline := time.After(patience)
	look := time.NewTicker(10 * time.Millisecond) // the status may change without an event
	defer look.Stop()
	for {
		h.mu.Lock()
		events, news := slices.Clone(h.events), h.news
		h.mu.Unlock()
		if ok(events) {
			return events
		}
		select {
		case <-news:
		case <-look.C:
		case <-deadline:
			h.t.Fatalf("no %s within %s", what, patience)
		case <-h.ended:
			if ok(h.happened()) {
				return h.happened()
			}
			h.t.Fatalf("the master ended (%v) before: %s\n%s", h.master.ProcessState, what, h.log())
		}
	}
}

func count(events []event, name string) int {
	n := 0
	for _, e := range events {
		if e.Event == name {
			n++
		}
	}
	return n
}

// pick are the events of a name.
func pick(events []event, name string) []event {
	return slices.DeleteFunc(slices.Clone(events), func(e event) bool { return e.Event != name })
}

func (h *herd) client() *admin.Client {
	h.t.Helper()
	c, err := admin.Dial(h.dir, h.name)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *herd) status() admin.Status {
	h.t.Helper()
	s, err := h.client().Status(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// ready are the workers that serve, by slot.
func (h *herd) ready() []admin.Worker {
	h.t.Helper()
	return slices.DeleteFunc(h.status().Workers, func(w admin.Worker) bool { return w.State != "ready" })
}

// stop stops the master gracefully, and checks that it ends with exit code 0.
func (h *herd) stop() {
	h.t.Helper()
	if err := h.client().Stop(context.Background()); err != nil {
		h.t.Fatal(err)
	}
	h.exited(0)
}

// exited waits for the master's end and checks its exit code.
func (h *herd) exited(code int) {
	h.t.Helper()
	select {
	case <-h.ended:
	case <-time.After(time.Minute):
		h.t.Fatal("the master did not end within a minute")
	}
	if got := h.master.ProcessState.ExitCode(); got != code {
		h.t.Errorf("the master ended with %v, want exit code %d", h.master.ProcessState, code)
	}
}

// get asks once, and returns the body.
func (h *herd) get(path string) string {
	h.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get("http://" + h.addr + path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(body)
}
