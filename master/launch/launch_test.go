package launch

import (
	"encoding/json"
	"fmt"
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
	"time"

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
	case "attributes":
		for _, file := range []string{"status", "limits", "oom_score_adj"} {
			text, err := os.ReadFile("/proc/self/" + file)
			if err != nil {
				panic(err)
			}
			os.Stdout.Write(text)
		}
		fmt.Println("HOME=" + os.Getenv("HOME"))
		opened, err := os.OpenFile("/dev/stdout", os.O_WRONLY, 0)
		if err != nil {
			panic(err)
		}
		opened.WriteString("opened\n")
	case "unprivileged":
		unprivileged()
	case "orphan":
		orphan()
	case "first":
		first()
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
	if uid := p.Owner(); uid >= 0 { // as the master does
		if err := w.Chown(uid, -1); err != nil {
			t.Fatal(err)
		}
	}
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

// orphan leaves a hundred processes behind that end soon, in sessions of their own.
func orphan() {
	for range 100 {
		child := exec.Command("sleep", "0.1")
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			panic(err)
		}
	}
	os.Exit(7)
}

// first is PID 1 of a namespace: it starts and awaits forty children, while another
// leaves a hundred orphans behind. It exits with 0 when each wait was right, and no
// orphan is left, neither alive nor as a zombie.
func first() {
	fail := func(format string, args ...any) {
		fmt.Printf(format+"\n", args...)
		os.Exit(1)
	}
	if os.Getpid() != 1 {
		fail("this is process %d, not the first", os.Getpid())
	}
	stop := ReapOrphans(func(err error) { fail("%v", err) })
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		fail("%v", err)
	}
	start := func(role string) *Process {
		path, _ := os.Executable()
		p, err := Pin(path, []string{role}, os.Environ(), "/")
		if err != nil {
			fail("%v", err)
		}
		p.SetEnv(map[string]string{"TEST_ROLE": role})
		defer p.Close()
		process, err := Launch(Start{Program: p, Channel: int(null.Fd()), Stdout: 1, Stderr: 2})
		if err != nil {
			fail("%v", err)
		}
		return process
	}
	exits := make(chan sys.Exit)
	const all = 41
	go func() {
		for n := range all {
			role := "exit"
			if n == all/2 {
				role = "orphan"
			}
			process := start(role)
			go func() {
				exit, err := process.Wait()
				if err != nil {
					fail("%v", err)
				}
				exits <- exit
			}()
		}
	}()
	for range all {
		if exit := <-exits; exit.Code != 7 || exit.Signal != 0 {
			fail("a wait was answered %+v", exit)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		left, _ := filepath.Glob("/proc/[0-9]*/stat")
		if len(left) == 1 { // ours
			break
		}
		if time.Now().After(deadline) {
			fail("%d processes are left: %q", len(left)-1, left)
		}
	}
	stop()
	os.Exit(0)
}

func TestFirstProcessCollectsOrphans(t *testing.T) {
	unshare := []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}
	if os.Getuid() != 0 {
		unshare = append(unshare, "--map-root-user")
	}
	if out, err := exec.Command(unshare[0], append(unshare[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("no PID namespace: %v: %s", err, out)
	}
	cmd := exec.Command(unshare[0], append(unshare[1:], self(t))...)
	cmd.Env = append(os.Environ(), "TEST_ROLE=first")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
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

// A Go program with drover in it is known by what the linker wrote; no other is.
func TestOnDrover(t *testing.T) {
	script := filepath.Join(t.TempDir(), "app.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{self(t): true, "/bin/sh": false, goTool: false, script: false} {
		if got := program(t, path, "").OnDrover(); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	// By the pinned file, not by what is at its path now.
	path := filepath.Join(t.TempDir(), "app")
	copyFile(t, self(t), path)
	p := program(t, path, "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if !p.OnDrover() {
		t.Error("it looked at the path")
	}
}

// A process's family is what may speak for it.
func TestHas(t *testing.T) {
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
	for pid, want := range map[int]bool{process.PID: true, child: true, os.Getpid(): false, 1: false, 0: false, 1 << 30: false} {
		if got := process.Has(pid); got != want {
			t.Errorf("pid %d: %v, want %v", pid, got, want)
		}
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := process.Wait(); err != nil {
		t.Fatal(err)
	}
	if process.Has(process.PID) {
		t.Error("it has ended, and speaks")
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

func TestKeepMonitorAwake(t *testing.T) {
	for env, want := range map[string]string{
		"":                               "GODEBUG=schedtrace=2147483647",
		"GODEBUG=":                       "GODEBUG=schedtrace=2147483647",
		"GODEBUG=madvdontneed=1":         "GODEBUG=madvdontneed=1,schedtrace=2147483647",
		"GODEBUG=schedtrace=1000":        "GODEBUG=schedtrace=1000",
		"GODEBUG=gctrace=0,schedtrace=5": "GODEBUG=gctrace=0,schedtrace=5",
	} {
		p := &Program{Env: []string{"A=b", env}}
		p.KeepMonitorAwake()
		got := slices.DeleteFunc(slices.Clone(p.Env), func(kv string) bool { return !strings.HasPrefix(kv, "GODEBUG=") })
		if !slices.Equal(got, []string{want}) {
			t.Errorf("%q becomes %q, want %q", env, got, want)
		}
	}
}
