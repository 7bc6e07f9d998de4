package pm2

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"drover/config"
	"drover/config/npm"
)

// interpreters are PM2's, by the ending of the script (lib/API/interpreter.json).
// It takes node for whatever is text, and bun for TypeScript, which node takes
// too.
var interpreters = map[string]string{
	".js": "node", ".mjs": "node", ".cjs": "node", ".jsx": "node", ".ts": "node", ".mts": "node", ".cts": "node", ".tsx": "node",
	".sh": "bash", ".py": "python3", ".rb": "ruby", ".php": "php", ".pl": "perl",
}

// command is what an app runs.
type command struct {
	run    []string
	node   bool     // by node, as a worker of a cluster
	args   []string // node's own flags
	env    map[string]string
	kind   string // what the file says of it; empty: whoever runs it finds out
	signal string // by which it is stopped, where that is known to be right
}

// program says what is run, where, how often, and with what environment.
func (c *conversion) program(name string) error {
	script := text(c.take("script"))
	if script == "" || strings.ContainsRune(script, 0) {
		return fmt.Errorf("it has no script: want the file that is run")
	}
	dir := c.dir()
	_, counted := c.values["instances"]
	workers, mode := c.workers(), c.mode()
	if mode == "" && !counted {
		mode = "fork" // as PM2 has it
	}
	cmd := c.command(dir, script)
	if c.flag("source_map_support") && cmd.node && !slices.Contains(cmd.args, "--enable-source-maps") {
		cmd.args = append(cmd.args, "--enable-source-maps")
	}
	switch {
	case mode == "cluster" && !cmd.node:
		c.note("exec_mode", "cluster is for node: %s is given its sockets by LISTEN_FDS", cmd.run[0])
	case mode == "fork" && cmd.node && workers == "1":
		c.note("exec_mode", "fork: the app is a worker of Node's cluster here, too: where it calls cluster.fork() itself, it no longer does, and workers: auto does it instead; where it never listens, it needs never_listens: true under node")
	case mode == "fork" && cmd.node:
		c.note("exec_mode", "fork: the %s workers share the addresses that the app listens on, as those of a cluster; under PM2 each had to find a port of its own", workers)
	}
	if workers == "1" {
		workers += "    # auto: one for each CPU"
	}
	fmt.Fprintf(&c.file.b, "workers: %s\n", workers)
	c.file.list("run", cmd.run)
	if cmd.kind != "" {
		c.file.pair("kind", cmd.kind)
	}
	ready, shutdown := c.flag("wait_ready"), c.flag("shutdown_with_message")
	if cmd.node {
		var lines []string
		if len(cmd.args) > 0 {
			lines = append(lines, "args: "+flow(cmd.args))
		}
		if ready {
			lines = append(lines, "wait_ready: true")
		}
		if shutdown {
			lines = append(lines, "stop_by: shutdown")
		} else {
			lines = append(lines, "stop_by: INT    # as PM2; disconnect: for an app that does not handle SIGINT")
		}
		c.file.mapping("node", lines)
	} else {
		if cmd.signal != "" {
			c.file.pair("stop_signal", cmd.signal)
		}
		if ready {
			c.note("wait_ready", "it is for node: another program says READY=1 (sd_notify(3)), with ready: notify")
		}
		if shutdown {
			c.note("shutdown_with_message", "it is for node: another program is stopped by a signal")
		}
	}
	c.environment(cmd.env)
	return nil
}

// dir is where the app works, absolute. It is written where it is not the
// directory of the drover.yaml itself.
func (c *conversion) dir() string {
	dir := text(c.take("cwd"))
	switch {
	case dir == "~" || strings.HasPrefix(dir, "~/"):
		dir = path.Join(c.o.Home, dir[1:])
	case !path.IsAbs(dir):
		dir = path.Join(c.o.Dir, dir)
	}
	dir = path.Clean(dir)
	rel, err := filepath.Rel(c.o.Base, dir)
	switch {
	case rel == ".":
	case err != nil || rel == ".." || strings.HasPrefix(rel, "../"):
		c.file.pair("dir", dir)
	default:
		c.file.pair("dir", rel)
	}
	return dir
}

