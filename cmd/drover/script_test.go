package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drover"
	"drover/internal/authority"
	"drover/master/admin"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/valyala/fasthttp"
	"go.uber.org/goleak"
)

// inScript is set for every process of a script. The test binary is then the
// command where it is called drover, and the program below by any other name:
// masters start workers by the names that were typed, and never find the tests.
const inScript = "DROVER_IN_SCRIPT"

func TestMain(m *testing.M) {
	if os.Getenv(inScript) != "" && filepath.Base(os.Args[0]) != "drover" {
		program()
		return
	}
	testscript.Main(leakless{m}, map[string]func(){"drover": main, "app": program})
}

// leakless fails when the tests leave a goroutine.
type leakless struct{ *testing.M }

func (l leakless) Run() int {
	code := l.M.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// program is the scripts' app, which is built on drover. Its environment says
// how it is configured: APP_LISTEN, addresses with blanks between them, and
// APP_WORKERS and APP_TLS, the name of a certificate. What it does is the text of a
// file named release in its working directory, which a script replaces as others
// deploy, or APP:
//
//	fail REASON   prints, and ends before it is ready
//	hang          is never ready
//	TEXT          answers with it, and its slot, generation and arguments
func program() {
	var c drover.Config
	c.Workers, _ = strconv.Atoi(os.Getenv("APP_WORKERS"))
	for _, address := range strings.Fields(os.Getenv("APP_LISTEN")) {
		l := drover.Listen{Address: address}
		if name := os.Getenv("APP_TLS"); name != "" {
			l.TLS = &drover.TLS{Certificates: []drover.Certificate{{Certificate: name + ".pem", Key: name + ".key"}}}
		}
		c.Listen = append(c.Listen, l)
	}
	drover.Main(c, func(w *drover.Worker) error {
		text := os.Getenv("APP")
		if data, err := os.ReadFile("release"); err == nil {
			text = strings.TrimSpace(string(data))
		}
		if reason, ok := strings.CutPrefix(text, "fail "); ok {
			fmt.Println("connecting to the database")
			return errors.New(reason)
		}
		if text == "hang" {
			fmt.Println("waiting for the database")
			<-w.Draining()
			return nil
		}
		fmt.Printf("serving %s\n", text)
		return w.Serve(drover.FastHTTP(func(ctx *fasthttp.RequestCtx) {
			fmt.Fprintf(ctx, "%s: slot %d, generation %d, arguments %q\n", text, w.Slot(), w.Generation(), os.Args[1:])
		}))
	})
}

// TestScripts runs testdata/script, which is also the manual of the command.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await-app":    awaitApp,
			"await-get":    awaitGet,
			"await-line":   awaitLine,
			"await-next":   awaitNext,
			"await-status": awaitStatus,
			"certificate":  certificate,
			"exits":        exits,
			"expand":       expand,
			"freeport":     freePort,
			"get":          get,
			"has":          has,
			"hold":         hold,
			"json-lines":   jsonLines,
			"kill-worker":  killWorker,
			"let":          let,
			"signal":       signalMaster,
		},
		Condition: func(cond string) (bool, error) {
			if cond == "ipv6" {
				l, err := net.Listen("tcp", "[::1]:0")
				if err == nil {
					l.Close()
				}
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// setup gives a script a runtime directory of its own, and leaves no process
// behind, whatever became of the script.
func setup(env *testscript.Env) error {
	top, err := os.MkdirTemp("", "drover") // short: a socket's path has 107 bytes
	if err != nil {
		return err
	}
	dir := filepath.Join(top, "run")
	env.Setenv("DROVER_RUNTIME_DIR", dir)
	env.Setenv(inScript, "1")
	// A race is written to a file, wherever the process's output goes; and a
	// process ends without the second that the race detector grants.
	env.Setenv("GORACE", "atexit_sleep_ms=0 log_path="+filepath.Join(top, "race"))
	t := env.T().(testing.TB)
	env.Defer(func() {
		defer os.RemoveAll(top)
		for _, app := range running(dir) {
			if !t.Failed() { // a script that failed had no time to stop them
				t.Errorf("master %d or its workers %v still ran", app.Master.PID, app.Workers)
			}
			kill(app.Master) // first: it would start workers anew
		}
		for _, app := range running(dir) {
			for _, w := range app.Workers {
				kill(w)
			}
		}
		races, _ := filepath.Glob(filepath.Join(top, "race.*"))
		for _, path := range races {
			text, _ := os.ReadFile(path)
			t.Errorf("%s", text)
		}
	})
	return nil
}

// record is a master's note of its processes, NAME.json in the runtime
// directory.
type record struct {
	Master  admin.Process
	Workers []admin.Process
}

// running are the apps of a runtime directory of which some process lives.
func running(dir string) []record {
	var apps []record
	paths, _ := filepath.Glob(filepath.Join(dir, "*.json"))
	for _, path := range paths {
		var r record
		if data, err := os.ReadFile(path); err != nil || json.Unmarshal(data, &r) != nil {
			continue
		}
		if slices.ContainsFunc(append(r.Workers, r.Master), admin.Process.Alive) {
			apps = append(apps, r)
		}
	}
	return apps
}

// kill kills exactly that process, and not a later one of its number.
func kill(p admin.Process) {
	handle, err := os.FindProcess(p.PID) // by pidfd
	if err == nil && p.Alive() {
		_ = handle.Kill()
	}
}

// patience bounds what a script waits for. It is no promise of drover's, but
// what makes a hung one fail: the machine may be busy.
const patience = 60 * time.Second

// trusted is who the certificates of scripts are from.
var trusted = sync.OnceValue(authority.New)

// certificate makes NAME.pem and NAME.key, for hosts, and ca.pem, by which they are
// trusted. Valid for less than no time it has expired.
func certificate(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 3, -1, "certificate NAME VALID HOST...")
	valid, err := time.ParseDuration(args[1])
	ts.Check(err)
	pem, key := trusted().Issue(time.Now().Add(valid), args[2:]...)
	for name, data := range map[string][]byte{args[0] + ".pem": pem, args[0] + ".key": key, "ca.pem": trusted().PEM()} {
		ts.Check(os.WriteFile(ts.MkAbs(name), data, 0o600))
	}
}

// await polls until done says that what it waits for is the case, and fails
// with what it said last.
func await(ts *testscript.TestScript, done func(context.Context) (bool, string)) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, seen := done(ctx)
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			ts.Fatalf("not within %v; seen last: %s", patience, seen)
		}
	}
}

