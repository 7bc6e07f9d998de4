package config

import (
	"cmp"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"drover/internal/sys"

	"github.com/goccy/go-yaml/ast"
)

// File is what a drover.yaml asks for: a Config, and what is run with it.
type File struct {
	Config

	// Dir is the directory that the file says, or its own, absolute: relative paths
	// are below it, and workers have it as their working directory.
	Dir string
	// Run is a program and its arguments. Nil when Serve is set.
	Run []string
	// Serve asks for the built-in server. Nil when Run is set.
	Serve *Serve
}

// Serve is what the built-in server serves.
type Serve struct {
	Root  string  // a directory, absolute; empty is the welcome page
	Proxy []Proxy // what goes elsewhere instead
}

// FileError is one thing in a file that cannot work as it is.
type FileError struct {
	File         string
	Line, Column int // from 1
	Why          string
}

func (e *FileError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Why)
}

// FileErrors are all that was found, in the order of the file. Error has a line
// for each.
type FileErrors []*FileError

func (e FileErrors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Load reads and checks a file. Its error is an os one, or FileErrors.
func Load(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	f, err := Parse(path, data)
	if err != nil {
		return nil, err
	}
	if !filepath.IsAbs(f.Dir) {
		f.Dir = filepath.Join(filepath.Dir(abs), f.Dir)
	}
	if f.Serve != nil && f.Serve.Root != "" && !filepath.IsAbs(f.Serve.Root) {
		f.Serve.Root = filepath.Join(f.Dir, f.Serve.Root)
	}
	f.Logs = f.Logs.below(f.Dir)
	f.Reload = f.Reload.below(f.Dir)
	for i := range f.Listen {
		f.Listen[i].TLS = f.Listen[i].TLS.Below(f.Dir)
	}
	return f, nil
}

// Parse reads and checks the text of a file, called name in errors, which are
// FileErrors. It touches no file: Dir and paths stay as they are written.
func Parse(name string, data []byte) (*File, error) {
	r := &reader{name: name, anchors: map[string]ast.Node{}}
	f := &File{}
	if top := r.parse(data); top != nil {
		r.file(f, top)
	}
	if len(r.errs) > 0 {
		slices.SortStableFunc(r.errs, func(a, b *FileError) int {
			if a.Line != b.Line {
				return a.Line - b.Line
			}
			return a.Column - b.Column
		})
		return nil, r.errs
	}
	return f, nil
}

// file takes the whole.
func (r *reader) file(f *File, top ast.Node) {
	c := &f.Config
	r.mapping(top, "the file", keys{
		"name":    r.str("name", "a word", &c.Name, checkName),
		"dir":     r.str("dir", "a directory", &f.Dir, nil),
		"workers": r.numberOr("workers", "auto", 0, 1, MaxWorkers, &c.Workers),
		"procs":   r.number("procs", 1, MaxWorkers, &c.Procs),
		"listen":  r.list("listen", "a list of addresses, such as [\":3000\"]", func(n ast.Node) { r.listen(c, n) }),
		"trusted_proxies": r.list("trusted_proxies", "a list of networks, such as [10.0.0.0/8]", func(n ast.Node) {
			var proxy string
			r.str("trusted_proxies", "a network, such as 10.0.0.0/8", &proxy, checkTrusted)(n)
			c.TrustedProxies = append(c.TrustedProxies, proxy)
		}),
		"run":            func(n ast.Node) { r.run(f, n) },
		"serve":          func(n ast.Node) { r.serve(f, n) },
		"kind":           r.str("kind", "auto, drover, foreign or node", &c.Kind, CheckKind),
		"node":           func(n ast.Node) { r.node(&c.Node, n) },
		"ready":          r.str("ready", "auto or notify", &c.Ready, CheckReady),
		"stop_signal":    r.str("stop_signal", "a signal, such as TERM or QUIT", &c.StopSignal, CheckStopSignal),
		"nonblocking":    r.boolean("nonblocking", &c.Nonblocking),
		"user":           r.str("user", "a name or a number", &c.User, nil),
		"group":          r.str("group", "a name or a number", &c.Group, nil),
		"groups":         func(n ast.Node) { r.groups(c, n) },
		"no_new_privs":   r.boolean("no_new_privs", &c.NoNewPrivs),
		"oom_score_adj":  r.number("oom_score_adj", -1000, 1000, &c.OOMScoreAdj),
		"rlimits":        func(n ast.Node) { r.rlimits(c, n) },
		"env":            func(n ast.Node) { r.env(c, n) },
		"schedtrace":     r.unless("schedtrace", &c.NoSchedTrace),
		"ready_timeout":  r.duration("ready_timeout", false, &c.ReadyTimeout),
		"min_uptime":     r.duration("min_uptime", false, &c.MinUptime),
		"hang_timeout":   r.duration("hang_timeout", false, &c.HangTimeout),
		"drain":          r.duration("drain", false, &c.Drain),
		"lame_duck":      r.duration("lame_duck", true, &c.LameDuck),
		"orphan_timeout": r.duration("orphan_timeout", true, &c.OrphanTimeout),
		"stop_delay":     r.duration("stop_delay", false, &c.StopDelay),
		"limits":         func(n ast.Node) { r.limits(&c.Limits, n) },
		"http":           func(n ast.Node) { r.http(&c.HTTP, n) },
		"logs":           func(n ast.Node) { r.logs(c, n) },
		"reload":         func(n ast.Node) { r.reload(&c.Reload, n) },
	})
	if len(r.errs) > 0 {
		return
	}
	for _, l := range c.Listen {
		if l.ProxyProtocol && len(c.TrustedProxies) == 0 {
			r.wrong(top, "proxy_protocol on %s without trusted_proxies: want whose word is believed too, such as trusted_proxies: [10.0.0.0/8], or unix for a unix socket", l.Address)
		}
		if l.Steering == Sticky && c.Workers > MaxSticky {
			r.wrong(top, "workers is %d, and steering is sticky on %s: want at most %d workers, which is what fits a program of the kernel's", c.Workers, l.Address, MaxSticky)
		}
	}
	switch {
	case f.Run == nil && f.Serve == nil:
		r.wrong(top, "nothing to run: want run, such as `run: [./app]`, or serve, such as `serve: {root: public}`")
	case f.Run != nil && f.Serve != nil:
		r.wrong(top, "both run and serve: want one of them")
	case f.Serve != nil && len(c.Listen) == 0:
		r.wrong(top, "no address: want listen, such as `listen: [{address: \":3000\"}]`")
	case f.Serve != nil && (c.Kind != "" || c.Ready != "" || c.Nonblocking || c.StopSignal != "" || !c.Node.isZero()):
		r.wrong(top, "kind, node, ready, stop_signal and nonblocking are for run: serve is built on drover")
	case c.Node.Check() != nil:
		r.wrong(top, "%v", c.Node.Check())
	case c.Kind != "" && c.Kind != KindAuto && c.CheckForNode(c.Kind == KindNode) != nil:
		r.wrong(top, "%v", c.CheckForNode(c.Kind == KindNode))
	case c.LameDuck > 0 && c.LameDuck >= cmp.Or(c.Drain, 30*time.Second):
		r.wrong(top, "lame_duck is %s, and drain %s, of which it is a part: want a shorter one", c.LameDuck, cmp.Or(c.Drain, 30*time.Second))
	case f.Serve == nil && c.HTTP != HTTP{}:
		r.wrong(top, "http is for serve: a program on drover sets its own timeouts and limits, in drover.Config's HTTP")
	}
}

// listen takes one address: a mapping, or the address alone.
func (r *reader) listen(c *Config, n ast.Node) {
	var l Listen
	address := r.str("address", "host:port, such as :3000, or unix:/PATH", &l.Address, checkAddress)
	if _, ok := r.text(n); ok {
		address(n)
	} else {
		before := len(r.errs)
		r.mapping(n, "listen", keys{
			"address":        address,
			"name":           r.str("name", "a word", &l.Name, nil),
			"steering":       r.str("steering", "one of "+strings.Join(steerings, ", "), &l.Steering, CheckSteering),
			"mode":           r.mode(&l.Mode),
			"tls":            func(n ast.Node) { l.TLS = r.tls(n) },
			"proxy_protocol": r.boolean("proxy_protocol", &l.ProxyProtocol),
		})
		if l.Address == "" && len(r.errs) == before {
			r.wrong(n, "listen without an address: want `address: \":3000\"`")
		}
		if err := l.check(); err != nil && len(r.errs) == before {
			r.wrong(n, "%v", err)
		}
	}
	name := func(l Listen) string {
		if l.Name != "" {
			return l.Name
		}
		return l.Address
	}
	for _, other := range c.Listen {
		if l.Address != "" && name(other) == name(l) {
			r.wrong(n, "%q is given twice: give each address once, or different names", name(l))
			return
		}
	}
	c.Listen = append(c.Listen, l)
}

// tls takes what an address is encrypted with.
func (r *reader) tls(n ast.Node) *TLS {
	const pem = "a file in PEM format"
	t, first := &TLS{}, Certificate{}
	before := len(r.errs)
	r.mapping(n, "tls", keys{
		"certificate": r.str("certificate", pem, &first.Certificate, nil),
		"key":         r.str("key", pem, &first.Key, nil),
		"certificates": r.list("certificates", "a list of pairs, such as [{certificate: a.pem, key: a.key}]", func(n ast.Node) {
			var c Certificate
			before := len(r.errs)
			r.mapping(n, "certificates", keys{
				"certificate": r.str("certificate", pem, &c.Certificate, nil),
				"key":         r.str("key", pem, &c.Key, nil),
			})
			if err := c.check(); err != nil && len(r.errs) == before {
				r.wrong(n, "%v", err)
			}
			t.Certificates = append(t.Certificates, c)
		}),
		"client_ca":    r.str("client_ca", pem, &t.ClientCA, nil),
		"client_auth":  r.str("client_auth", "require or optional", &t.ClientAuth, checkClientAuth),
		"min_version":  r.str("min_version", "1.2 or 1.3", &t.MinVersion, checkMinVersion),
		"post_quantum": r.boolean("post_quantum", &t.PostQuantum),
	})
	if first != (Certificate{}) {
		t.Certificates = append([]Certificate{first}, t.Certificates...)
	}
	if err := t.check(); err != nil && len(r.errs) == before {
		r.wrong(n, "%v", err)
	}
	return t
}

// mode takes permissions, in octal.
func (r *reader) mode(into *fs.FileMode) func(ast.Node) {
	return func(n ast.Node) {
		s, _ := r.text(n)
		bits, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
		if err != nil || bits == 0 || bits > 0o777 {
			r.wrong(n, "mode is %s: want permissions in octal, such as 0660", told(r.plain(n)))
			return
		}
		*into = fs.FileMode(bits)
	}
}

func (r *reader) run(f *File, n ast.Node) {
	f.Run = []string{}
	r.list("run", "a program and its arguments, such as [./app, --verbose]", func(n ast.Node) {
		s, ok := r.text(n)
		if !ok || s == "" && len(f.Run) == 0 {
			r.wrong(n, "run holds %s: want a program and its arguments, such as [./app, --verbose]", told(r.plain(n)))
			return
		}
		f.Run = append(f.Run, s)
	})(n)
}

func (r *reader) node(into *Node, n ast.Node) {
	const want = "a list of node's own flags, such as [--max-old-space-size=512]"
	r.mapping(n, "node", keys{
		"args": r.list("args", want, func(n ast.Node) {
			var arg string
			r.str("args", want, &arg, checkNodeArg)(n)
			into.Args = append(into.Args, arg)
		}),
		"scheduling":    r.str("scheduling", "shared or rr", &into.Scheduling, CheckScheduling),
		"steering":      r.str("steering", "one of "+strings.Join(steerings, ", "), &into.Steering, CheckSteering),
		"wait_ready":    r.boolean("wait_ready", &into.WaitReady),
		"never_listens": r.boolean("never_listens", &into.NeverListens),
		"stop_by":       r.str("stop_by", "disconnect, INT, TERM or shutdown", &into.StopBy, CheckStopBy),
		"drain_header":  r.boolean("drain_header", &into.DrainHeader),
	})
}

func (r *reader) serve(f *File, n ast.Node) {
	f.Serve = &Serve{}
	if _, empty := r.plain(n).(*ast.NullNode); empty {
		return // serve: with nothing is the welcome page
	}
	r.mapping(n, "serve", keys{
		"root":  r.str("root", "a directory", &f.Serve.Root, nil),
		"proxy": func(n ast.Node) { r.proxy(f.Serve, n) },
	})
}

// proxy takes prefixes and where they go.
func (r *reader) proxy(s *Serve, n ast.Node) {
	const want = "a URL, such as http://127.0.0.1:9000, a list of them, or a mapping with upstreams"
	r.pairs(n, "proxy", func(prefix string, at, value ast.Node) {
		if err := checkPrefix(prefix); err != nil {
			r.wrong(at, "%v", err)
			return
		}
		p := Proxy{Prefix: prefix}
		upstream := func(n ast.Node) {
			var u string
			r.str("upstream", want, &u, checkUpstream)(n)
			p.Upstreams = append(p.Upstreams, u)
		}
		before := len(r.errs)
		switch v := r.plain(value).(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
			r.mapping(value, prefix, keys{
				"upstreams":        r.list("upstreams", "a list of URLs, such as [\"http://127.0.0.1:9000\"]", upstream),
				"strip_prefix":     r.boolean("strip_prefix", &p.StripPrefix),
				"retries":          r.numberOr("retries", "off", -1, 1, maxRetries, &p.Retries),
				"dial_timeout":     r.duration("dial_timeout", true, &p.DialTimeout),
				"response_timeout": r.duration("response_timeout", true, &p.ResponseTimeout),
				"proxy_protocol":   r.number("proxy_protocol", 1, 2, &p.ProxyProtocol),
				"health": func(n ast.Node) {
					r.mapping(n, "health", keys{
						"path":     r.str("path", "a path, such as /healthz", &p.Health.Path, checkHealthPath),
						"interval": r.duration("interval", false, &p.Health.Interval),
						"timeout":  r.duration("timeout", false, &p.Health.Timeout),
					})
				},
			})
		case *ast.SequenceNode:
			r.list(prefix, want, upstream)(v)
		case nil:
		default:
			upstream(value)
		}
		if err := p.Check(); err != nil && len(r.errs) == before {
			r.wrong(value, "%v", err)
		}
		s.Proxy = append(s.Proxy, p)
	})
}

func (r *reader) env(c *Config, n ast.Node) {
	c.Env = map[string]string{}
	r.pairs(n, "env", func(key string, at, value ast.Node) {
		text, ok := r.text(value)
		switch {
		case key == "" || strings.ContainsAny(key, "=\x00"):
			r.wrong(at, "%q is no name of an environment variable: want one without '='", key)
		case !ok || strings.ContainsRune(text, 0):
			r.wrong(value, "env %s is %s: want text", key, told(r.plain(value)))
		default:
			c.Env[key] = text
		}
	})
}

// groups takes supplementary groups; an empty list is none.
func (r *reader) groups(c *Config, n ast.Node) {
	c.Groups = []string{}
	if seq, ok := r.plain(n).(*ast.SequenceNode); ok && len(seq.Values) == 0 {
		return
	}
	r.list("groups", "a list of names or numbers, or [] for none", func(n ast.Node) {
		var name string
		r.str("groups", "a name or a number", &name, nil)(n)
		c.Groups = append(c.Groups, name)
	})(n)
}

func (r *reader) rlimits(c *Config, n ast.Node) {
	c.Rlimits = map[string]int64{}
	takes := keys{}
	for name := range sys.Rlimits {
		takes[name] = func(n ast.Node) {
			s, _ := r.text(n)
			v, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				v, err = ParseSize(s)
			}
			switch {
			case s == "unlimited":
				c.Rlimits[name] = Unlimited
			case err != nil || v < 0:
				r.wrong(n, "%s is %s: want a number, a size such as 1GiB, or unlimited", name, told(r.plain(n)))
			default:
				c.Rlimits[name] = v
			}
		}
	}
	r.mapping(n, "rlimits", takes)
}