// mode is fork, cluster, or empty where nothing is said.
func (c *conversion) mode() string {
	v := c.take("exec_mode")
	mode := strings.TrimSuffix(text(v), "_mode")
	if v != nil && mode != "fork" && mode != "cluster" {
		c.note("exec_mode", "it is %s: want fork or cluster: left out", told(v))
		return ""
	}
	return mode
}

// command finds out what a script and its interpreter come to.
func (c *conversion) command(dir, script string) command {
	args, interpreter := c.words("args"), text(c.take("interpreter"))
	key := "node_args"
	flags := c.words(key)
	whole := c.flag("execute_command")
	if strings.Contains(script, " ") && (whole || !c.exists(dir, script)) {
		// PM2 gives such a line to a shell, and no arguments.
		words, ok := npm.Split(script)
		if !ok || len(words) == 0 {
			c.note("script", "it is a line for a shell, which hands no socket and no signal on to what it starts: write the program itself into run, if the line is more than a program and its arguments")
			return command{run: []string{"sh", "-c", script}, kind: config.KindForeign, signal: "INT"}
		}
		script, args, interpreter, flags = words[0], words[1:], "none", nil
	}
	if base := path.Base(script); base == "node" || base == "nodejs" {
		inner, rest, bad := npm.Flags(slices.Concat(flags, args))
		if bad == "" && len(rest) > 0 {
			if strings.Contains(script, "/") {
				rest = append([]string{script}, rest...)
			}
			return command{run: rest, node: true, args: inner, kind: config.KindNode}
		}
	}
	if npm.Is([]string{script}) {
		return c.managed(dir, append([]string{script}, args...))
	}
	base, version, _ := strings.Cut(path.Base(interpreter), "@")
	if version != "" {
		c.note("interpreter", "%s: the node of the PATH is run, whatever its version: put the path of that version's node before the script in run", interpreter)
		interpreter = base
	}
	ext := path.Ext(script)
	if interpreter == "" {
		base = interpreters[ext]
		if base == "" && c.forNode(dir, script) {
			base = "node"
		}
		if base != "node" {
			interpreter = base
		}
		if base == "node" && strings.HasSuffix(strings.TrimSuffix(ext, "x"), "ts") {
			c.note("script", "%s: PM2 runs TypeScript by bun; here it is node, which takes it from 22.18 on: older ones want args: [--import=tsx] under node, and the package tsx", script)
		}
	}
	switch base {
	case "node", "nodejs", "tsx", "ts-node", "babel-node":
		var own []string
		switch base {
		case "tsx":
			own, interpreter = []string{"--import=tsx"}, ""
		case "ts-node":
			own, interpreter = []string{"--require=ts-node/register"}, ""
		case "babel-node":
			own, interpreter = []string{"--require=@babel/register"}, ""
			c.note("interpreter", "babel-node starts node itself, where drover cannot reach it: node is run with --require=@babel/register instead, a package to be installed; or build before, and run what was built")
		}
		inner, rest, bad := npm.Flags(flags)
		if bad != "" || len(rest) > 0 {
			c.note(key, "what is no flag of node's for a script is left out: %s", strings.Join(append(rest, bad), " "))
		}
		run := append([]string{script}, args...)
		if strings.Contains(interpreter, "/") {
			run = append([]string{interpreter}, run...)
		}
		return command{run: run, node: true, args: append(own, inner...), kind: config.KindNode}
	case "", "none":
		if len(flags) > 0 {
			c.note(key, "there is no interpreter to take them: left out")
		}
		run := append([]string{script}, args...)
		if strings.Contains(script, "/") || !c.exists(dir, script) {
			return command{run: run} // or found in the PATH
		}
		run[0] = "./" + script
		return command{run: run}
	}
	c.note("interpreter", "%s: PM2 lets the program listen by itself; here it is to take its sockets by LISTEN_FDS, of the addresses in listen (README, Any other program)", base)
	return command{run: slices.Concat([]string{interpreter}, flags, []string{script}, args), kind: config.KindForeign, signal: "INT"}
}