// check fails a command that cannot be negated or has a wrong number of
// arguments.
func check(ts *testscript.TestScript, neg bool, args []string, least, most int, usage string) {
	if neg || len(args) < least || most >= 0 && len(args) > most {
		ts.Fatalf("usage: %s", usage)
	}
}

// status asks the master of a name, or the only one.
func status(ctx context.Context, ts *testscript.TestScript, name string) (admin.Status, error) {
	c, err := admin.Dial(ts.Getenv("DROVER_RUNTIME_DIR"), name)
	if err != nil {
		return admin.Status{}, err
	}
	return c.Status(ctx)
}

// nameOf is the optional app's name at the end of a command.
func nameOf(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

// awaitApp waits until an app runs with one worker in each slot, all ready.
func awaitApp(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 0, 2, "await-app [NAME [WORKERS]]")
	await(ts, func(ctx context.Context) (bool, string) {
		s, err := status(ctx, ts, nameOf(args, 0))
		if err != nil {
			return false, err.Error()
		}
		ready := 0
		for _, w := range s.Workers {
			if w.State == "ready" {
				ready++
			}
		}
		if len(args) > 1 && args[1] != strconv.Itoa(ready) {
			return false, fmt.Sprintf("%+v", s)
		}
		return s.State == "running" && ready == len(s.Slots) && ready == len(s.Workers), fmt.Sprintf("%+v", s)
	})
}

