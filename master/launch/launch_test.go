package launch

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"drover/internal/sys"
	"drover/ipc"

	"go.uber.org/goleak"
)

// The test binary is also the program that is launched: TEST_ROLE says which.
func TestMain(m *testing.M) {
	switch os.Getenv("TEST_ROLE") {
	case "":
		goleak.VerifyTestMain(m)
	case "report":
		report()
	case "wait": // until stdin, or here the inherited pipe, ends: for ever
		select {}
	case "fork":
		child := exec.Command("sleep", "1000")
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			panic(err)
		}
		os.Stdout.WriteString(strconv.Itoa(child.Process.Pid) + "\n")
		select {}
	case "exit":
		os.Exit(7)
	}
}

// seen is what a launched process finds.
type seen struct {
	Args        []string
	Env         []string
	Dir         string
	Descriptors map[string]string
	PID, PGID   int
	Ignored     string
}

func report() {
	s := seen{Args: os.Args, Env: os.Environ(), Descriptors: map[string]string{}, PID: os.Getpid(), PGID: syscall.Getpgrp()}
	s.Dir, _ = os.Getwd()
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && !strings.Contains(target, "eventpoll") && !strings.Contains(target, "eventfd") && !strings.HasPrefix(target, "/proc") && !strings.HasPrefix(target, "/sys/fs/cgroup") { // these are the Go runtime's own
			s.Descriptors[filepath.Base(l)] = target
		}
	}
	json.NewEncoder(os.Stdout).Encode(s)
}

// launch starts the test binary in a role and returns what it prints.
func launch(t *testing.T, p *Program, listeners ...Listener) (*Process, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	conn, channel, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); conn.Close() })
	defer w.Close()
	defer sys.Close(channel)
	process, err := Launch(Start{Program: p, Listeners: listeners, Channel: channel, Stdout: int(w.Fd()), Stderr: int(w.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	return process, r
}

func program(t *testing.T, path, role string, env ...string) *Program {
	t.Helper()
	env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "TEST_ROLE=") }), env...)
	p, err := Pin(path, []string{"the-name", "arg"}, append(env, "TEST_ROLE="+role), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProcessFindsExactlyWhatItWasGiven(t *testing.T) {
	// What a careless parent left open must not reach a worker.
	leak, err := syscall.Open("/dev/zero", syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := sys.CloexecFrom(3); err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(leak)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, _ := l.(*net.TCPListener).SyscallConn()
	fd := -1
	raw.Control(func(n uintptr) { fd = int(n) })

	p := program(t, self(t), "report", "NOTIFY_SOCKET=/run/x", "WATCHDOG_USEC=1", "LISTEN_FDS=9", "LISTEN_PID=1", "KEEP=me")
	process, out := launch(t, p, Listener{"web:80", fd}, Listener{"admin", fd})
	var s seen
	if err := json.NewDecoder(out).Decode(&s); err != nil {
		t.Fatal(err)
	}
	if exit, err := process.Wait(); err != nil || exit != (sys.Exit{}) {
		t.Errorf("Wait = %+v, %v", exit, err)
	}
	if want := []string{"the-name", "arg"}; !slices.Equal(s.Args, want) {
		t.Errorf("arguments %q, want %q", s.Args, want)
	}
	if s.Dir != p.Dir {
		t.Errorf("it runs in %s, want %s", s.Dir, p.Dir)
	}
	if s.PGID != s.PID || s.PID != process.PID {
		t.Errorf("pid %d, group %d: want both %d", s.PID, s.PGID, process.PID)
	}
	for _, want := range []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=web%3A80:admin", "LISTEN_PID=" + strconv.Itoa(s.PID), "DROVER_CHANNEL=5", "KEEP=me", "PWD=" + p.Dir} {
		if !slices.Contains(s.Env, want) {
			t.Errorf("the environment lacks %s", want)
		}
	}
	for _, kv := range s.Env {
		if strings.HasPrefix(kv, "NOTIFY_SOCKET=") || strings.HasPrefix(kv, "WATCHDOG_") || kv == "LISTEN_FDS=9" {
			t.Errorf("the master's own %s reached the worker", kv)
		}
	}
	var numbers []string
	for n := range s.Descriptors {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	if want := []string{"0", "1", "2", "3", "4", "5"}; !slices.Equal(numbers, want) {
		t.Errorf("descriptors %v, want exactly %v", s.Descriptors, want)
	}
	if s.Descriptors["0"] != "/dev/null" {
		t.Errorf("stdin is %s", s.Descriptors["0"])
	}
	// The shared socket's mode is as it was: blocking would hang the others.
	if info, _ := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd)); !strings.Contains(string(info), "flags:\t02004002") {
		t.Errorf("the listener's mode changed:\n%s", info)
	}
}