// managed is what a package manager starts.
func (c *conversion) managed(dir string, words []string) command {
	if c.o.Root == nil {
		return command{run: words}
	}
	p, err := npm.Resolve(c.o.Root, dir, words)
	if err != nil {
		c.note("script", "%v", err)
		return command{run: words}
	}
	c.note("script", "%s comes to this, and is written so: %s", strings.Join(words, " "), p.Command())
	for _, n := range p.Notes {
		c.note("script", "%s", n)
	}
	return command{run: p.Run, node: true, args: p.Args, env: p.Env, kind: config.KindNode}
}

// exists reports whether there is a file of that name in the app's directory.
func (c *conversion) exists(dir, name string) bool {
	_, ok := c.head(dir, name)
	return ok
}

// forNode reports whether PM2 would have node run a file without a known ending:
// because it is text.
func (c *conversion) forNode(dir, name string) bool {
	head, ok := c.head(dir, name)
	return ok && !strings.ContainsRune(string(head), 0) && (!strings.HasPrefix(string(head), "#!") || strings.Contains(string(head), "node"))
}

// head is how a file begins.
func (c *conversion) head(dir, name string) ([]byte, bool) {
	if c.o.Root == nil {
		return nil, false
	}
	if !path.IsAbs(name) {
		name = path.Join(dir, name)
	}
	f, err := c.o.Root.Open(strings.TrimPrefix(path.Clean(name), "/"))
	if err != nil {
		return nil, false
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode()&fs.ModeType != 0 {
		return nil, false
	}
	head := make([]byte, 512)
	n, _ := f.Read(head)
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	if strings.HasPrefix(line, "#!") {
		return []byte(line), true
	}
	return head[:n], true
}

// environment merges what PM2 merges, in its order.
func (c *conversion) environment(over map[string]string) {
	env := map[string]string{}
	merge := func(key string, v any) {
		m, ok := v.(map[string]any)
		if !ok {
			if v != nil {
				c.note(key, "it is %s: want an object of names and values: left out", told(v))
			}
			return
		}
		for _, name := range slices.Sorted(maps.Keys(m)) {
			value, why := variable(m[name])
			switch {
			case name == "" || strings.ContainsAny(name, "=\x00"):
				c.notes = append(c.notes, Note{key, fmt.Sprintf("%q is no name of an environment variable: left out", name)})
			case why != "":
				c.notes = append(c.notes, Note{oneLine(key + "." + name), why + ": left out: set it where drover is started, or write it into env"})
			default:
				env[name] = value
			}
		}
	}
	if of, ok := c.deploy[c.o.Env].(map[string]any); ok && c.o.Env != "" {
		merge("deploy."+c.o.Env+".env", of["env"])
	}
	merge("env", c.take("env"))
	if port := c.take("port"); port != nil {
		env["PORT"] = text(port)
		if text(port) == "" {
			c.note("port", "it is %s: want a number: left out", told(port))
			delete(env, "PORT")
		}
	}
	if c.o.Env != "" {
		key := "env_" + c.o.Env
		if c.values[key] == nil {
			c.note(key, "the app has none: env alone is written")
		}
		merge(key, c.take(key))
	}
	for _, key := range slices.Sorted(maps.Keys(c.values)) {
		if name, ok := strings.CutPrefix(key, "env_"); ok && c.take(key) != nil {
			c.note(key, "left out: drover import --env %s writes it", name)
		}
	}
	maps.Copy(env, over)
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		lines = append(lines, scalar(name)+": "+scalar(env[name]))
	}
	c.file.mapping("env", lines)
}

// variable is a value as the environment has it; why says that it has none.
func variable(v any) (value, why string) {
	switch v := v.(type) {
	case string:
		if strings.HasPrefix(v, "\x00") {
			return "", told(v) + " here, where the file was read"
		}
		if strings.ContainsRune(v, 0) {
			return "", "it holds a zero byte"
		}
		return v, ""
	case json.Number:
		return v.String(), ""
	case bool:
		return fmt.Sprint(v), ""
	}
	var b strings.Builder // as PM2 does with objects, lists and null
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", err.Error()
	}
	return strings.TrimSpace(b.String()), ""
}