// awaitStatus waits until a line of what `drover status` prints for people
// matches.
func awaitStatus(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, 2, "await-status REGEXP [NAME]")
	line, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	await(ts, func(ctx context.Context) (bool, string) {
		s, err := status(ctx, ts, nameOf(args, 1))
		if err != nil {
			return false, err.Error()
		}
		var text strings.Builder
		ts.Check(printStatus(&text, s, time.Now()))
		return line.MatchString(text.String()), text.String()
	})
}

// awaitLine waits until a line of a file matches.
func awaitLine(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 2, 2, "await-line FILE REGEXP")
	line, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	await(ts, func(context.Context) (bool, string) {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if err != nil {
			return false, err.Error()
		}
		return line.Match(text), string(text)
	})
}

// killWorker kills a slot's worker as an accident would, and waits until the
// slot has another.
func killWorker(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, 2, "kill-worker SLOT [NAME]")
	slot, err := strconv.Atoi(args[0])
	ts.Check(err)
	var victim uint64
	await(ts, func(ctx context.Context) (bool, string) {
		s, err := status(ctx, ts, nameOf(args, 1))
		if err != nil {
			return false, err.Error()
		}
		for _, w := range s.Workers {
			switch {
			case w.Slot != slot || w.State != "ready":
			case victim == 0:
				victim = w.ID + 1 // IDs begin with 0
				ts.Check(syscall.Kill(w.PID, syscall.SIGKILL))
			case w.ID+1 != victim:
				return true, ""
			}
		}
		return false, fmt.Sprintf("%+v", s)
	})
}

// awaitNext waits until the worker that is ready in slot 0 is a later one than that
// of an ID.
func awaitNext(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, 2, "await-next ID [NAME]")
	id, err := strconv.ParseUint(args[0], 10, 64)
	ts.Check(err)
	await(ts, func(ctx context.Context) (bool, string) {
		s, err := status(ctx, ts, nameOf(args, 1))
		if err != nil {
			return false, err.Error()
		}
		return slices.ContainsFunc(s.Workers, func(w admin.Worker) bool { return w.Slot == 0 && w.State == "ready" && w.ID > id }) && len(s.Workers) == 1,
			fmt.Sprintf("%+v", s)
	})
}

// expand puts variables into a file.
func expand(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, 1, "expand FILE")
	path := ts.MkAbs(args[0])
	ts.Check(os.WriteFile(path, []byte(os.Expand(ts.ReadFile(path), ts.Getenv)), 0o644))
}

// signalMaster sends a signal to a master.
func signalMaster(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, 2, "signal HUP|USR1|TTIN|TTOU|TERM|INT|KILL [NAME]")
	number, ok := map[string]syscall.Signal{
		"HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "TTIN": syscall.SIGTTIN, "TTOU": syscall.SIGTTOU,
		"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL,
	}[args[0]]
	if !ok {
		ts.Fatalf("unknown signal %q", args[0])
	}
	s, err := status(context.Background(), ts, nameOf(args, 1))
	ts.Check(err)
	ts.Check(syscall.Kill(s.PID, number))
}

// exits runs a command and checks its exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 2, -1, "exits CODE COMMAND [ARG...]")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// freePort sets variables to ports that nobody listens on. They lie below those
// that the kernel gives to anybody's connections (ip_local_port_range begins at
// 32768), so that they stay free.
func freePort(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, -1, "freeport VAR...")
	for _, name := range args {
		ts.Setenv(name, strconv.Itoa(ports.next(ts)))
	}
}

// ports are those given to any script, each once.
var ports portSet

type portSet struct {
	mu    sync.Mutex // scripts run in parallel
	given map[int]bool
}

func (p *portSet) next(ts *testscript.TestScript) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 1000 {
		port := 12000 + rand.IntN(20000)
		if p.given[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			continue
		}
		l.Close()
		if p.given == nil {
			p.given = map[int]bool{}
		}
		p.given[port] = true
		return port
	}
	ts.Fatalf("no port is free")
	return 0
}

