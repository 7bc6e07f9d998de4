package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"drover/internal/sys"

	"github.com/libp2p/go-reuseport"
)

// RefuseNew lets no new connection in, while those that are queued stay, and those
// whose handshake is under way come: the first step of a full stop. What came from a
// service manager waits for its next start.
func (g *Group) RefuseNew() error {
	g.muted = true
	switch {
	case g.kept:
		return nil
	case g.network == "unix":
		return g.path.remove()
	}
	for slot, fd := range g.sockets {
		err := sys.RefuseNew(fd)
		if errors.Is(err, syscall.EPERM) { // recent kernels want CAP_NET_ADMIN for it
			if err := g.divert(); err != nil {
				return fmt.Errorf("refuse new connections on %s without CAP_NET_ADMIN: %w", g.Address, err)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("refuse new connections on %s for slot %d: %w", g.Address, slot, err)
		}
	}
	return nil
}

// full is a socket of a group whose queue is full, and what fills it. The zero *full,
// nil, is none.
type full struct {
	socket int
	filler net.Conn
}

func (f *full) close() {
	if f == nil {
		return
	}
	sys.Close(f.socket)
	if f.filler != nil {
		f.filler.Close()
	}
}

// divert has new connections go to one more socket of the group, whose queue is full:
// the kernel drops their first packet, as a filter would. To steer takes no privilege.
// Nobody but what fills it gets there before.
func (g *Group) divert() error {
	if g.Shared() || g.order == nil {
		return errors.New("connections to it cannot be steered")
	}
	bound, err := netip.ParseAddrPort(g.Address)
	if err != nil {
		return err
	}
	to, source := bound.Addr(), uint32(network+20) // behind an IP header of 20 bytes, or 40 (RFC 9293, section 3.1)
	switch {
	case to.IsUnspecified() && to.Is4():
		to = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case to.IsUnspecified():
		to = netip.IPv6Loopback()
	}
	if to.Is6() {
		source = network + 40
	}
	others := spread(g.places())
	if len(g.order) > 1 {
		if err := sys.AttachReuseport(g.sockets[0], others); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	fd, _, err := bind(ctx, net.ListenConfig{Control: reuseport.Control}, g.network, g.Address)
	if err != nil {
		return reason(err)
	}
	g.full = &full{socket: fd}
	if err := sys.SetBacklog(fd, 0); err != nil { // room for one (the kernel's sk_acceptq_is_full)
		return err
	}
	last := uint32(len(g.order)) // the place of who joined last
	filler := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var port int
		var bindErr error
		err := raw.Control(func(from uintptr) { port, bindErr = sys.BindPort(int(from), to) })
		if err = errors.Join(err, bindErr); err != nil {
			return err
		}
		return sys.AttachReuseport(fd, slices.Concat([]sys.Instruction{
			{Code: loadHalf, K: source}, {Code: jumpEq, Jf: 1, K: uint32(port)}, {Code: returnK, K: last},
		}, others))
	}}
	if g.full.filler, err = filler.DialContext(ctx, "tcp", netip.AddrPortFrom(to, bound.Port()).String()); err != nil {
		return err
	}
	return sys.AttachReuseport(fd, []sys.Instruction{{Code: returnK, K: last}})
}
