package launch

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"drover/config"
)

// ForNode reports whether what was typed is for Node.js: node itself, a script by
// its name, or one whose first line says so. A name without a slash is looked for
// in PATH, unless it is a script's.
func ForNode(name, dir string) bool {
	if isNode(name) || isScriptName(name) {
		return true
	}
	path, err := Resolve(name, dir)
	if err != nil {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	line, err := bufio.NewReaderSize(f, 256).ReadSlice('\n') // longer than the kernel's own bound (execve(2)) is none
	if err != nil {
		return false
	}
	words, is := strings.CutPrefix(string(line), "#!")
	return is && slices.ContainsFunc(strings.Fields(words), isNode)
}

func isNode(name string) bool {
	base := filepath.Base(name)
	return base == "node" || base == "nodejs"
}

func isScriptName(name string) bool {
	return slices.Contains([]string{".js", ".mjs", ".cjs", ".ts", ".mts", ".cts"}, filepath.Ext(name))
}

// NodeScript is the script of what was typed for Node, and where its arguments
// begin; empty where node is given no script.
func NodeScript(run []string) (script string, at int) {
	if !isNode(run[0]) {
		return run[0], 0
	}
	for i := 1; i < len(run); i++ {
		switch arg := run[i]; {
		case slices.Contains([]string{"-e", "--eval", "-p", "-pe", "--print", "-i", "--interactive"}, arg):
			return "", len(run)
		case slices.Contains([]string{"-r", "--require", "--import", "--loader", "--experimental-loader", "-C", "--conditions"}, arg):
			i++ // its value
		case !strings.HasPrefix(arg, "-"):
			return arg, i
		}
	}
	return "", len(run)
}

// drain is the module of config.Node's DrainHeader.
//
//go:embed drain.mjs
var drain []byte

// drainModule is where node finds it: in its own name, since a file of drover's may
// be closed to the worker's user.
var drainModule = "data:text/javascript;base64," + base64.StdEncoding.EncodeToString(drain)

// PinNode is Pin for a program that Node.js runs: node itself is pinned, by the
// name that was typed or as PATH has it. Its script cannot be, since node opens it
// by its path.
func PinNode(c config.Node, run, env []string, dir string) (*Program, error) {
	script, at := NodeScript(run)
	if script == "" {
		return nil, fmt.Errorf("%s without a script: Node makes no cluster worker of -e and the like: give a file", strings.Join(run, " "))
	}
	node, args := "node", run
	if at > 0 {
		node, args = run[0], run[1:]
	} else {
		path := filepath.Join(dir, script)
		switch {
		case filepath.IsAbs(script):
			path = script
		case !strings.Contains(script, "/") && !isScriptName(script):
			if found, err := exec.LookPath(script); err == nil && !exists(path) {
				path = found
			}
		}
		if !exists(path) {
			return nil, fmt.Errorf("script: %s is not there", path)
		}
		script, args = path, append([]string{path}, run[1:]...)
	}
	path, err := Resolve(node, dir)
	if err != nil {
		return nil, fmt.Errorf("%w: install Node.js, or say where it is: drover run /PATH/node %s", err, script)
	}
	p, err := Pin(path, append(append([]string{"node"}, c.Args...), args...), env, dir)
	if err != nil {
		return nil, err
	}
	p.Node, p.Script, p.drainHeader = true, script, c.DrainHeader
	if c.DrainHeader {
		p.Argv = slices.Insert(p.Argv, 1, "--import", drainModule)
	}
	return p, nil
}

// Inspected is the argv for a worker in a slot: where node is asked to listen for a
// debugger, by its flags or NODE_OPTIONS, each worker gets a port of its own, the one
// that was asked for and its slot on top (nodejs.org/api/cli.html, --inspect-port). One
// that somebody has, such as the predecessor that still drains, is left to the kernel
// to choose, and node prints which it is.
func (p *Program) Inspected(slot int) []string {
	host, port, asked := p.inspector()
	if !asked || port == 0 {
		return p.Argv
	}
	at := slices.Index(p.Argv, p.Script)
	if at < 0 {
		return p.Argv
	}
	port += slot
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		port = 0
	} else {
		l.Close()
	}
	return slices.Insert(slices.Clone(p.Argv), at, "--inspect-port="+net.JoinHostPort(host, strconv.Itoa(port)))
}

