// Package config is what an operator or a program asks of drover: one struct
// for flags, file and Go, its defaults, and the checks that turn a bad value
// into an error with a cure before any process is started.
package config

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"drover/internal/sys"
)

// Config describes one app: what it listens on, how many workers serve it, and
// the bounds they keep. The zero Config is valid but for Listen, which needs at
// least one address. It is read once, when the master or a worker starts; later
// changes to it have no effect.
type Config struct {
	// Name is what the commands and the control socket call this app: letters,
	// digits, '.', '_' and '-', at most 64. Empty takes the base name of the
	// program, with -2, -3, … appended while another living master has it. A
	// name that was given is never changed: taken, it is an error.
	Name string

	// Workers is how many processes serve. 0 is one per CPU that this process
	// may use: the affinity mask, bounded by the cgroup's CPU quota rounded up.
	// At most 1024.
	Workers int

	// Env is set in the environment of the workers, over what the master has
	// there itself. Nil adds nothing.
	Env map[string]string

	// Listen holds the addresses; every worker serves all of them.
	Listen []Listen

	// TrustedProxies are the networks and addresses of proxies before the app whose
	// word on who the client is is believed, as Trust reads them: the access log then
	// has the client that they name. Nil is nobody.
	TrustedProxies []string

	// Kind says what the program is: KindDrover, built on drover; KindForeign, any
	// other that takes listening sockets by LISTEN_FDS (sd_listen_fds(3)); KindNode,
	// a script for Node.js, or node itself with one; or KindAuto, also when empty:
	// Node's by its name or first line, drover's when it is a Go program that was
	// linked with drover, else foreign. A foreign one that says hello is on drover,
	// whatever was thought. Of Main and Run it is not looked at.
	Kind string
	// Node is about programs of KindNode.
	Node Node
	// Ready says when a foreign program serves: ReadyNotify, when it says READY=1
	// (sd_notify(3)); or ReadyAuto, also when empty: then too, and where it has
	// notified of nothing, once it has lived for MinUptime.
	Ready string
	// Nonblocking leaves the sockets of a foreign program non-blocking, as event
	// loops want them. False makes them blocking, as a plain accept wants them.
	Nonblocking bool
	// StopSignal is what a foreign program is told to leave by: TERM (also when
	// empty), INT, QUIT, HUP, USR1 or USR2. It is to finish what it has, within
	// Drain.
	StopSignal string

	// User and Group are who the workers run as, each a name or a number; only root
	// may change them. An empty User is who drover runs as, an empty Group the
	// user's own. Groups are the supplementary ones; nil is what the group database
	// has for User.
	User, Group string
	Groups      []string
	// NoNewPrivs keeps the workers and all that they start from gaining privileges
	// by set-user-ID files (prctl(2), PR_SET_NO_NEW_PRIVS).
	NoNewPrivs bool
	// OOMScoreAdj is added to what the kernel goes by when memory runs out, from
	// -1000, never, to 1000, first (proc(5), oom_score_adj). 0 leaves it as drover
	// has it. Less than that needs root.
	OOMScoreAdj int
	// Rlimits bound the resources of each worker, soft and hard, by the names of
	// prlimit(1): nofile, core, as, … Unlimited is none. What is not named is as
	// drover has it. More than drover's hard limit needs root.
	Rlimits map[string]int64

	// Procs is GOMAXPROCS inside each worker. 0 is 1, which is right for one
	// worker per CPU.
	Procs int

	// NoSchedTrace starts workers without schedtrace in their GODEBUG. With it, as
	// the default is, the runtime's monitor thread is not woken by each system call
	// of a worker that was idle, which about halves what a handler's round trip to
	// a database costs; a worker that does nothing takes 0.2 to 0.3 % of a CPU
	// more.
	NoSchedTrace bool

	// ReadyTimeout bounds how long a worker may take from start to ready; one
	// that takes longer is killed and counts as an early death. 0 is 30 s.
	ReadyTimeout time.Duration

	// MinUptime is how long a worker must have been ready for its death to be
	// answered at once, and how long the first worker of a reload must stay
	// alive before the second is started. 0 is 1 s.
	MinUptime time.Duration

	// HangTimeout is how long a worker that serves may miss its heartbeat, which
	// comes ten times a second, before it is killed and replaced. Its siblings
	// accept for it after 300 ms. 0 is 10 s.
	HangTimeout time.Duration

	// Drain bounds how long a worker that was told to leave may take to finish
	// the requests it has; then it is killed. 0 is 30 s.
	Drain time.Duration

	// LameDuck is the first part of Drain: idle connections stay open for it,
	// and each response asks its client to close, so that no client writes a
	// request into a closing connection. It ends early when no connection is
	// left. 0 is 1.5 s; negative closes idle connections at once.
	LameDuck time.Duration

	// OrphanTimeout is how long a worker whose master died serves on before it
	// drains by itself. 0 is 30 s; negative drains at once.
	OrphanTimeout time.Duration

	// StopDelay is how long a stop waits before the listeners close, while
	// everything is served on and /healthz of `drover serve` answers 503: the
	// time a load balancer needs to look elsewhere. 0 is none.
	StopDelay time.Duration

	// Limits says when a worker that serves is replaced. Zero is never.
	Limits Limits

	// HTTP holds the timeouts and limits of the HTTP engines.
	HTTP HTTP

	// LogFormat is "text" (one readable line for each event) or "json". Empty
	// is text.
	LogFormat string

	// Logs are the files that have what is printed.
	Logs Logs

	// Reload is when the app is reloaded without being asked to.
	Reload Reload
}

