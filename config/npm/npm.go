// Package npm sees through what the package managers of Node.js start: which
// script of node's a command such as `npm start` comes to. It must, since a
// package manager is a Node program itself: run as a worker it would take the
// worker's channel, and the app behind it would know of none.
package npm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Program is a Node program, as node is to run it.
type Program struct {
	Env   map[string]string // what the command sets before it; nil is nothing
	Args  []string          // flags of node's own, each with its value behind '='
	Run   []string          // the script, absolute or below the directory, and its arguments
	Notes []string          // what the package manager does besides, and nobody does here
}

// Command is what to type to have drover run the program.
func (p Program) Command() string {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p.Env)) {
		text.WriteString(name + "=" + quoted(p.Env[name]) + " ")
	}
	text.WriteString("drover run")
	if len(p.Args) > 0 {
		text.WriteString(" node")
	}
	for _, w := range slices.Concat(p.Args, p.Run) {
		text.WriteString(" " + quoted(w))
	}
	return text.String()
}

var bare = regexp.MustCompile(`^[A-Za-z0-9_./:=@%+,-]+$`)

// quoted is a word for a shell.
func quoted(word string) string {
	if bare.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Is reports whether a command is one of a package manager's.
func Is(command []string) bool {
	return len(command) > 0 && slices.Contains([]string{"npm", "npx", "yarn", "pnpm", "pnpx"}, path.Base(command[0]))
}

// Resolve finds the script that a command comes to in a directory, whose
// package.json it reads: a package manager's, node's, or that of a program which
// a package installed. dir is absolute; root is the file system's root. The error
// says why there is no such script, and what to type instead.
func Resolve(root fs.FS, dir string, command []string) (Program, error) {
	r := resolver{root: root, dir: path.Clean(dir)}
	p, err := r.command(command)
	if err != nil {
		return Program{}, fmt.Errorf("%s in %s: %w", strings.Join(command, " "), dir, err)
	}
	p.Notes = r.notes
	return p, nil
}

// resolver is one Resolve.
type resolver struct {
	root  fs.FS
	dir   string
	depth int // scripts that run scripts
	notes []string
}

// abs is a path as the file system's root knows it.
func (r *resolver) abs(name string) string {
	if !path.IsAbs(name) {
		name = path.Join(r.dir, name)
	}
	return strings.TrimPrefix(path.Clean(name), "/")
}

func (r *resolver) isFile(name string) bool {
	info, err := fs.Stat(r.root, r.abs(name))
	return err == nil && info.Mode().IsRegular()
}

// pack is what is looked at of a package.json.
type pack struct {
	Scripts map[string]string `json:"scripts"`
	Main    string            `json:"main"`
}

func (r *resolver) pack(dir string) (pack, error) {
	var p pack
	data, err := fs.ReadFile(r.root, r.abs(path.Join(dir, "package.json")))
	if err != nil {
		return p, errors.New("there is no package.json that can be read: type drover run and the script that node is to run")
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("package.json: %w", err)
	}
	return p, nil
}

// manager takes a package manager's command line.
func (r *resolver) manager(words []string) (Program, error) {
	name, rest := path.Base(words[0]), words[1:]
	for len(rest) > 0 && slices.Contains([]string{"-s", "--silent", "-q", "--quiet", "-y", "--yes", "--no", "--no-install"}, rest[0]) {
		rest = rest[1:]
	}
	if len(rest) == 0 {
		return Program{}, fmt.Errorf("it starts nothing: type drover run %s start, or the script that node is to run", name)
	}
	verb := rest[0]
	switch {
	case strings.HasPrefix(verb, "-"):
		return Program{}, fmt.Errorf("%s has an option %s that is not seen through: type drover run and the script that node is to run", name, verb)
	case name == "npx" || name == "pnpx":
		return r.command(rest)
	case verb == "exec" && len(rest) > 1:
		rest = rest[1:]
		if rest[0] == "--" {
			rest = rest[1:]
		}
		return r.command(rest)
	case verb == "run" || verb == "run-script":
		if len(rest) < 2 {
			return Program{}, fmt.Errorf("%s %s names no script", name, verb)
		}
		verb, rest = rest[1], rest[1:]
	case name == "npm" && verb != "start":
		return Program{}, errors.New("it starts no server: want npm start, or npm run and a script's name")
	}
	return r.script(verb, passed(name, rest[1:]))
}

// passed are the arguments that a manager hands to the script.
func passed(manager string, args []string) []string {
	var out []string
	for i, a := range args {
		if a == "--" {
			return append(out, args[i+1:]...)
		}
		if manager != "npm" || !strings.HasPrefix(a, "-") { // npm keeps those for itself
			out = append(out, a)
		}
	}
	return out
}

// script follows one of package.json's scripts.
func (r *resolver) script(name string, args []string) (Program, error) {
	if r.depth++; r.depth > 8 {
		return Program{}, fmt.Errorf("the script %s runs itself", name)
	}
	p, err := r.pack(".")
	if err != nil {
		return Program{}, err
	}
	text, ok := p.Scripts[name]
	if !ok && name == "start" && r.isFile("server.js") {
		text, ok = "node server.js", true // as npm has it
	}
	if !ok {
		return Program{}, fmt.Errorf("package.json has no script %q: want one of %s", name, strings.Join(slices.Sorted(maps.Keys(p.Scripts)), ", "))
	}
	for _, hook := range []string{"pre" + name, "post" + name} {
		if _, ok := p.Scripts[hook]; ok {
			r.notes = append(r.notes, fmt.Sprintf("the script %s is not run: type npm run %s where it is needed", hook, hook))
		}
	}
	words, operator := split(text)
	if operator == "" {
		resolved, err := r.command(append(words, args...))
		if err != nil {
			return Program{}, fmt.Errorf("%s is `%s`: %w", name, text, err)
		}
		return resolved, nil
	}
	return Program{}, fmt.Errorf("%s is `%s`, and %s needs a shell between drover and node: %s", name, text, operator, r.lastOf(text, args))
}

// lastOf is what to type instead of a script whose last command is the server:
// `tsc && node dist/main.js`.
func (r *resolver) lastOf(text string, args []string) string {
	parts := strings.Split(text, "&&")
	last := parts[len(parts)-1]
	if words, operator := split(last); operator == "" && len(parts) > 1 {
		if p, err := r.command(append(words, args...)); err == nil {
			return fmt.Sprintf("type `%s` before, and then %s", strings.TrimSpace(strings.Join(parts[:len(parts)-1], "&&")), p.Command())
		}
	}
	return "type drover run and the script that node is to run"
}

var assignment = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)=(.*)$`)

// Programs that never serve as they are, by what is to be said of them.
var (
	developer = []string{"nodemon", "node-dev", "ts-node-dev", "tsnd", "supervisor"}
	keepers   = []string{"pm2", "pm2-runtime", "pm2-dev", "forever"}
	several   = []string{"concurrently", "npm-run-all", "run-p", "run-s", "turbo", "nx", "lerna"}
)

// command takes a command's words.
func (r *resolver) command(words []string) (Program, error) {
	env := map[string]string{}
	for len(words) > 0 {
		if m := assignment.FindStringSubmatch(words[0]); m != nil {
			env[m[1]] = m[2]
		} else if !slices.Contains([]string{"exec", "env", "cross-env"}, words[0]) {
			break
		}
		words = words[1:]
	}
	if len(words) == 0 {
		return Program{}, errors.New("it runs nothing")
	}
	p, err := r.program(words)
	if err != nil {
		return Program{}, err
	}
	for name, value := range p.Env {
		env[name] = value
	}
	p.Env = nil
	if len(env) > 0 {
		p.Env = env
	}
	return p, nil
}

func (r *resolver) program(words []string) (Program, error) {
	name, rest := path.Base(words[0]), words[1:]
	switch {
	case Is(words):
		return r.manager(words)
	case name == "node" || name == "nodejs":
		return r.node(rest, nil)
	case name == "tsx" && len(rest) > 0 && rest[0] != "watch":
		return r.node(rest, []string{"--import=tsx"})
	case name == "ts-node" && len(rest) > 0:
		return r.node(rest, []string{"--require=ts-node/register"})
	case slices.Contains(developer, name) || name == "tsx":
		instead := "type drover run and the script that node is to run"
		if p, err := r.node(slices.DeleteFunc(slices.Clone(rest), func(w string) bool { return w == "watch" }), nil); err == nil {
			instead = "type " + p.Command()
		}
		return Program{}, fmt.Errorf("%s is for developing, it starts the program anew when a file changes: %s", name, instead)
	case slices.Contains(keepers, name):
		return Program{}, fmt.Errorf("%s does what drover does: import its ecosystem file with drover import, or type drover run and the script", name)
	case slices.Contains(several, name):
		return Program{}, fmt.Errorf("%s runs several programs: start each of them by drover run, with its own --name", name)
	case name == "nest" && len(rest) > 0 && rest[0] == "start":
		return Program{}, errors.New("nest start starts node itself: type nest build before, and then drover run dist/main.js")
	}
	return r.installed(words[0], rest)
}

// valued are node's flags whose value may be the next word (node --help).
var valued = map[string]string{
	"-r": "--require", "--require": "--require", "--import": "--import", "--loader": "--loader",
	"--experimental-loader": "--experimental-loader", "-C": "--conditions", "--conditions": "--conditions",
	"--env-file": "--env-file", "--env-file-if-exists": "--env-file-if-exists", "--title": "--title",
	"--max-http-header-size": "--max-http-header-size", "--icu-data-dir": "--icu-data-dir",
	"--openssl-config": "--openssl-config", "--unhandled-rejections": "--unhandled-rejections",
	"--dns-result-order": "--dns-result-order", "--disable-warning": "--disable-warning",
}

// Flags takes node's own flags off the front of its arguments. Each of them has
// its value behind '='; bad is one that runs no script, or empty.
func Flags(words []string) (flags, rest []string, bad string) {
	for len(words) > 0 && strings.HasPrefix(words[0], "-") && words[0] != "-" {
		flag, value, has := strings.Cut(words[0], "=")
		words = words[1:]
		long := valued[flag]
		switch {
		case flag == "--":
			return flags, words, ""
		case slices.Contains([]string{"-e", "--eval", "-p", "--print", "-pe", "-c", "--check", "-i", "--interactive", "-v", "--version", "-h", "--help", "--test", "--run", "--watch"}, flag):
			return flags, words, flag
		case has && long != "":
			flags = append(flags, long+"="+value)
		case has:
			flags = append(flags, flag+"="+value)
		case long != "" && len(words) > 0:
			flags, words = append(flags, long+"="+words[0]), words[1:]
		case long != "":
			return flags, words, flag
		default:
			flags = append(flags, flag)
		}
	}
	return flags, words, ""
}

// node takes the arguments of node.
func (r *resolver) node(words, args []string) (Program, error) {
	flags, rest, bad := Flags(words)
	if bad != "" {
		return Program{}, fmt.Errorf("node %s runs no script as it is: type drover run and the script", bad)
	}
	if len(rest) == 0 || rest[0] == "-" {
		return Program{}, errors.New("node is given no script")
	}
	script, ok := r.module(rest[0])
	if !ok {
		return Program{}, fmt.Errorf("there is no script %s: it may have to be built first", rest[0])
	}
	return Program{Args: append(args, flags...), Run: append([]string{script}, rest[1:]...)}, nil
}

// module is the file that node runs of a name: without its ending, or a
// directory's index or package's main (nodejs.org, CommonJS modules, "All
// together").
func (r *resolver) module(name string) (string, bool) {
	for _, try := range []string{name, name + ".js", name + ".json"} {
		if r.isFile(try) {
			return path.Clean(try), true
		}
	}
	tries := []string{"index.js"}
	if p, err := r.pack(name); err == nil && p.Main != "" {
		tries = []string{p.Main, p.Main + ".js", path.Join(p.Main, "index.js"), "index.js"}
	}
	for _, try := range tries {
		if try = path.Join(name, try); r.isFile(try) {
			return try, true
		}
	}
	return "", false
}

// shim is the line of a shell script by which pnpm starts a package's program.
var shim = regexp.MustCompile(`"\$basedir/([^"]+\.[cm]?js)"`)