func (r *reader) limits(l *Limits, n ast.Node) {
	memory, requests := 0, 0
	r.mapping(n, "limits", keys{
		"max_memory":      r.size("max_memory", &memory),
		"max_requests":    r.number("max_requests", 0, math.MaxInt, &requests),
		"max_age":         r.duration("max_age", false, &l.MaxAge),
		"request_timeout": r.duration("request_timeout", false, &l.RequestTimeout),
	})
	l.MaxMemory, l.MaxRequests = int64(max(0, memory)), int64(requests)
}

func (r *reader) http(h *HTTP, n ast.Node) {
	before := len(r.errs)
	r.mapping(n, "http", keys{
		"header_timeout":      r.duration("header_timeout", true, &h.HeaderTimeout),
		"body_timeout":        r.duration("body_timeout", true, &h.BodyTimeout),
		"request_timeout":     r.duration("request_timeout", true, &h.RequestTimeout),
		"write_timeout":       r.duration("write_timeout", true, &h.WriteTimeout),
		"idle_timeout":        r.duration("idle_timeout", true, &h.IdleTimeout),
		"header_bytes":        r.size("header_bytes", &h.HeaderBytes),
		"body_bytes":          r.size("body_bytes", &h.BodyBytes),
		"connections":         r.numberOr("connections", "off", -1, 1, math.MaxInt32, &h.Connections),
		"connection_requests": r.numberOr("connection_requests", "off", -1, 1, math.MaxInt32, &h.ConnectionRequests),
		"defer_accept":        r.unless("defer_accept", &h.NoDeferAccept),
		"access_log":          r.str("access_log", "combined or json", &h.AccessLog, CheckAccessLog),
		"access_file":         r.str("access_file", "a path", &h.AccessFile, nil),
		"access_sample":       r.part("access_sample", &h.AccessSample),
		"crash_on_panic":      r.boolean("crash_on_panic", &h.CrashOnPanic),
	})
	if err := h.checkAccess(); err != nil && len(r.errs) == before {
		r.wrong(n, "%v", err)
	}
}