// Node says how a Node.js program is run: one process in each slot, as a worker
// of Node's cluster whose primary is drover. The zero value runs it as it is.
type Node struct {
	// Args are flags of node itself, which come before the script:
	// --max-old-space-size=512, --enable-source-maps.
	Args []string
	// Scheduling says who accepts: SchedulingShared, also when empty, each worker on
	// a socket of its own; or SchedulingRR, the master, which deals the connections
	// out in turn.
	Scheduling string
	// Steering is Listen.Steering of the TCP addresses that the program asks for,
	// where Config.Listen has none in their place. Empty is Spread.
	Steering string
	// WaitReady takes a worker for ready when it calls process.send('ready'), instead
	// of when it listens.
	WaitReady bool
	// NeverListens takes a worker for ready once it has run for MinUptime, though it
	// asks for no socket: for programs that take their work from a queue. One that
	// does ask is ready when it listens. StopBy is to be a signal or a message then:
	// without a server to close, disconnect ends nothing.
	NeverListens bool
	// StopBy is what a worker is told to leave by, to finish what it has within Drain:
	// StopDisconnect, also when empty, as cluster.disconnect() does, which closes its
	// servers; StopINT or StopTERM, signals that the program handles; or
	// StopShutdown, the message "shutdown".
	StopBy string
	// DrainHeader loads a module of drover's before the program, by node's --import
	// (Node 18.18 and later), that answers with Connection: close while a worker is
	// about to leave. It also takes the new keys of TLS session tickets that the master
	// makes every 12 hours; without it a reload brings new ones.
	DrainHeader bool
}

// Unlimited is a value of Config.Rlimits.
const Unlimited = -1

// What Config.Kind and Config.Ready may be.
const (
	KindAuto    = "auto"
	KindDrover  = "drover"
	KindForeign = "foreign"
	KindNode    = "node"
	ReadyAuto   = "auto"
	ReadyNotify = "notify"
)

// What Node.Scheduling and Node.StopBy may be.
const (
	SchedulingShared = "shared"
	SchedulingRR     = "rr"
	StopDisconnect   = "disconnect"
	StopINT          = "INT"
	StopTERM         = "TERM"
	StopShutdown     = "shutdown"
)

// Listen is one address.
type Listen struct {
	// Address is host:port; an empty host is every address of the machine, IPv4
	// and IPv6, and port 0 takes a free one. The host is an IP address or a name
	// that the resolver knows. Or it is a unix socket: unix:/run/app.sock, by its
	// absolute path, or unix:@name in the abstract namespace (unix(7)).
	Address string
	// Name is what Worker.Listener finds it by. Empty is Address.
	Name string
	// Steering says which worker a new connection goes to: Spread, Sticky, CPU or
	// Shared. Empty is Spread; of a unix socket it is Shared, and nothing else.
	Steering string
	// Mode is the permissions of a unix socket's path, at most 0777. 0 is 0666,
	// as nginx and systemd have it: the directory says who may come near.
	Mode fs.FileMode
	// ProxyProtocol has connections of trusted proxies (Config.TrustedProxies) begin
	// with a header of the PROXY protocol, version 1 or 2, that says who the client
	// is: that is their RemoteAddr then. Without one, or none within 5 s, they are
	// closed. Those of anybody else are taken as they are. Only programs on drover
	// have it.
	ProxyProtocol bool
	// TLS has the address speak HTTPS. Nil is plain text. Only programs on drover
	// have it: it is the workers who encrypt.
	TLS *TLS
}

