// Package launch starts worker processes and is the only one that waits for
// them. It starts what it is told, when it is told: when and what is the
// master's business.
//
// A process is started through a stage: this same executable under another
// argv[0], which prepares itself in the child and then executes the program.
package launch

import (
	"debug/buildinfo"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"drover/internal/sys"
	"drover/ipc"
)

// Program is what a generation runs, pinned: its executable and its working
// directory are held open, so that each start runs the very same file, whatever
// has been deployed over its path since.
type Program struct {
	Path string   // absolute, symlinks kept
	Argv []string // with argv[0]
	Env  []string
	Dir  string // absolute, symlinks kept

	// Foreign says that it is not built on drover, as far as anyone knows: it takes
	// its sockets by LISTEN_FDS, and says nothing by the channel.
	Foreign bool
	// Node says that it is Node.js, which runs Script: a worker of Node's cluster.
	Node   bool
	Script string

	drainHeader bool // a module of ours is loaded before the script

	attributes Attributes

	exec int // O_PATH descriptor of Path; -1 for a script
	dir  int // O_PATH descriptor of Dir
}

// Pin opens the program at path, an absolute one, with dir as its working
// directory, also absolute. A script cannot be pinned, since its interpreter
// opens it by its path again; Pinned tells. The caller closes the Program when
// no life will be started from it any more.
func Pin(path string, argv, env []string, dir string) (*Program, error) {
	p := &Program{Path: path, Argv: argv, Env: env, Dir: dir, exec: -1, dir: -1}
	script, err := isScript(path)
	if err != nil {
		return nil, fmt.Errorf("program: %w", err)
	}
	if p.dir, err = sys.OpenPath(dir); err != nil {
		return nil, fmt.Errorf("working directory: %w", err)
	}
	if !script {
		if p.exec, err = sys.OpenPath(path); err != nil {
			p.Close()
			return nil, fmt.Errorf("program: %w", err)
		}
	}
	return p, nil
}

// Pinned reports whether every start runs the same file; false for a script.
func (p *Program) Pinned() bool { return p.exec >= 0 }

// OnDrover reports whether the program is a Go one with drover in it, by what the
// linker wrote into the pinned file (package debug/buildinfo). It is false of
// scripts and others that may become such a program, and where the file cannot be
// read.
func (p *Program) OnDrover() bool {
	if !p.Pinned() {
		return false
	}
	info, err := buildinfo.ReadFile(fdPath(p.exec))
	if err != nil {
		return false
	}
	is := func(m *debug.Module) bool { return m.Path == module }
	return is(&info.Main) || slices.ContainsFunc(info.Deps, is)
}

// module is the path of drover's module.
const module = "drover"

// Close gives the held files back. Lives that run are not touched.
func (p *Program) Close() {
	for _, fd := range []int{p.exec, p.dir} {
		if fd >= 0 {
			sys.Close(fd)
		}
	}
	p.exec, p.dir = -1, -1
}

// isScript reports whether the executable file at path begins with "#!"
// (execve(2)). It refuses what cannot be executed at all.
func isScript(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return false, fmt.Errorf("%s is not executable: want a program, or a script with mode +x", path)
	}
	f, err := os.Open(path)
	if err != nil {
		if os.IsPermission(err) {
			return false, nil // may be executed though not read: no script could
		}
		return false, err
	}
	defer f.Close()
	head := make([]byte, 2)
	_, err = io.ReadFull(f, head)
	return err == nil && string(head) == "#!", nil
}