func (r *reader) logs(c *Config, n ast.Node) {
	l, before := &c.Logs, len(r.errs)
	r.mapping(n, "logs", keys{
		"format":     r.str("format", "text or json", &c.LogFormat, checkLogFormat),
		"file":       r.str("file", "a path", &l.File, nil),
		"out_file":   r.str("out_file", "a path", &l.OutFile, nil),
		"error_file": r.str("error_file", "a path", &l.ErrorFile, nil),
		"max_size":   r.size("max_size", &l.MaxSize),
		"keep":       r.numberOr("keep", "all", -1, 1, math.MaxInt32, &l.Keep),
	})
	if err := l.check(); err != nil && len(r.errs) == before {
		r.wrong(n, "%v", err)
	}
}

func (r *reader) reload(into *Reload, n ast.Node) {
	each := func(what, want string, check func(string) error, into *[]string) func(ast.Node) {
		return r.list(what, want, func(n ast.Node) {
			var one string
			if r.str(what, want, &one, check)(n); one != "" {
				*into = append(*into, one)
			}
		})
	}
	before := len(r.errs)
	r.mapping(n, "reload", keys{
		"cron": r.str("cron", "a time, such as \"0 3 * * *\"", &into.Cron, func(spec string) error {
			_, err := ParseCron(spec)
			return err
		}),
		"watch":  each("watch", "a list of files and directories, such as [src]", nil, &into.Watch),
		"ignore": each("ignore", "a list of names or patterns, such as [\"*.log\"]", checkIgnore, &into.Ignore),
		"delay":  r.duration("delay", false, &into.Delay),
	})
	if err := into.check(); err != nil && len(r.errs) == before {
		r.wrong(n, "%v", err)
	}
}