// What Listen.Steering may be.
const (
	Spread = "spread" // evenly over the workers that serve
	Sticky = "sticky" // by the client's address: IPv4, or the /64 of IPv6
	CPU    = "cpu"    // by the CPU that received it; spread where that leaves a worker without
	Shared = "shared" // one socket for all workers
)

// MaxSticky bounds the workers of an app with a sticky address: the kernel takes
// programs of at most 4096 instructions (BPF_MAXINSNS of linux/bpf_common.h),
// and one that weighs addresses has 12 for each worker.
const MaxSticky = 330

// Unix reports whether the address is a unix socket, and gives its path, or its
// abstract name with the '@' before it.
func (l Listen) Unix() (path string, is bool) { return strings.CutPrefix(l.Address, "unix:") }

// Limits says when a worker that serves is replaced: its successor is started
// first, then it drains. No two slots are replaced at once. For every field 0 is
// no limit.
type Limits struct {
	// MaxMemory bounds the resident memory of one worker, in bytes, looked at
	// once a second.
	MaxMemory int64
	// MaxRequests bounds the requests that one worker answers. Each life's own
	// bound is up to a tenth lower, so that they do not all end together.
	MaxRequests int64
	// MaxAge bounds the time from a worker's start. Each life's own bound is up
	// to a tenth lower.
	MaxAge time.Duration
	// RequestTimeout bounds the time that a request may be in flight: a worker
	// with an older one is taken to be stuck. The request itself gets what the
	// drain allows.
	RequestTimeout time.Duration
}

// HTTP holds the timeouts and limits of the HTTP engines. For every field 0 is
// the default that is written there, and a negative value switches it off.
type HTTP struct {
	// HeaderTimeout bounds the time from a request's first byte (on a new
	// connection: from accept) to the end of its header. 0 is 10 s.
	HeaderTimeout time.Duration
	// BodyTimeout bounds how long a request's body may make no progress. 0 is 10 s.
	BodyTimeout time.Duration
	// RequestTimeout bounds the time from the end of a request's header to the end of
	// its body, however steadily that comes. 0 is 5 min.
	RequestTimeout time.Duration
	// WriteTimeout bounds how long a response that waits for its client may make no
	// progress: the client's TCP has acknowledged less than 500 bytes for each second of
	// it. 0 is 30 s.
	WriteTimeout time.Duration
	// IdleTimeout bounds how long a keep-alive connection may wait for its next
	// request. 0 is 60 s.
	IdleTimeout time.Duration
	// HeaderBytes bounds the request line and header fields, in bytes. Larger
	// ones are answered 431. 0 is 16384 (16 KiB).
	HeaderBytes int
	// BodyBytes bounds a request's body, in bytes. Larger ones are answered 413.
	// 0 is 4194304 (4 MiB).
	BodyBytes int
	// Connections bounds the open connections of one worker. While it has that
	// many it accepts no more; they wait in the kernel's queue. 0 is 100,000.
	Connections int
	// ConnectionRequests bounds the requests of one connection: the answer to the last
	// says that it closes. HTTP/2 has no such bound. 0 is none.
	ConnectionRequests int
	// NoDeferAccept lets a connection be accepted before its first bytes are
	// there. False waits for them in the kernel, which spares two wake-ups a
	// connection (tcp(7), TCP_DEFER_ACCEPT); a client that sends nothing is
	// accepted about a second later. Only HTTP engines have it: in HTTP the client
	// speaks first.
	NoDeferAccept bool
	// AccessLog is a line for each request: AccessCombined or AccessJSON. Empty is none.
	AccessLog string
	// AccessFile is where the lines go, by a path of the workers, who append to it
	// together; one that was moved away is made anew. Empty is the log.
	AccessFile string
	// AccessSample is which part of the requests has a line, by chance: above 0, at
	// most 1. 0 is 1, all.
	AccessSample float64
	// CrashOnPanic lets a panic in a handler end the worker, after its stack is
	// printed. False answers 500, counts and logs it, and serves on.
	CrashOnPanic bool
}

