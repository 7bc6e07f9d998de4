// Package listen holds the master's listening sockets: for each address one
// socket a slot, in one SO_REUSEPORT group, or one for all. A socket outlives
// every worker that accepts on it, so that what waits in its queue is never
// lost; it is closed only when the master ends. Which of a group gets a new
// connection is steered here; who serves is not known.
package listen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"drover/config"
	"drover/internal/sys"

	"github.com/libp2p/go-reuseport"
)

// Group is the sockets of one address. One goroutine owns it.
type Group struct {
	Name    string // what a worker finds it by
	Address string // as it is bound, with the port that was found for port 0

	asked   string // steering, of config.Listen
	network string
	sockets []int // by slot; raw, non-blocking, close-on-exec. A shared address has one
	kept    bool  // the one is the service manager's, who goes on with it
	blocks  bool  // whoever accepts waits
	path    *path // of a unix socket of ours that has one

	order    []int       // slots, as the kernel has their sockets in the group; nil: not known
	lost     string      // why it is not known
	slots    []int       // that get new connections; nil: all
	stands   map[int]int // socket: the slot that it stands for; nil: each for its own
	undone   string      // why the steering that was asked for is given up; empty: it is not
	attached bool        // we have attached a program
	muted    bool        // RefuseNew was called: nothing is mended any more
	full     *full       // gets what is refused; nil: a filter drops it
	found    []Finding
	failing  string // what Mend could not do the last time: told once
}

// Open binds an address. Its first socket is bound alone, without SO_REUSEPORT,
// so that it fails when anybody else serves the address, whatever options they
// have set; only then are others let in. With join it becomes one more member
// of a group that exists: the workers of a master that died still serve it.
func Open(ctx context.Context, l config.Listen, join bool) (*Group, error) {
	if name, is := l.Unix(); is {
		return openUnix(ctx, l, name, join)
	}
	return openTCP(ctx, l, join, "tcp")
}

// OpenFamily is Open of a TCP address on network tcp4 or tcp6 alone, where Open,
// as Go does, takes either family's address of the whole machine for both
// (ipv6(7), IPV6_V6ONLY); or on tcp.
func OpenFamily(ctx context.Context, network string, l config.Listen) (*Group, error) {
	return openTCP(ctx, l, false, network)
}