// installed finds a program that a package put into node_modules/.bin, or that
// is given by its path.
func (r *resolver) installed(name string, args []string) (Program, error) {
	file := name
	if !strings.Contains(name, "/") {
		file = r.bin(name)
		if file == "" {
			return Program{}, fmt.Errorf("%s is in no node_modules/.bin here: if a package has it, type npm install first; if it is no Node program, type drover run and what it is to run", name)
		}
	}
	data, err := fs.ReadFile(r.root, r.abs(file))
	if err != nil {
		return Program{}, fmt.Errorf("there is no program %s that can be read", file)
	}
	if m := shim.FindSubmatch(data); m != nil && strings.HasPrefix(string(data), "#!/bin/sh") {
		file = path.Join(path.Dir(file), string(m[1]))
		if data, err = fs.ReadFile(r.root, r.abs(file)); err != nil {
			return Program{}, fmt.Errorf("there is no script %s that can be read", file)
		}
	}
	first, _, _ := strings.Cut(string(data[:min(len(data), 200)]), "\n")
	forNode := strings.HasPrefix(first, "#!") && strings.Contains(first, "node")
	if !forNode && !slices.Contains([]string{".js", ".mjs", ".cjs", ".ts"}, path.Ext(file)) {
		return Program{}, fmt.Errorf("%s is no script of node's: type drover run and what it is to run", file)
	}
	return Program{Run: append([]string{file}, args...)}, nil
}