// What HTTP.AccessLog may be.
const (
	AccessCombined = "combined" // as Apache and nginx have it
	AccessJSON     = "json"     // an object a line
)

// CheckAccessLog says what is wrong with an HTTP's AccessLog, and what would be right.
func CheckAccessLog(format string) error {
	return oneOf("access log", format, AccessCombined, AccessJSON)
}

// checkAccess says what is wrong with an HTTP's access log, and what would be right.
func (h HTTP) checkAccess() error {
	switch {
	case h.AccessLog == "" && h.AccessFile != "":
		return wrong("access file", "%q without an access log: want its format too, %s or %s", h.AccessFile, AccessCombined, AccessJSON)
	case h.AccessLog == "" && h.AccessSample != 0:
		return wrong("access sample", "%v without an access log: want its format too, %s or %s", h.AccessSample, AccessCombined, AccessJSON)
	case !(h.AccessSample >= 0 && h.AccessSample <= 1):
		return wrong("access sample", "%v: want a number above 0, and at most 1, which is every request", h.AccessSample)
	}
	return CheckAccessLog(h.AccessLog)
}

// orDefault gives v, or def where v is the zero value; off where v is negative.
func orDefault[T int | time.Duration](v *T, def T) {
	switch {
	case *v == 0:
		*v = def
	case *v < 0:
		*v = -1
	}
}

// WithDefaults returns h with every zero replaced by its default and every
// negative value by -1, which means off.
func (h HTTP) WithDefaults() HTTP {
	orDefault(&h.HeaderTimeout, 10*time.Second)
	orDefault(&h.BodyTimeout, 10*time.Second)
	orDefault(&h.RequestTimeout, 5*time.Minute)
	orDefault(&h.WriteTimeout, 30*time.Second)
	orDefault(&h.IdleTimeout, 60*time.Second)
	orDefault(&h.HeaderBytes, 16<<10)
	orDefault(&h.BodyBytes, 4<<20)
	orDefault(&h.Connections, 100_000)
	orDefault(&h.ConnectionRequests, 0)
	return h
}

// WithDefaults returns c with every zero replaced by its default, but for
// Name and Workers, whose defaults are found on the machine by the master.
func (c Config) WithDefaults() Config {
	orDefault(&c.Procs, 1)
	orDefault(&c.ReadyTimeout, 30*time.Second)
	orDefault(&c.MinUptime, time.Second)
	orDefault(&c.HangTimeout, 10*time.Second)
	orDefault(&c.Drain, 30*time.Second)
	orDefault(&c.LameDuck, 1500*time.Millisecond)
	orDefault(&c.OrphanTimeout, 30*time.Second)
	orDefault(&c.Logs.MaxSize, 100<<20)
	orDefault(&c.Logs.Keep, 5)
	orDefault(&c.Reload.Delay, 200*time.Millisecond)
	c.HTTP = c.HTTP.WithDefaults()
	if c.LogFormat == "" {
		c.LogFormat = "text"
	}
	listen := make([]Listen, len(c.Listen))
	for i, l := range c.Listen {
		if l.Name == "" {
			l.Name = l.Address
		}
		_, unix := l.Unix()
		if unix && l.Mode == 0 {
			l.Mode = 0o666
		}
		switch {
		case l.Steering != "":
		case unix:
			l.Steering = Shared
		default:
			l.Steering = Spread
		}
		listen[i] = l
	}
	c.Listen = listen
	return c
}

// Error is a field of a Config that cannot work as it is.
type Error struct{ Field, Why string }

func (e *Error) Error() string { return e.Field + ": " + e.Why }

func wrong(field, format string, args ...any) error {
	return &Error{field, fmt.Sprintf(format, args...)}
}

// MaxWorkers bounds Workers: a channel's message must hold every slot's sockets.
const MaxWorkers = 1024

