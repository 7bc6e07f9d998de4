package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// running is a server that was started. Who started it must call stop.
type running struct {
	server
	port   int
	cmd    *exec.Cmd
	output string        // the file that holds what it printed
	exited chan struct{} // closed when the process that was started has been waited for
	ours   []process     // its processes, as seen by look; one may be there twice
}

func (r *running) address() string { return local(r.port) }

// start starts a server on a free port, for a load. It returns before the server
// is up.
//
// Only main's goroutine may call it: the server gets a SIGTERM when the thread
// that started it ends, be it by SIGKILL.
func (s server) start(dir string, l load) (*running, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	n, err := listeningOn(port)
	if err != nil {
		return nil, err
	}
	if n != 0 {
		return nil, fmt.Errorf("port %d is not free: %d sockets listen on it", port, n)
	}
	c, err := s.command(l, port)
	if err != nil {
		return nil, err
	}
	r := &running{server: s, port: port}
	return r, r.launch(dir, c)
}

// launch starts the process.
func (r *running) launch(dir string, c command) error {
	output, err := os.Create(filepath.Join(dir, "output-"+strconv.Itoa(r.port)))
	if err != nil {
		return fmt.Errorf("make a file for what %s prints: %w", r.name, err)
	}
	defer output.Close()
	r.output, r.exited = output.Name(), make(chan struct{})
	r.cmd = exec.Command(c.args[0], c.args[1:]...)
	r.cmd.Dir = dir
	r.cmd.Env = append(os.Environ(), c.env...)
	r.cmd.Stdout, r.cmd.Stderr = output, output // a file: a pipe would make Wait wait for the children too
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := r.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", r.name, err)
	}
	go func() { // ends with the process, which stop sees to
		r.cmd.Wait()
		close(r.exited)
	}()
	return nil
}

// up waits until as many sockets listen as the server is to have.
func (r *running) up(ctx context.Context) error {
	seen := 0
	err := until(ctx, 10*time.Second, func() (bool, error) {
		select {
		case <-r.exited:
			return false, fmt.Errorf("it ended: %v", r.cmd.ProcessState)
		default:
		}
		var err error
		seen, err = listeningOn(r.port)
		return seen == r.sockets, err
	})
	if err != nil {
		return fmt.Errorf("wait for %d listening sockets on port %d, of which there were %d: %w", r.sockets, r.port, seen, err)
	}
	r.look()
	return nil
}

// stop ends the server and all its processes, and waits until they are gone and
// the port is free. It is bounded by itself: it works after a Ctrl-C too.
func (r *running) stop() error {
	r.look()
	r.signalGroup(syscall.SIGTERM)
	if until(context.Background(), 5*time.Second, r.gone) == nil {
		return nil
	}
	// The master first, lest it replaces the workers. Drover's are in groups of
	// their own.
	r.look()
	r.signalGroup(syscall.SIGKILL)
	for _, p := range alive(r.ours) {
		syscall.Kill(p.pid, syscall.SIGKILL)
	}
	if err := until(context.Background(), 5*time.Second, r.gone); err != nil {
		return fmt.Errorf("stop %s: killed, yet processes %v live or port %d is taken: %w", r.name, pids(alive(r.ours)), r.port, err)
	}
	return fmt.Errorf("stop %s: it had to be killed 5s after SIGTERM", r.name)
}

// look adds the processes that descend from the one that was started to ours.
// What a master that died left behind is there from before.
func (r *running) look() {
	now, err := tree(r.cmd.Process.Pid)
	if err != nil {
		return // the group is signalled all the same
	}
	r.ours = append(r.ours, now...)
}

// gone tells whether all processes have ended and the port is free.
func (r *running) gone() (bool, error) {
	select {
	case <-r.exited:
	default:
		return false, nil
	}
	if len(alive(r.ours)) > 0 {
		return false, nil
	}
	n, err := listeningOn(r.port)
	return n == 0, err
}

// signalGroup signals the group of the process that was started, unless that
// has been waited for: the number could be another's by then.
func (r *running) signalGroup(sig syscall.Signal) {
	select {
	case <-r.exited:
	default:
		syscall.Kill(-r.cmd.Process.Pid, sig)
	}
}

// alive are those of ps that have not ended.
func alive(ps []process) []process {
	var living []process
	for _, p := range ps {
		if now, err := stat(p.pid); err == nil && now.same(p) && now.state != 'Z' && now.state != 'X' {
			living = append(living, p)
		}
	}
	return living
}

// said are the last lines that the server printed, for an error.
func (r *running) said() string {
	data, err := os.ReadFile(r.output)
	if err != nil {
		return err.Error()
	}
	if len(data) == 0 {
		return "(it printed nothing)"
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// freePort is a port that was free a moment ago. Every run has another one, so
// that none meets the TIME_WAIT of the one before.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return 0, fmt.Errorf("give back port %d: %w", port, err)
	}
	return port, nil
}

// until asks every 20 ms whether something is so, within a time.
func until(ctx context.Context, within time.Duration, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if ok, err := so(); ok || err != nil {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
