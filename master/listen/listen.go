// Package listen holds the master's listening sockets: for each address one
// socket a slot, in one SO_REUSEPORT group. A slot's socket outlives every
// worker that accepts on it, so that what waits in its queue is never lost; it
// is closed only when the master ends. Who serves is not known here.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"drover/internal/sys"

	"github.com/libp2p/go-reuseport"
)

// Group is the sockets of one address. One goroutine owns it.
type Group struct {
	Name    string // what a worker finds it by
	Address string // as it is bound, with the port that was found for port 0

	network string
	sockets []int // by slot; raw, non-blocking, close-on-exec
}

// Open binds an address. Its first socket is bound alone, without SO_REUSEPORT,
// so that it fails when anybody else serves the address, whatever options they
// have set; only then are others let in. With join it becomes one more member
// of a group that exists: the workers of a master that died still serve it.
func Open(ctx context.Context, name, address string, join bool) (*Group, error) {
	g := &Group{Name: name, network: "tcp"}
	fd, bound, err := bind(ctx, g.network, address, join)
	if err != nil {
		return nil, explain(address, err)
	}
	if err := sys.SetReusePort(fd); err != nil {
		sys.Close(fd)
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	g.Address = bound
	g.sockets = []int{fd}
	return g, nil
}

// Socket is a slot's socket, opened when the slot is first needed. Slots are
// numbered from 0 and asked for in order: a socket is only ever appended, since
// the kernel knows it by its place in the group. The descriptor stays the
// group's.
func (g *Group) Socket(ctx context.Context, slot int) (int, error) {
	for len(g.sockets) <= slot {
		fd, _, err := bind(ctx, g.network, g.Address, true)
		if err != nil {
			return -1, fmt.Errorf("listen on %s for slot %d: %w", g.Address, len(g.sockets), reason(err))
		}
		g.sockets = append(g.sockets, fd)
	}
	return g.sockets[slot], nil
}

// Sockets are all sockets of the group by slot. They stay the group's.
func (g *Group) Sockets() []int { return g.sockets }

// RefuseNew lets no new connection in, while those that are queued stay: the
// first step of a full stop.
func (g *Group) RefuseNew() error {
	for slot, fd := range g.sockets {
		if err := sys.RefuseNew(fd); err != nil {
			return fmt.Errorf("refuse new connections on %s for slot %d: %w", g.Address, slot, err)
		}
	}
	return nil
}

// Close closes the master's sockets. What is queued on one that no worker holds
// is reset by the kernel.
func (g *Group) Close() {
	for _, fd := range g.sockets {
		sys.Close(fd)
	}
	g.sockets = nil
}

// bind makes a listening socket and returns its raw descriptor and its address.
func bind(ctx context.Context, network, address string, shared bool) (int, string, error) {
	var config net.ListenConfig
	// Classic BPF steering cannot be attached to a multipath TCP listener.
	config.SetMultipathTCP(false)
	if shared {
		config.Control = reuseport.Control
	}
	l, err := config.Listen(ctx, network, address)
	if err != nil {
		return -1, "", err
	}
	// The listener's own descriptor is in the runtime's poller, which would wake
	// the master for every connection: keep a second one, outside of it.
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return -1, "", err
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(n uintptr) { fd, dupErr = sys.Dup(int(n)) }); err != nil {
		return -1, "", err
	}
	return fd, l.Addr().String(), dupErr
}

// InUseError says that somebody else serves the address.
type InUseError struct {
	Address string
	Holder  *Holder // nil where it cannot be found
}

func (e *InUseError) Error() string {
	if e.Holder == nil {
		return fmt.Sprintf("listen on %s: address already in use (by a process that this user cannot see)", e.Address)
	}
	return fmt.Sprintf("listen on %s: address already in use by %s", e.Address, e.Holder)
}

func (e *InUseError) Unwrap() error { return syscall.EADDRINUSE }

// reason strips the words that package net puts around a system call's error.
func reason(err error) error {
	var sysErr syscall.Errno
	if errors.As(err, &sysErr) {
		return sysErr
	}
	return err
}

// explain says in one line why an address cannot be had, and what to do.
func explain(address string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &InUseError{Address: address, Holder: findHolder(address)}
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listen on %s: %w: ports below net.ipv4.ip_unprivileged_port_start need root or CAP_NET_BIND_SERVICE", address, syscall.EACCES)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s: %w: no interface of this machine has that address", address, syscall.EADDRNOTAVAIL)
	}
	return fmt.Errorf("listen on %s: %w", address, reason(err))
}