// bin is the path of an installed program, here or in a directory above, as a
// workspace has it; empty when there is none.
func (r *resolver) bin(name string) string {
	for dir := r.dir; ; dir = path.Dir(dir) {
		file := path.Join(dir, "node_modules/.bin", name)
		if r.isFile(file) {
			if dir == r.dir {
				return path.Join("node_modules/.bin", name)
			}
			return file
		}
		if dir == "/" || dir == "." {
			return ""
		}
	}
}

// split takes a shell's command apart into words; operator is the first thing in
// it that only a shell can do, or empty.
func split(text string) (words []string, operator string) {
	var word strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote == '\'' && c != quote:
			word.WriteByte(c)
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && i+1 < len(text):
			i++
			word.WriteByte(text[i])
			in = true
		case c == '$' || c == '`':
			return nil, "`" + string(c) + "`"
		case quote != 0:
			word.WriteByte(c)
		case c == '\'' || c == '"':
			quote, in = c, true
		case strings.IndexByte("&|;<>()*?[]{}~#!\n", c) >= 0:
			if i+1 < len(text) && text[i+1] == c && (c == '&' || c == '|') {
				return nil, "`" + text[i:i+2] + "`"
			}
			return nil, "`" + string(c) + "`"
		case c == ' ' || c == '\t':
			if in {
				words = append(words, word.String())
				word.Reset()
			}
			in = false
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, "an open quote"
	}
	if in {
		words = append(words, word.String())
	}
	return words, ""
}

// Split takes a shell's command apart into its words. It is not ok when the
// command has what only a shell can do.
func Split(text string) (words []string, ok bool) {
	words, operator := split(text)
	return words, operator == ""
}