func checkLogFormat(format string) error {
	if format != "text" && format != "json" {
		return wrong("log format", "%q: want text or json", format)
	}
	return nil
}

var steerings = []string{Spread, Sticky, CPU, Shared}

// CheckSteering says what is wrong with a Listen's Steering, and what would be
// right.
func CheckSteering(steering string) error {
	if steering != "" && !slices.Contains(steerings, steering) {
		return wrong("steering", "%q: want one of %s", steering, strings.Join(steerings, ", "))
	}
	return nil
}

// check says what is wrong with one address.
func (l Listen) check() error {
	if err := checkAddress(l.Address); err != nil {
		return err
	}
	if err := CheckSteering(l.Steering); err != nil {
		return err
	}
	if l.TLS != nil {
		if err := l.TLS.check(); err != nil {
			return err
		}
	}
	_, unix := l.Unix()
	switch {
	case unix && l.Steering != "" && l.Steering != Shared:
		return wrong("steering", "%q on %s: the kernel steers TCP only: want shared, or nothing", l.Steering, l.Address)
	case !unix && l.Mode != 0:
		return wrong("mode", "%#o on %s: only the path of a unix socket has one", l.Mode, l.Address)
	case l.Mode&^0o777 != 0:
		return wrong("mode", "%#o on %s: want permissions of at most 0777, such as 0660", l.Mode, l.Address)
	}
	return nil
}

// CheckKind says what is wrong with a Config's Kind, and what would be right.
func CheckKind(kind string) error {
	return oneOf("kind", kind, KindAuto, KindDrover, KindForeign, KindNode)
}

// CheckReady says what is wrong with a Config's Ready, and what would be right.
func CheckReady(ready string) error { return oneOf("ready", ready, ReadyAuto, ReadyNotify) }

// CheckScheduling says what is wrong with a Node's Scheduling, and what would be
// right.
func CheckScheduling(scheduling string) error {
	return oneOf("scheduling", scheduling, SchedulingShared, SchedulingRR)
}

// CheckStopBy says what is wrong with a Node's StopBy, and what would be right.
func CheckStopBy(by string) error {
	return oneOf("stop by", by, StopDisconnect, StopINT, StopTERM, StopShutdown)
}

// checkNodeArg says what is wrong with one of a Node's Args.
func checkNodeArg(arg string) error {
	if !strings.HasPrefix(arg, "-") {
		return wrong("node args", "%q: want a flag of node's, such as --max-old-space-size=512, or its value behind '='", arg)
	}
	return nil
}

// Check says what is wrong with a Node, and what would be right.
func (n Node) Check() error {
	for _, arg := range n.Args {
		if err := checkNodeArg(arg); err != nil {
			return err
		}
	}
	if n.WaitReady && n.NeverListens {
		return wrong("node", "wait_ready and never_listens: want one of them: who says ready needs not live for a while to be believed")
	}
	return cmp.Or(CheckScheduling(n.Scheduling), CheckSteering(n.Steering), CheckStopBy(n.StopBy))
}

// isZero reports whether nothing is asked of Node.
func (n Node) isZero() bool {
	return len(n.Args) == 0 && n.Scheduling == "" && n.Steering == "" && !n.WaitReady && !n.NeverListens && (n.StopBy == "" || n.StopBy == StopDisconnect) && !n.DrainHeader
}

// CheckForNode says what of a Config cannot be had by a program of KindNode,
// where Kind says so or it turned out to be one; and what of Node by any other.
func (c Config) CheckForNode(is bool) error {
	const foreign = "is for foreign programs: a Node program "
	switch {
	case !is && c.Node.Steering != "":
		return wrong("steering", "%q of the addresses that the program asks for: only a Node program does so: name the address as well (--listen)", c.Node.Steering)
	case !is && !c.Node.isZero():
		return wrong("node", "what is said of Node (as by --round-robin, --wait-ready) is for Node programs, and the program is none: want a script that ends in .js, .mjs, .cjs or .ts, or kind node")
	case !is:
		return nil
	case c.Ready != "" && c.Ready != ReadyAuto:
		return wrong("ready", "%s %sis ready when it listens, or with wait_ready of node when it says so", c.Ready, foreign)
	case c.StopSignal != "" && c.StopSignal != "TERM":
		return wrong("stop signal", "%s %sleaves by stop_by of node", c.StopSignal, foreign)
	case c.Nonblocking:
		return wrong("nonblocking", "it %salways has such sockets", foreign)
	}
	return nil
}