// Resolve makes a program's name as it was typed absolute: a name without a
// slash is looked for in PATH, a relative path is joined to dir. Symlinks are
// kept, so that a reload follows one that was moved.
func Resolve(name, dir string) (string, error) {
	if !strings.Contains(name, "/") {
		found, err := exec.LookPath(name)
		if err != nil {
			return "", fmt.Errorf("find program %q in PATH: %w", name, err)
		}
		name = found
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	return name, nil
}

// Self is the path of the program that this process runs, by the name it was
// started with, so that a deploy over that path is found; and the working
// directory, with the symlinks by which it was entered where PWD tells them.
func Self() (path, dir string, err error) {
	if dir, err = os.Getwd(); err != nil {
		return "", "", fmt.Errorf("find the working directory: %w", err)
	}
	if path, err = Resolve(os.Args[0], dir); err == nil && sameAsSelf(path) {
		return path, dir, nil
	}
	// argv[0] names something else, or nothing: take the kernel's word.
	path, err = os.Executable()
	return path, dir, err
}

func sameAsSelf(path string) bool {
	a, errA := os.Stat(path)
	b, errB := os.Stat("/proc/self/exe")
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// SetEnv sets variables over those that are there.
func (p *Program) SetEnv(vars map[string]string) {
	p.Env = slices.DeleteFunc(slices.Clone(p.Env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		_, over := vars[name]
		return over
	})
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		p.Env = append(p.Env, name+"="+vars[name])
	}
}

// SetAttributes has the program run with attributes. Of a user it also sets HOME,
// USER and LOGNAME, which SetEnv may set otherwise later.
func (p *Program) SetAttributes(a Attributes) {
	p.attributes = a
	if a.env != nil {
		p.SetEnv(a.env)
	}
}

// Owner is the user that the program runs as, or -1 where that is not changed.
func (p *Program) Owner() int {
	if p.attributes.As == nil {
		return -1
	}
	return p.attributes.As.UID
}

// ShareMemory sets GOMEMLIMIT, where the environment does not set it, to an
// equal share for each worker of nine tenths of limit, in bytes. A limit of 0
// is none.
func (p *Program) ShareMemory(limit int64, workers int) {
	for _, kv := range p.Env {
		if strings.HasPrefix(kv, "GOMEMLIMIT=") {
			return
		}
	}
	if limit > 0 {
		p.Env = append(p.Env, fmt.Sprintf("GOMEMLIMIT=%d", limit/10*9/int64(workers)))
	}
}

// KeepMonitorAwake adds ipc.SchedTrace to GODEBUG, unless the environment has a
// schedtrace of its own.
func (p *Program) KeepMonitorAwake() {
	for i, kv := range p.Env {
		settings, is := strings.CutPrefix(kv, ipc.EnvGodebug+"=")
		switch {
		case !is:
			continue
		case strings.Contains(settings, "schedtrace="):
			return
		case settings != "":
			p.Env = slices.Clone(p.Env)
			p.Env[i] += "," + ipc.SchedTrace
			return
		}
	}
	p.SetEnv(map[string]string{ipc.EnvGodebug: ipc.SchedTrace})
}

// own names the variables that belong to the master and never reach a worker:
// a service manager's (sd_notify(3), sd_listen_fds(3)), drover's channel, and that
// of a Node program which has started drover.
func own(name string) bool {
	switch name {
	case "NOTIFY_SOCKET", "DROVER_CHANNEL", "PWD", "NODE_CHANNEL_FD", "NODE_CHANNEL_SERIALIZATION_MODE", "NODE_UNIQUE_ID":
		return true
	}
	return strings.HasPrefix(name, "LISTEN_") || strings.HasPrefix(name, "WATCHDOG_")
}

// environ is a worker's environment: the program's, without what is the
// master's own, and what set adds, or sets instead.
func (p *Program) environ(set ...string) []string {
	over := map[string]bool{}
	for _, kv := range set {
		name, _, _ := strings.Cut(kv, "=")
		over[name] = true
	}
	env := make([]string, 0, len(p.Env)+len(set)+1)
	for _, kv := range p.Env {
		if name, _, _ := strings.Cut(kv, "="); !own(name) && !over[name] {
			env = append(env, kv)
		}
	}
	env = append(env, "PWD="+p.Dir)
	return append(env, set...)
}

// fdPath is a path that opens the same file as descriptor fd of the process
// that uses it (proc(5)).
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
