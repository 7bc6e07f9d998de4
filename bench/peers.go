package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// server is one of those compared. One that cannot be had stays in the list, so
// that every table names it.
type server struct {
	key      string // for --peer
	name     string
	kinds    []kind // the loads that it can serve
	optional bool   // left out of quick runs, unless asked for
	sockets  int    // that listen when all of it is up
	version  string
	missing  error // why it cannot be had, with the cure; nil if it can
	command  func(l load, port int) (command, error)
}

// command starts a server for a load.
type command struct {
	args []string // the program first
	env  []string // added to ours
}

func (s server) serves(l load) bool { return slices.Contains(s.kinds, l.kind) }

var (
	web  = []kind{keepalive, pipelined, closing}
	most = []kind{keepalive, crowded, pipelined, closing, idling}
	all  = []kind{keepalive, crowded, pipelined, closing, idling, jsonKind, file, encrypted, shaking, redis}
)

// keys are the names that --peer takes, drover's first.
var keys = []string{
	"drover", "prefork", "fasthttp", "nethttp", "nginx", "nginx-deferred", "c", "node",
	"drover-unguarded", "drover-nethttp", "gnet", "fiber", "haproxy", "h2o", "bun", "pm2",
}

// withGuard are the loads in which what the guard costs is measured.
var withGuard = []kind{keepalive, pipelined}

// peers makes the servers of those keys, in the order of keys. Without drover
// there is nothing to compare with, which is an error.
func (s *site) peers(ctx context.Context, wanted []string) ([]server, error) {
	var found []server
	for _, key := range keys {
		if !slices.Contains(wanted, key) {
			continue
		}
		p := s.make(ctx, key)
		p.key = key
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if key == "drover" && p.missing != nil {
			return nil, p.missing
		}
		found = append(found, p)
	}
	return found, nil
}

// make prepares one server: builds it, or finds it.
func (s *site) make(ctx context.Context, key string) server {
	switch key {
	case "drover":
		p := s.goPeer(ctx, "drover", "drover", s.workers, append([]kind{resuming}, all...))
		binary, err := s.goBuild(ctx, "..", "./cmd/drover", "drover")
		if err != nil {
			p.missing = err
		}
		own := p.command
		p.command = func(l load, port int) (command, error) {
			if l.kind != file {
				return own(l, port)
			}
			return command{
				args: []string{binary, "serve", s.files, "--workers", strconv.Itoa(s.workers), "--listen", local(port)},
				env:  s.runtimeDir(),
			}, nil
		}
		return p
	case "prefork":
		// Its master does not listen; each child sets GOMAXPROCS 1.
		return s.goPeer(ctx, "fasthttp prefork", "prefork", s.workers, all)
	case "fasthttp":
		return s.goPeer(ctx, "fasthttp, one process", "fasthttp", 1, []kind{keepalive, crowded, pipelined, closing, jsonKind, file, redis})
	case "nethttp":
		return s.goPeer(ctx, "net/http, one process", "nethttp", 1, all)
	case "drover-nethttp":
		p := s.goPeer(ctx, "drover, net/http engine", "drover-nethttp", s.workers, []kind{keepalive, closing, jsonKind, encrypted, shaking, resuming, redis})
		p.optional = true
		return p
	case "drover-unguarded":
		p := s.goPeer(ctx, "drover without its guard", "drover", s.workers, withGuard)
		binary, err := s.goBuild(ctx, ".", "./peer", "unguarded", "-tags", "unguarded")
		if err != nil {
			p.missing = err
		}
		own := p.command
		p.command = func(l load, port int) (command, error) {
			c, err := own(l, port)
			c.args[0] = binary
			return c, err
		}
		return p
	case "nginx":
		return s.nginx("nginx", "", append([]kind{file, encrypted, shaking, resuming}, most...))
	case "nginx-deferred":
		return s.nginx("nginx, deferred", " deferred", []kind{closing})
	case "c":
		return s.loop(ctx)
	case "node":
		return s.node()
	case "gnet", "fiber":
		return s.framework(ctx, key)
	case "haproxy":
		return s.haproxy()
	case "h2o":
		return s.h2o()
	case "bun":
		return s.bun()
	case "pm2":
		return s.pm2()
	}
	panic("no server has the key " + key)
}

func local(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

func (s *site) runtimeDir() []string {
	return []string{"DROVER_RUNTIME_DIR=" + filepath.Join(s.dir, "run")}
}

// goPeer is a mode of ./peer. What is common to all Go servers is built once.
func (s *site) goPeer(ctx context.Context, name, mode string, sockets int, kinds []kind) server {
	if !s.built {
		s.built = true
		s.peer, s.peerErr = s.goBuild(ctx, ".", "./peer", "peer")
	}
	p := server{name: name, kinds: kinds, sockets: sockets, missing: s.peerErr, version: moduleIn(s.peer, "github.com/valyala/fasthttp")}
	if mode == "nethttp" || mode == "drover-nethttp" {
		p.version = ""
	}
	p.command = func(l load, port int) (command, error) {
		args := []string{s.peer, "-mode", mode, "-listen", local(port), "-workers", strconv.Itoa(s.workers)}
		switch l.kind {
		case file:
			args = append(args, "-files", s.files)
		case encrypted, shaking, resuming:
			args = append(args, "-certificate", s.cert, "-key", s.key)
		case redis:
			args = append(args, "-redis", s.redis)
		}
		return command{args, append(s.runtimeDir(), "GOMAXPROCS="+strconv.Itoa(s.workers))}, nil
	}
	return p
}

// framework is a Go server of a package of its own, so that a framework that
// cannot be had costs none of the others.
func (s *site) framework(ctx context.Context, key string) server {
	binary, err := s.goBuild(ctx, ".", "./peer/"+key, key)
	p := server{optional: true, sockets: s.workers, missing: err, kinds: web}
	args := []string{binary}
	if key == "gnet" {
		p.name, p.version = "gnet", moduleIn(binary, "github.com/panjf2000/gnet/v2")
		args = append(args, "-loops", strconv.Itoa(s.workers))
	} else {
		p.name, p.version = "fiber prefork", moduleIn(binary, "github.com/gofiber/fiber/v3")
		p.kinds = append([]kind{jsonKind}, web...)
	}
	p.command = func(_ load, port int) (command, error) {
		return command{append(slices.Clone(args), "-listen", local(port)), []string{"GOMAXPROCS=" + strconv.Itoa(s.workers)}}, nil
	}
	return p
}

// loop is our own C source.
func (s *site) loop(ctx context.Context) server {
	binary, err := s.gcc(ctx, "peer/c/loop.c", "loop")
	return server{
		name: "C epoll loop", kinds: most, sockets: s.workers, missing: missing(err, "gcc", "apt-get install gcc libc6-dev"),
		version: firstLine("gcc", "--version"),
		command: func(_ load, port int) (command, error) {
			return command{args: []string{binary, strconv.Itoa(port), strconv.Itoa(s.workers)}}, nil
		},
	}
}

// moduleIn is the version of a module that a binary was built with.
func moduleIn(binary, module string) string {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return ""
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			return dep.Path[strings.Index(dep.Path, "/")+1:] + " " + dep.Version
		}
	}
	return ""
}

// firstLine is the first line that a program prints, on either stream; empty if
// it cannot be run.
func firstLine(program string, args ...string) string {
	out, _ := exec.Command(program, args...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// missing says what is not there, and what brings it.
func missing(err error, what, cure string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w (%s)", what, err, cure)
}
