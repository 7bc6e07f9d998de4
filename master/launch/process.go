package launch

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"drover/internal/sys"
	"drover/ipc"
)

// Start is one process to be started. All descriptors stay the caller's and
// keep their blocking mode; the process gets its own numbers for them.
type Start struct {
	Program   *Program
	Listeners []Listener // become 3, 4, …
	Channel   int        // the worker's end, after the listeners
	Stdout    int
	Stderr    int
}

// Listener is a listening socket and the name that the worker finds it by.
type Listener struct {
	Name string
	FD   int
}

// Process is a started process. Its Wait must be called exactly once.
type Process struct {
	PID int

	pidfd *os.File // becomes readable when the process has ended

	mu   sync.Mutex // orders signals before the collecting of the pid: after it the number may be another's
	gone bool
}

// Launch starts a process that leads its own process group. It blocks until the
// stage runs, a millisecond or so. That the program itself cannot be executed
// shows as exit status 127, with the reason on its stderr.
func Launch(s Start) (*Process, error) {
	null, err := sys.Null()
	if err != nil {
		return nil, err
	}
	defer sys.Close(null)

	files := []int{null, s.Stdout, s.Stderr}
	names := make([]string, len(s.Listeners))
	for i, l := range s.Listeners {
		files = append(files, l.FD)
		names[i] = url.QueryEscape(l.Name)
	}
	var set []string
	if len(names) > 0 {
		set = append(set, ipc.EnvListenFDs+"="+strconv.Itoa(len(names)), ipc.EnvListenNames+"="+strings.Join(names, ":"))
	}
	set = append(set, ipc.EnvChannel+"="+strconv.Itoa(len(files)))
	files = append(files, s.Channel)

	order := order{Path: s.Program.Path, Exec: -1, Dir: len(files)}
	files = append(files, s.Program.dir)
	if s.Program.Pinned() {
		order.Exec = len(files)
		files = append(files, s.Program.exec)
	}
	text, err := json.Marshal(order)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Program.Path, err)
	}
	pid, pidfd, err := sys.Spawn(sys.SpawnAttr{
		Path:  "/proc/self/exe",
		Argv:  append([]string{stageName, string(text)}, s.Program.Argv...),
		Env:   s.Program.environ(set...),
		Files: files,
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Program.Path, err)
	}
	return &Process{PID: pid, pidfd: os.NewFile(uintptr(pidfd), "pidfd")}, nil
}

// Wait blocks until the process has ended, kills what is left of its group, and
// collects it. It holds no thread while it waits.
func (p *Process) Wait() (sys.Exit, error) {
	defer p.pidfd.Close()
	if err := sys.AwaitReadable(p.pidfd); err != nil {
		return sys.Exit{}, fmt.Errorf("wait for process %d: %w", p.PID, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	// The ended leader still holds its number, so this reaches its own group
	// only; ESRCH and EPERM say that nobody is left in it.
	_ = sys.KillGroup(p.PID, syscall.SIGKILL)
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return sys.Exit{}, fmt.Errorf("wait for process %d: %w", p.PID, err)
	}
	var exit sys.Exit
	var waitErr error
	if err := raw.Control(func(fd uintptr) { exit, waitErr = sys.Wait(int(fd)) }); err != nil {
		return sys.Exit{}, fmt.Errorf("wait for process %d: %w", p.PID, err)
	}
	if waitErr != nil {
		return sys.Exit{}, fmt.Errorf("wait for process %d: %w", p.PID, waitErr)
	}
	return exit, nil
}

// Kill kills the process and all of its group. After its end it does nothing.
func (p *Process) Kill() error { return p.Signal(syscall.SIGKILL) }

// Signal sends a signal to the process and all of its group. After its end it
// does nothing.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil
	}
	if err := sys.KillGroup(p.PID, sig); err != nil {
		return fmt.Errorf("signal the group of process %d: %w", p.PID, err)
	}
	return nil
}