// signals are those by which a program may be told to leave.
var signals = map[string]syscall.Signal{
	"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "QUIT": syscall.SIGQUIT,
	"HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

// CheckStopSignal says what is wrong with a Config's StopSignal, and what would be
// right.
func CheckStopSignal(name string) error {
	return oneOf("stop signal", name, slices.Sorted(maps.Keys(signals))...)
}

// Signal is the signal of a Config's StopSignal that is good.
func Signal(name string) syscall.Signal { return signals[cmp.Or(name, "TERM")] }

func oneOf(field, value string, words ...string) error {
	if value != "" && !slices.Contains(words, value) {
		return wrong(field, "%q: want one of %s", value, strings.Join(words, ", "))
	}
	return nil
}

// Check returns the first thing in c that cannot work, as an *Error or an
// *AddressError: the field, its value and what would be right.
func (c Config) Check() error {
	if c.Name != "" {
		if err := checkName(c.Name); err != nil {
			return err
		}
	}
	if c.Workers < 0 || c.Workers > MaxWorkers {
		return wrong("workers", "%d: want a number from 1 to %d, or 0 (auto) for one per CPU", c.Workers, MaxWorkers)
	}
	if c.Limits.MaxMemory < 0 || c.Limits.MaxRequests < 0 {
		return wrong("limits", "%+v: want numbers of at least 0, which is no limit", c.Limits)
	}
	if c.Procs < 0 {
		return wrong("procs", "%d: want a number of at least 1, or 0 for 1", c.Procs)
	}
	if err := checkLogFormat(c.LogFormat); err != nil && c.LogFormat != "" {
		return err
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"max age", c.Limits.MaxAge}, {"request timeout", c.Limits.RequestTimeout}, {"ready timeout", c.ReadyTimeout}, {"min uptime", c.MinUptime}, {"hang timeout", c.HangTimeout}, {"drain", c.Drain}, {"stop delay", c.StopDelay}} {
		if d.value < 0 {
			return wrong(d.field, "%v: want a duration of at least 0", d.value)
		}
	}
	for _, err := range []error{CheckKind(c.Kind), CheckReady(c.Ready), CheckStopSignal(c.StopSignal), c.Node.Check(), c.HTTP.checkAccess(), c.Logs.check(), c.Reload.check()} {
		if err != nil {
			return err
		}
	}
	switch c.Kind {
	case "", KindAuto: // whoever looks at the program knows
	default:
		if err := c.CheckForNode(c.Kind == KindNode); err != nil {
			return err
		}
	}
	if c.OOMScoreAdj < -1000 || c.OOMScoreAdj > 1000 {
		return wrong("oom score adj", "%d: want a number from -1000 to 1000", c.OOMScoreAdj)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Rlimits)) {
		if _, ok := sys.Rlimits[name]; !ok {
			return wrong("rlimits", "%q: want one of %s", name, strings.Join(slices.Sorted(maps.Keys(sys.Rlimits)), ", "))
		}
		if n := c.Rlimits[name]; n < Unlimited {
			return wrong("rlimits", "%s is %d: want a number of at least 0, or %d for none", name, n, Unlimited)
		}
	}
	if _, err := Trust(c.TrustedProxies...); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, l := range c.Listen {
		if err := l.check(); err != nil {
			return err
		}
		if l.ProxyProtocol && len(c.TrustedProxies) == 0 {
			return wrong("proxy protocol", "on %s without trusted proxies: want whose word is believed too, such as trusted_proxies: [10.0.0.0/8], or unix for a unix socket", l.Address)
		}
		if l.Steering == Sticky && c.Workers > MaxSticky {
			return wrong("steering", "sticky on %s with %d workers: want at most %d, which is what fits a program of the kernel's", l.Address, c.Workers, MaxSticky)
		}
		name := l.Name
		if name == "" {
			name = l.Address
		}
		if seen[name] {
			return wrong("listen", "%q is named twice: give each address once, or different names", name)
		}
		seen[name] = true
	}
	return nil
}