func TestPinnedProgramOutlivesADeploy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "app")
	copyFile(t, self(t), path)
	p := program(t, path, "report")
	// The deploy: another file is moved over the path.
	broken := filepath.Join(dir, "app.new")
	if err := os.WriteFile(broken, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(broken, path); err != nil {
		t.Fatal(err)
	}
	process, out := launch(t, p)
	var s seen
	if err := json.NewDecoder(out).Decode(&s); err != nil {
		t.Errorf("the old program did not run: %v", err)
	}
	if exit, err := process.Wait(); err != nil || exit != (sys.Exit{}) {
		t.Errorf("Wait = %+v, %v", exit, err)
	}
	// Control: pinned after it, the new one is run, which cannot be executed.
	p = program(t, path, "report")
	process, out = launch(t, p)
	text, _ := io.ReadAll(out)
	if exit, _ := process.Wait(); exit.Code != 127 || !strings.Contains(string(text), "execute "+path+": ") {
		t.Errorf("the new one: %+v, %q; want exit 127 and the reason", exit, text)
	}
}

func TestScriptRunsUnpinned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho script $1; exit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := program(t, path, "")
	if p.Pinned() {
		t.Error("a script is said to be pinned")
	}
	process, out := launch(t, p)
	text, _ := io.ReadAll(out)
	if exit, _ := process.Wait(); exit.Code != 3 || string(text) != "script arg\n" {
		t.Errorf("%+v, %q", exit, text)
	}
}

func TestExitTellsCodeAndSignal(t *testing.T) {
	process, _ := launch(t, program(t, self(t), "exit"))
	if exit, err := process.Wait(); err != nil || exit.Code != 7 || exit.Signal != 0 {
		t.Errorf("exit 7: %+v, %v", exit, err)
	}
	process, _ = launch(t, program(t, self(t), "wait"))
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	if exit, err := process.Wait(); err != nil || exit.Signal != int(syscall.SIGKILL) {
		t.Errorf("killed: %+v, %v", exit, err)
	}
	if err := process.Kill(); err != nil {
		t.Errorf("a kill after the end: %v, want nothing to happen", err)
	}
}

func TestKillReachesWhatTheProcessForked(t *testing.T) {
	process, out := launch(t, program(t, self(t), "fork"))
	line := make([]byte, 32)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := sys.PidfdOpen(child)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	// Only the leader: what is left of its group goes when it is collected.
	if err := syscall.Kill(process.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := process.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := sys.AwaitReadable(f); err != nil {
		t.Error(err)
	}
}

func TestOneHundredAtOnceAreEachCollected(t *testing.T) {
	p := program(t, self(t), "exit")
	exits := make(chan sys.Exit)
	for range 100 {
		process, _ := launch(t, p)
		go func() {
			exit, err := process.Wait()
			if err != nil {
				t.Error(err)
			}
			exits <- exit
		}()
	}
	for range 100 {
		if exit := <-exits; exit.Code != 7 {
			t.Errorf("%+v", exit)
		}
	}
}

func TestPinErrorsSayWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file",
		plain:                      "not executable",
		dir:                        "not executable",
	} {
		if _, err := Pin(path, nil, nil, dir); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("Pin(%s): %v, want %q", path, err, want)
		}
	}
	if _, err := Pin(self(t), nil, nil, filepath.Join(dir, "gone")); err == nil || !strings.Contains(err.Error(), "working directory") {
		t.Errorf("Pin in a directory that is not there: %v", err)
	}
}

func TestResolve(t *testing.T) {
	if got, err := Resolve("./app", "/srv/current"); got != "/srv/current/app" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := Resolve("sh", "/"); !filepath.IsAbs(got) || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := Resolve("no-such-program", "/"); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Error(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
}