// times are the keys of readiness and of stopping.
func (c *conversion) times() {
	if d := c.duration("listen_timeout"); d > 0 {
		c.file.pair("ready_timeout", d.String())
		c.note("listen_timeout", "written as ready_timeout: %v: PM2 takes the app for ready then, drover ends it and says why: raise it, or leave it out for 30s, if the app may take longer", d)
	}
	if d := c.duration("kill_timeout"); d > 0 {
		c.file.pair("drain", d.String())
	}
	if d := c.duration("min_uptime"); d > 0 {
		c.file.pair("min_uptime", d.String())
	}
}

// restarts are the keys of what is started anew, and when.
func (c *conversion) restarts(name string) {
	if n := int64(c.measure("max_memory_restart", sizes, "bytes, or a number with K, M or G")); n > 0 {
		c.file.mapping("limits", []string{"max_memory: " + size(n)})
	}
	for _, key := range []string{"exp_backoff_restart_delay", "restart_delay"} {
		if v := c.take(key); v != nil && text(v) != "0" {
			c.note(key, "%s: drover restarts at once what had served for min_uptime, and else after 0, 25 ms, and so on, four times as long each time, up to 5 s", told(v))
		}
	}
	if v := c.take("max_restarts"); v != nil {
		c.note("max_restarts", "%s: drover gives up (exit code 3) only where no worker was ever ready; after that it never does, and waits longer instead", told(v))
	}
	once := false
	if v := c.take("autorestart"); v == false || v == "false" {
		once = true
		c.note("autorestart", "false: drover restarts whatever ends: what is to end belongs into cron or a systemd timer")
	}
	if v := c.take("stop_exit_codes"); v != nil {
		c.note("stop_exit_codes", "drover restarts whatever the exit code: drover stop --name %s stops it", name)
	}
	c.reloads(once)
}

// reloads are the keys of what PM2 restarts for unasked; once says that the program
// is to end.
func (c *conversion) reloads(once bool) {
	var lines []string
	v := c.take("cron_restart")
	switch cron := text(v); {
	case v == nil, v == false, v == "", cron == "0":
	case cron == "":
		c.note("cron_restart", "it is %s: want a time as of crontab(5): left out", told(v))
	case once:
		c.note("cron_restart", "a job that ends needs no drover: its command into crontab(5), behind %s", cron)
	default:
		if _, err := config.ParseCron(cron); err != nil {
			c.note("cron_restart", "%s: left out", strings.TrimPrefix(err.Error(), "cron: "))
			break
		}
		lines = append(lines, "cron: "+scalar(cron))
	}
	var watch []string
	switch v := c.take("watch"); v {
	case nil, false, "false":
	case true, "true":
		watch = []string{"."}
	default:
		for _, p := range c.paths("watch", v) {
			if at := strings.IndexAny(p, "*?[{"); at >= 0 {
				dir := path.Dir(p[:at] + "x")
				c.note("watch", "%q: all of %s is looked at: write what is not to be into ignore", p, dir)
				p = dir
			}
			watch = append(watch, p)
		}
	}
	ignore, delay := c.paths("ignore_watch", c.take("ignore_watch")), c.duration("watch_delay")
	if len(watch) > 0 {
		lines = append(lines, "watch: "+flow(watch))
		var names []string
		for _, p := range ignore {
			p = strings.TrimPrefix(strings.TrimSuffix(strings.TrimSuffix(p, "/**"), "/"), "**/")
			switch {
			case p == "node_modules" || strings.HasPrefix(p, "."): // not looked at anyhow
			case strings.ContainsAny(p, `\()|^$+{}[]`) || strings.Contains(p, "**") || p == "":
				c.note("ignore_watch", "%q: here it is names and patterns such as *.log: left out", p)
			default:
				names = append(names, p)
			}
		}
		if len(names) > 0 {
			lines = append(lines, "ignore: "+flow(names))
		}
		if delay > 0 {
			lines = append(lines, "delay: "+delay.String())
		}
	}
	c.file.mapping("reload", lines)
}

// paths takes a key's path, or a list of them, without what stands for the directory
// that they are in anyhow.
func (c *conversion) paths(key string, v any) []string {
	list, is := v.([]any)
	if !is {
		list = []any{v}
	}
	var out []string
	for _, v := range list {
		p := text(v)
		switch {
		case v == nil:
		case p == "" || strings.ContainsRune(p, 0):
			c.note(key, "it holds %s: want paths: left out", told(v))
		default:
			out = append(out, strings.TrimPrefix(p, "./"))
		}
	}
	return out
}

