package launch

import (
	"cmp"
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
	Told      string     // the variable that tells the channel's number; empty: ipc.EnvChannel
	Argv      []string   // in place of the program's; nil is that
	Env       []string   // NAME=value, over the program's
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

	staged *os.File // nil, or ends when the stage does
	pidfd  *os.File // becomes readable when the process has ended

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
	argv := s.Argv
	if argv == nil {
		argv = s.Program.Argv
	}
	var set []string
	if len(names) > 0 {
		set = append(set, ipc.EnvListenFDs+"="+strconv.Itoa(len(names)), ipc.EnvListenNames+"="+strings.Join(names, ":"))
	}
	set = append(set, s.Env...)
	set = append(set, cmp.Or(s.Told, ipc.EnvChannel)+"="+strconv.Itoa(len(files)))
	files = append(files, s.Channel)

	order := order{Path: s.Program.Path, Exec: -1, Staged: -1, Dir: len(files), Attributes: s.Program.attributes}
	files = append(files, s.Program.dir)
	if s.Program.Pinned() {
		order.Exec = len(files)
		files = append(files, s.Program.exec)
	}
	var staged *os.File
	if s.Program.Foreign {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", s.Program.Path, err)
		}
		defer w.Close()
		staged, order.Staged = r, len(files)
		files = append(files, int(w.Fd()))
	}
	text, err := json.Marshal(order)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Program.Path, err)
	}
	children.Lock()
	defer children.Unlock()
	pid, pidfd, err := sys.Spawn(sys.SpawnAttr{
		Path:  "/proc/self/exe",
		Argv:  append([]string{stageName, string(text)}, argv...),
		Env:   s.Program.environ(set...),
		Files: files,
	})
	if err != nil {
		if staged != nil {
			staged.Close()
		}
		return nil, fmt.Errorf("start %s: %w", s.Program.Path, err)
	}
	waited[pid] = true
	return &Process{PID: pid, staged: staged, pidfd: os.NewFile(uintptr(pidfd), "pidfd")}, nil
}

// AwaitExec blocks until a foreign program has taken over from the stage, or the
// process has ended. It must be called exactly once. Of a program on drover it
// returns at once.
func (p *Process) AwaitExec() {
	if p.staged == nil {
		return
	}
	defer p.staged.Close()
	_, _ = p.staged.Read(make([]byte, 1)) // nobody writes: this is its end
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
	children.Lock()
	defer children.Unlock()
	defer lookAgain() // what ended beside it
	delete(waited, p.PID)
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

// Has reports whether pid is the process, one of its group, or one that descends
// from it, and lives.
func (p *Process) Has(pid int) bool {
	for range 64 { // a chain of parents has an end, but changes while it is read
		parent, group := sys.Family(pid)
		if group == p.PID {
			return true
		}
		if pid = parent; pid <= 1 {
			return false
		}
	}
	return false
}

// Kill kills the process and all of its group. After its end it does nothing.
func (p *Process) Kill() error { return p.Signal(syscall.SIGKILL) }

// Dump asks the process to print its goroutines and to exit (SIGQUIT, package
// runtime), also when it was stopped. After its end it does nothing.
func (p *Process) Dump() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("ask process %d for its goroutines: %w", p.PID, err)
	}
	var sigErr error
	if err := raw.Control(func(fd uintptr) { sigErr = sys.PidfdSignal(int(fd), syscall.SIGQUIT) }); err != nil {
		sigErr = err
	}
	if sigErr != nil {
		return fmt.Errorf("ask process %d for its goroutines: %w", p.PID, sigErr)
	}
	return sys.KillGroup(p.PID, syscall.SIGCONT)
}

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
