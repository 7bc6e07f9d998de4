package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"drover/internal/sys"
	"drover/ipc"
)

// RuntimeDir is the directory of the control sockets: $DROVER_RUNTIME_DIR, else
// /run/drover for root, else $XDG_RUNTIME_DIR/drover, else a directory of this
// user's in the system's temporary one.
func RuntimeDir() string {
	if dir := os.Getenv(ipc.EnvRuntimeDir); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/run/drover"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "drover")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("drover-%d", os.Geteuid()))
}

// Instance is a master's claim on a name: NAME.lock, held while it lives,
// NAME.sock, its control socket, and NAME.json, which tells a successor the
// workers that a killed master left behind.
type Instance struct {
	Name    string
	Orphans []Process // living workers of a master of this name that is dead

	dir  string
	lock *os.File
}

// Process names a process for ever: a pid alone may become another's.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot (proc(5), stat field 22)
}

// record is what NAME.json holds.
type record struct {
	Master  Process   `json:"master"`
	Workers []Process `json:"workers"`
}

// TakenError says that a living master has the name.
type TakenError struct {
	Name string
	PID  int // 0 where it cannot be read
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("the name %q is taken by a running drover (pid %d): give another with --name, or stop it with `drover stop --name %s`", e.Name, e.PID, e.Name)
}

// Claim takes a name in the runtime directory dir, which it makes, with mode
// 0700. With fixed the name is taken as it is or not at all, with a TakenError;
// else NAME-2, NAME-3, … are tried while living masters have the others.
// Release gives it back.
func Claim(dir, name string, fixed bool) (*Instance, error) {
	// A socket's path has 108 bytes with its final zero (unix(7)).
	if longest := filepath.Join(dir, name+"-1000.sock"); len(longest) > 107 {
		return nil, fmt.Errorf("the control socket's path %s has %d bytes: at most 107 fit (set %s to a shorter directory, or --name)", longest, len(longest), ipc.EnvRuntimeDir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the runtime directory: %w (set %s to another)", err, ipc.EnvRuntimeDir)
	}
	try := name
	for n := 2; ; n++ {
		inst, err := claim(dir, try)
		var taken *TakenError
		if err == nil || fixed || !errors.As(err, &taken) || n > 1000 {
			return inst, err
		}
		try = name + "-" + strconv.Itoa(n)
	}
}

func claim(dir, name string) (*Instance, error) {
	i := &Instance{Name: name, dir: dir}
	lock, err := os.OpenFile(i.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim the name %q: %w (set %s to a directory of your own)", name, err, ipc.EnvRuntimeDir)
	}
	got, err := sys.Flock(lock)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("claim the name %q: %w", name, err)
	}
	old, readErr := readRecord(i.path("json"))
	if !got {
		lock.Close()
		return nil, &TakenError{Name: name, PID: old.Master.PID}
	}
	i.lock = lock
	if readErr == nil {
		for _, w := range old.Workers {
			if w.Alive() {
				i.Orphans = append(i.Orphans, w)
			}
		}
	}
	// A socket that a killed master left: nobody else has the lock.
	if err := os.Remove(i.path("sock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		i.Release()
		return nil, fmt.Errorf("claim the name %q: %w", name, err)
	}
	return i, nil
}

func (i *Instance) path(kind string) string { return filepath.Join(i.dir, i.Name+"."+kind) }

// Listen opens the control socket, mode 0600. The caller closes it.
func (i *Instance) Listen() (net.Listener, error) {
	// Bound under another name and moved into place: with mode 0600 from its
	// first moment on, and never there without accepting.
	path := i.path("sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path + ".new", Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(path+".new", 0o600), os.Rename(path+".new", path)); err != nil {
		l.Close()
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	return l, nil
}

// Record writes down the master and its workers, for a successor to find
// should the master be killed.
func (i *Instance) Record(workers []int) error {
	r := record{Master: identify(os.Getpid())}
	for _, pid := range workers {
		if p := identify(pid); p.Start != 0 {
			r.Workers = append(r.Workers, p)
		}
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := i.path("json")
	if err := errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path)); err != nil {
		return fmt.Errorf("record the workers of %q: %w", i.Name, err)
	}
	return nil
}

// Release removes the instance's files and gives the name back. The empty lock
// file stays: removed, it could be locked by one newcomer while the next makes
// another of the same name.
func (i *Instance) Release() {
	for _, kind := range []string{"sock", "json"} {
		_ = os.Remove(i.path(kind))
	}
	i.lock.Close()
}

func readRecord(path string) (record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return record{}, err
	}
	var r record
	err = json.Unmarshal(data, &r)
	return r, err
}

// Alive reports whether exactly that process still runs.
func (p Process) Alive() bool {
	return p.Start != 0 && identify(p.PID) == p
}

// identify finds a process's start time, 0 when there is no such process or it
// has ended and was not collected.
func identify(pid int) Process {
	p := Process{PID: pid}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p
	}
	// pid (comm) state ppid …: comm may hold blanks and parentheses.
	text := string(stat)
	field := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	if len(field) < 20 || field[0] == "Z" {
		return p
	}
	p.Start, _ = strconv.ParseUint(field[19], 10, 64)
	return p
}

// Names are the apps whose masters live in the runtime directory dir, sorted.
func Names(dir string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.sock"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, path := range paths {
		// A socket without a listener is a dead master's.
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			names = append(names, strings.TrimSuffix(filepath.Base(path), ".sock"))
		}
	}
	return names, nil
}

// NameOf is the name of the app in the runtime directory dir whose master or
// worker pid is, or "" when it is none's.
func NameOf(dir string, pid int) string {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return ""
	}
	who := identify(pid)
	for _, path := range paths {
		r, err := readRecord(path)
		if err == nil && (r.Master == who || slices.Contains(r.Workers, who)) {
			return strings.TrimSuffix(filepath.Base(path), ".json")
		}
	}
	return ""
}