// output are the keys of who the workers are, and of logs.
func (c *conversion) output() {
	for _, id := range []struct{ key, to string }{{"uid", "user"}, {"gid", "group"}} {
		if v := c.take(id.key); v != nil {
			if s := text(v); s != "" && !strings.ContainsRune(s, 0) {
				c.file.pair(id.to, s)
			} else {
				c.note(id.key, "it is %s: want a name or a number: left out", told(v))
			}
		}
	}
	c.logs()
}

// logs are the files of what is printed.
func (c *conversion) logs() {
	var lines []string
	switch v := c.take("log_type"); v {
	case nil, "":
	case "json":
		lines = append(lines, "format: json")
	default:
		c.note("log_type", "it is %s: drover has text and json: left out", told(v))
	}
	merged := c.flag("merge_logs")
	for _, file := range []struct{ key, to string }{{"out_file", "out_file"}, {"error_file", "error_file"}, {"log_file", "file"}} {
		v := c.take(file.key)
		switch path := text(v); {
		case v == nil, v == false, v == true, path == "/dev/null", path == "NULL", v == "":
		case path == "" || strings.ContainsRune(path, 0):
			c.note(file.key, "it is %s: want a path: left out", told(v))
		default:
			if rest, ok := strings.CutPrefix(path, "~/"); ok {
				path = filepath.Join(c.o.Home, rest)
			}
			lines = append(lines, file.to+": "+scalar(path))
			if !merged {
				merged = true
				c.note("merge_logs", "PM2 has a file for each worker, such as out-0.log; here all write to one, with time and slot before each line")
			}
		}
	}
	c.file.mapping("logs", lines)
}

// what is said of the keys that are left, unless their value is what drover does
// anyhow.
var said = map[string]struct {
	anyhow any
	why    string
}{
	"watch_options": {nil, "they are chokidar's: drover looks at files by inotify(7), and has watch, ignore and delay under reload"},

	"time":            {true, "each line of drover's log has its time"},
	"log_date_format": {nil, "drover's times are 15:04:05.000, in a file with the day before, and RFC 3339 with logs: {format: json}"},
	"disable_logs":    {false, "send drover's own output to /dev/null"},
	"pid_file":        {nil, "drover status --json has the pids of the master and the workers"},

	"instance_var":    {"NODE_APP_INSTANCE", "drover gives each worker its slot in NODE_APP_INSTANCE, under no other name: read that"},
	"increment_var":   {nil, "all workers have the same environment but for NODE_APP_INSTANCE, their slot: add that in the app; a port needs none, since workers share it"},
	"filter_env":      {false, "workers get what drover has: start it by env -u NAME drover, or env -i drover"},
	"treekill":        {true, "drover's last resort ends a worker's whole process group, detached children aside"},
	"namespace":       {"default", "drover has none: each app has its own master, and every command its --name"},
	"name_prefix":     {nil, "write it into name"},
	"post_update":     {nil, "drover runs no commands: have the deploy run them, and then drover reload"},
	"kill_retry_time": {nil, "drover sends the signal once, and ends what is there after drain"},
}

// pm2s are keys that are about PM2 itself and its services.
var pm2s = []string{"vizion", "pmx", "automation", "trace", "disable_trace", "v8", "event_loop_inspector", "deep_monitoring", "io",
	"windowsHide", "write", "force", "install_url", "username", "disable_source_map_support"}

// same reports whether a value is a word or a truth value that is expected.
func same(v, want any) bool {
	switch v.(type) {
	case bool, string:
		return v == want
	}
	return false
}

// rest names every key that is left.
func (c *conversion) rest() {
	for _, key := range slices.Sorted(maps.Keys(c.values)) {
		v := c.take(key)
		s, known := said[key]
		switch {
		case v == nil: // told already
		case known && same(v, s.anyhow): // so it is
		case known:
			c.note(key, "%s", s.why)
		case slices.Contains(pm2s, key):
			c.note(key, "it is about PM2 itself: nothing is to be done")
		default:
			c.note(key, "unknown: left out")
		}
	}
}