// hold listens on an address until the script's end, as a foreign program.
func hold(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, 1, "hold ADDRESS")
	l, err := net.Listen("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { l.Close() })
}

// client opens a connection for each request, so that no script waits for the
// end of an idle one.
var client = http.Client{Transport: &http.Transport{
	DisableKeepAlives: true,
	DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		d := tls.Dialer{Config: &tls.Config{RootCAs: trusted().Pool()}}
		return d.DialContext(ctx, network, address)
	},
}}

func fetch(ctx context.Context, url string, fields ...string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		req.Header.Add(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func wantedStatus(ts *testscript.TestScript, args []string) int {
	if len(args) < 2 {
		return http.StatusOK
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	return want
}

// get asks for a URL, with fields in its header, checks the status of the answer, 200
// unless told, and prints its body. Negated, it wants no answer at all.
func get(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, false, args, 1, 9, "[!] get URL [STATUS ['NAME: VALUE'...]]")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	code, body, err := fetch(ctx, args[0], args[min(2, len(args)):]...)
	fmt.Fprint(ts.Stdout(), body)
	switch want := wantedStatus(ts, args); {
	case neg && !errors.Is(err, syscall.ECONNREFUSED):
		ts.Fatalf("answered %d, %v: want the connection refused", code, err)
	case neg:
	case err != nil:
		ts.Fatalf("%v", err)
	case code != want:
		ts.Fatalf("answered %d, want %d", code, want)
	}
}

// awaitGet asks for a URL until it is answered with a status and, when one is
// given, a body that holds a text.
func awaitGet(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 2, 3, "await-get URL STATUS [TEXT]")
	want := wantedStatus(ts, args)
	await(ts, func(ctx context.Context) (bool, string) {
		code, body, err := fetch(ctx, args[0])
		return err == nil && code == want && strings.Contains(body, nameOf(args, 2)), fmt.Sprintf("%d %q, %v", code, body, err)
	})
}

// find looks for a path such as workers.0.pid in decoded JSON.
func find(v any, path string) (any, error) {
	for _, key := range strings.Split(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			inner, ok := at[key]
			if !ok {
				return nil, fmt.Errorf("%s: no %q: there are %q", path, key, slices.Sorted(maps.Keys(at)))
			}
			v = inner
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(at) {
				return nil, fmt.Errorf("%s: no element %q: there are %d", path, key, len(at))
			}
			v = at[i]
		default:
			return nil, fmt.Errorf("%s: %v has no %q", path, v, key)
		}
	}
	return v, nil
}

// has checks that a file of JSON, such as stdout, has fields, and those with
// "=TEXT" these values.
func has(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 2, -1, "has FILE PATH[=VALUE]...")
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
	for _, arg := range args[1:] {
		path, want, valued := strings.Cut(arg, "=")
		got, err := find(v, path)
		ts.Check(err)
		if valued && fmt.Sprint(got) != want {
			ts.Fatalf("%s is %v, want %s", path, got, want)
		}
	}
}

// let sets a variable to a field of an app's status.
func let(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 2, 3, "let VAR PATH [NAME]")
	s, err := status(context.Background(), ts, nameOf(args, 2))
	ts.Check(err)
	data, err := json.Marshal(s)
	ts.Check(err)
	var v any
	ts.Check(json.Unmarshal(data, &v))
	got, err := find(v, args[1])
	ts.Check(err)
	if n, ok := got.(float64); ok {
		got = int64(n) // as it is written, not 1e+06
	}
	ts.Setenv(args[0], fmt.Sprint(got))
}

// jsonLines checks that each line of a file is a JSON object.
func jsonLines(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, 1, "json-lines FILE")
	text := strings.TrimSuffix(ts.ReadFile(args[0]), "\n")
	for i, line := range strings.Split(text, "\n") {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			ts.Fatalf("line %d of %s: %v: %s", i+1, args[0], err, line)
		}
	}
}