func openTCP(ctx context.Context, l config.Listen, join bool, network string) (*Group, error) {
	g := &Group{Name: l.Name, asked: cmp.Or(l.Steering, config.Spread), network: network, order: []int{0}}
	fd, bound, err := bind(ctx, net.ListenConfig{Control: controlOf(join)}, g.network, l.Address)
	if err != nil {
		return nil, explain(l.Address, err)
	}
	g.Address = bound
	g.sockets = []int{fd}
	if err := sys.SetReusePort(fd); err != nil {
		g.Close()
		return nil, fmt.Errorf("listen on %s: %w", l.Address, err)
	}
	if join {
		g.attached = true // by the one that died, perhaps
		g.order, g.lost = nil, "its sockets joined those that a killed master left, whose places the kernel tells nobody"
	}
	if err := g.apply(); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// Shared reports whether the address has one socket for all slots.
func (g *Group) Shared() bool { return g.network == "unix" || g.kept || g.asked == config.Shared }

// Kept reports whether the socket came from a service manager, who keeps it when
// the app ends, with its queue.
func (g *Group) Kept() bool { return g.kept }

// Socket is a slot's socket, opened when the slot is first needed. Slots are
// numbered from 0 and asked for in order: a socket is only ever appended, since
// the kernel knows it by its place in the group. The descriptor stays the
// group's.
func (g *Group) Socket(ctx context.Context, slot int) (int, error) {
	if g.Shared() {
		return g.sockets[0], nil
	}
	if len(g.sockets) <= slot {
		g.mend() // its places are to be known, now that one is added
	}
	for len(g.sockets) <= slot {
		fd, _, err := bind(ctx, net.ListenConfig{Control: reuseport.Control}, g.network, g.Address)
		if err != nil {
			return -1, fmt.Errorf("listen on %s for slot %d: %w", g.Address, len(g.sockets), reason(err))
		}
		if err := g.setMode(fd); err != nil {
			sys.Close(fd)
			return -1, err
		}
		if g.order != nil {
			g.order = append(g.order, len(g.sockets))
		}
		g.sockets = append(g.sockets, fd)
		if err := g.apply(); err != nil {
			return -1, err
		}
	}
	return g.sockets[slot], nil
}

// Sockets are all sockets of the group by slot; a shared address has one. They
// stay the group's.
func (g *Group) Sockets() []int { return g.sockets }

// SetBlocking has whoever accepts on the sockets wait, or not, also on those that
// are yet to be opened. The mode belongs to a socket, and everybody has the same.
func (g *Group) SetBlocking(on bool) error {
	g.blocks = on
	for _, fd := range g.sockets {
		if err := g.setMode(fd); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) setMode(fd int) error {
	set := sys.SetNonblock
	if g.blocks {
		set = sys.SetBlocking
	}
	if err := set(fd); err != nil {
		return fmt.Errorf("set the mode of a socket of %s: %w", g.Address, err)
	}
	return nil
}

// Queued is how many connections wait at a slot's socket; 0 where the kernel does
// not tell, as of unix sockets.
func (g *Group) Queued(slot int) int {
	if g.Shared() {
		slot = 0
	}
	if slot >= len(g.sockets) {
		return 0
	}
	n, err := sys.Queued(g.sockets[slot])
	if err != nil {
		return 0
	}
	return n
}

// Close closes the master's sockets. What is queued on one that no worker holds
// is reset by the kernel.
func (g *Group) Close() {
	_ = g.path.remove() // whoever comes next removes it too
	g.full.close()
	for _, fd := range g.sockets {
		sys.Close(fd)
	}
	g.sockets = nil
}

// controlOf is what is done to a socket before it is bound.
func controlOf(join bool) func(network, address string, c syscall.RawConn) error {
	if join {
		return reuseport.Control
	}
	return nil
}

// bind makes a listening socket and returns its raw descriptor and its address.
func bind(ctx context.Context, config net.ListenConfig, network, address string) (int, string, error) {
	// Classic BPF steering cannot be attached to a multipath TCP listener.
	config.SetMultipathTCP(false)
	l, err := config.Listen(ctx, network, address)
	if err != nil {
		return -1, "", err
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	// The listener's own descriptor is in the runtime's poller, which would wake
	// the master for every connection: keep a second one, outside of it.
	defer l.Close()
	raw, err := l.(syscall.Conn).SyscallConn()
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
		return fmt.Sprintf("listen on %s: address already in use, by no listener that this user can see: by another user's, or a connection that a program has from that port (ss -tanp)", e.Address)
	}
	return fmt.Sprintf("listen on %s: address already in use by %s", e.Address, e.Holder)
}

func (e *InUseError) Unwrap() error { return syscall.EADDRINUSE }

// reason strips the words that package net puts around a system call's error.
func reason(err error) error {
	var sysErr syscall.Errno
	var dnsErr *net.DNSError
	switch {
	case errors.As(err, &sysErr):
		return sysErr
	case errors.As(err, &dnsErr):
		return fmt.Errorf("look up %s: %s", dnsErr.Name, dnsErr.Err)
	}
	return err
}

// explain says in one line why an address cannot be had, and what to do.
func explain(address string, err error) error {
	var inUse *InUseError
	unix := strings.HasPrefix(address, "unix:")
	switch {
	case errors.As(err, &inUse):
		return err
	case errors.Is(err, syscall.EADDRINUSE):
		return &InUseError{Address: address, Holder: findHolder(address)}
	case errors.Is(err, fs.ErrNotExist) && unix:
		return fmt.Errorf("listen on %s: %w: its directory must be there", address, syscall.ENOENT)
	case errors.Is(err, syscall.EACCES) && unix:
		return fmt.Errorf("listen on %s: %w: this user must be able to write to its directory", address, syscall.EACCES)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listen on %s: %w: ports below net.ipv4.ip_unprivileged_port_start need root or CAP_NET_BIND_SERVICE", address, syscall.EACCES)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s: %w: no interface of this machine has that address", address, syscall.EADDRNOTAVAIL)
	}
	return fmt.Errorf("listen on %s: %w", address, reason(err))
}
