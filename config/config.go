// Package config is what an operator or a program asks of drover: one struct
// for flags, file and Go, its defaults, and the checks that turn a bad value
// into an error with a cure before any process is started.
package config

import (
	"fmt"
	"time"
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

	// Listen holds the addresses; every worker serves all of them.
	Listen []Listen

	// Procs is GOMAXPROCS inside each worker. 0 is 1, which is right for one
	// worker per CPU.
	Procs int

	// ReadyTimeout bounds how long a worker may take from start to ready; one
	// that takes longer is killed and counts as an early death. 0 is 30 s.
	ReadyTimeout time.Duration

	// MinUptime is how long a worker must have been ready for its death to be
	// answered at once, and how long the first worker of a reload must stay
	// alive before the second is started. 0 is 1 s.
	MinUptime time.Duration

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

	// HTTP holds the timeouts and limits of the HTTP engines.
	HTTP HTTP

	// LogFormat is "text" (one readable line for each event) or "json". Empty
	// is text.
	LogFormat string
}

// Listen is one address.
type Listen struct {
	// Address is host:port; an empty host is every address of the machine, IPv4
	// and IPv6, and port 0 takes a free one. The host is an IP address or a name
	// that the resolver knows.
	Address string
	// Name is what Worker.Listener finds it by. Empty is Address.
	Name string
}

// HTTP holds the timeouts and limits of the HTTP engines. For every field 0 is
// the default that is written there, and a negative value switches it off.
type HTTP struct {
	// HeaderTimeout bounds the time from a request's first byte (on a new
	// connection: from accept) to the end of its header. 0 is 10 s.
	HeaderTimeout time.Duration
	// BodyTimeout bounds how long a request's body may make no progress. 0 is 10 s.
	BodyTimeout time.Duration
	// WriteTimeout bounds how long a response may make no progress, measured by
	// what the client's TCP has acknowledged. 0 is 30 s.
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
	// CrashOnPanic lets a panic in a handler end the worker, after its stack is
	// printed. False answers 500, counts and logs it, and serves on.
	CrashOnPanic bool
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
	orDefault(&h.WriteTimeout, 30*time.Second)
	orDefault(&h.IdleTimeout, 60*time.Second)
	orDefault(&h.HeaderBytes, 16<<10)
	orDefault(&h.BodyBytes, 4<<20)
	orDefault(&h.Connections, 100_000)
	return h
}

// WithDefaults returns c with every zero replaced by its default, but for
// Name and Workers, whose defaults are found on the machine by the master.
func (c Config) WithDefaults() Config {
	orDefault(&c.Procs, 1)
	orDefault(&c.ReadyTimeout, 30*time.Second)
	orDefault(&c.MinUptime, time.Second)
	orDefault(&c.Drain, 30*time.Second)
	orDefault(&c.LameDuck, 1500*time.Millisecond)
	orDefault(&c.OrphanTimeout, 30*time.Second)
	c.HTTP = c.HTTP.WithDefaults()
	if c.LogFormat == "" {
		c.LogFormat = "text"
	}
	listen := make([]Listen, len(c.Listen))
	for i, l := range c.Listen {
		if l.Name == "" {
			l.Name = l.Address
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

// Check returns the first thing in c that cannot work, as an *Error or an
// *AddressError: the field, its value and what would be right.
func (c Config) Check() error {
	if c.Name != "" {
		if err := checkName(c.Name); err != nil {
			return err
		}
	}
	if c.Workers < 0 || c.Workers > 1024 {
		return wrong("workers", "%d: want a number from 1 to 1024, or 0 (auto) for one per CPU", c.Workers)
	}
	if c.Procs < 0 {
		return wrong("procs", "%d: want a number of at least 1, or 0 for 1", c.Procs)
	}
	if c.LogFormat != "" && c.LogFormat != "text" && c.LogFormat != "json" {
		return wrong("log format", "%q: want text or json", c.LogFormat)
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"ready timeout", c.ReadyTimeout}, {"min uptime", c.MinUptime}, {"drain", c.Drain}, {"stop delay", c.StopDelay}} {
		if d.value < 0 {
			return wrong(d.field, "%v: want a duration of at least 0", d.value)
		}
	}
	seen := map[string]bool{}
	for _, l := range c.Listen {
		if err := checkAddress(l.Address); err != nil {
			return err
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