// inspector is where node is asked to listen for a debugger; the last flag counts.
func (p *Program) inspector() (host string, port int, asked bool) {
	host, port = "127.0.0.1", 9229 // node's own
	var flags []string
	for _, set := range p.environ() {
		if options, is := strings.CutPrefix(set, "NODE_OPTIONS="); is {
			flags = strings.Fields(options)
		}
	}
	if at := slices.Index(p.Argv, p.Script); at > 0 {
		flags = append(flags, p.Argv[1:at]...)
	}
	for _, flag := range flags {
		name, where, has := strings.Cut(flag, "=")
		if !slices.Contains([]string{"--inspect", "--inspect-brk", "--inspect-wait", "--inspect-port", "--debug-port"}, name) {
			continue
		}
		asked = asked || name != "--inspect-port" && name != "--debug-port"
		if !has {
			continue
		}
		if n, err := strconv.Atoi(where); err == nil {
			port = n
		} else if h, text, err := net.SplitHostPort(where); err == nil {
			host = h
			if n, err := strconv.Atoi(text); err == nil {
				port = n
			}
		} else {
			host = strings.Trim(where, "[]")
		}
	}
	return host, port, asked
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Version is Node's own: v20.11.0.
type Version struct{ Major, Minor, Patch int }

func (v Version) String() string { return fmt.Sprintf("v%d.%d.%d", v.Major, v.Minor, v.Patch) }

// Before reports whether v is older than major.minor.
func (v Version) Before(major, minor int) bool {
	return v.Major < major || v.Major == major && v.Minor < minor
}

// versionPatience bounds `node --version`, which takes some milliseconds.
const versionPatience = 5 * time.Second

// NodeVersion asks node for its version, and gives it the flags that this one needs
// for the script. It blocks for some milliseconds.
func (p *Program) NodeVersion() (Version, error) {
	ctx, cancel := context.WithTimeout(context.Background(), versionPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Path, "--version")
	cmd.Env, cmd.Dir = p.environ(), p.Dir
	out, err := collect(cmd)
	if err != nil {
		return Version{}, fmt.Errorf("ask %s --version: %w", p.Path, err)
	}
	v, err := parseVersion(string(out))
	if err != nil {
		return v, fmt.Errorf("ask %s --version: %w", p.Path, err)
	}
	if v.Before(16, 0) {
		return v, fmt.Errorf("%s is Node %s: want 16 or later", p.Path, v)
	}
	if p.drainHeader && v.Before(18, 18) {
		return v, fmt.Errorf("%s is Node %s, which has no --import: drain_header wants 18.18 or later", p.Path, v)
	}
	return v, p.stripTypes(v)
}

// collect runs a command. As PID 1 its end must not be collected as a stranger's.
func collect(cmd *exec.Cmd) ([]byte, error) {
	children.Lock()
	defer children.Unlock()
	defer lookAgain()
	return cmd.Output()
}

func parseVersion(text string) (v Version, err error) {
	text = strings.TrimSpace(text)
	parts := strings.SplitN(strings.TrimPrefix(text, "v"), ".", 3)
	bad := fmt.Errorf("it answers %.40q, and no version", text)
	if len(parts) != 3 {
		return v, bad
	}
	patch, _, _ := strings.Cut(parts[2], "-") // nightly builds
	var errs [3]error
	v.Major, errs[0] = strconv.Atoi(parts[0])
	v.Minor, errs[1] = strconv.Atoi(parts[1])
	v.Patch, errs[2] = strconv.Atoi(patch)
	if errors.Join(errs[:]...) != nil {
		return v, bad
	}
	return v, nil
}

// stripTypes has node take a TypeScript file. It does so by itself from 22.18 and
// 23.6 on, and by a flag from 22.6 on (nodejs.org/api/typescript.html). Who loads a
// loader of their own is let alone.
func (p *Program) stripTypes(v Version) error {
	const flag = "--experimental-strip-types"
	loads := slices.ContainsFunc(p.Argv, func(arg string) bool {
		name, _, _ := strings.Cut(arg, "=")
		if name == drainModule || name == "--import" && p.drainHeader {
			return false // ours, or beside it, which is seldom enough
		}
		return slices.Contains([]string{"--import", "--loader", "--experimental-loader", "--require", "-r", flag}, name)
	})
	ts := slices.Contains([]string{".ts", ".mts", ".cts"}, filepath.Ext(p.Script))
	switch {
	case !ts || loads:
		return nil
	case v.Before(22, 6):
		return fmt.Errorf("%s is Node %s, which cannot run %s: take Node 22.18 or later, or a loader, such as --node-args '--import tsx'", p.Path, v, p.Script)
	case v.Major == 22 && v.Minor < 18, v.Major == 23 && v.Minor < 6:
		p.Argv = slices.Insert(slices.Clone(p.Argv), 1, flag)
	}
	return nil
}
