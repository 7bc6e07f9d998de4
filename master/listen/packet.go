package listen

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"drover/internal/sys"
)

// Packet is a UDP socket, which all who serve it share.
type Packet struct {
	FD   int // raw, non-blocking, close-on-exec; the Packet's
	Host string
	Port int
}

// OpenPacket binds a UDP address, host:port with an IP address or nothing as host,
// on network udp4, udp6, or udp, which is IPv6 with IPv4 where it can be. With reuse others may bind it too (socket(7),
// SO_REUSEADDR).
func OpenPacket(ctx context.Context, network, address string, reuse bool) (*Packet, error) {
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if ctlErr := raw.Control(func(fd uintptr) {
			if reuse {
				err = sys.SetReuseAddr(int(fd))
			}
		}); ctlErr != nil {
			return ctlErr
		}
		return err
	}}
	conn, err := c.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, explain("udp "+address, err)
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &Packet{FD: -1}
	var dupErr error
	if err := raw.Control(func(fd uintptr) { p.FD, dupErr = sys.Dup(int(fd)) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, dupErr
	}
	at := netip.MustParseAddrPort(conn.LocalAddr().String())
	p.Host, p.Port = at.Addr().String(), int(at.Port())
	return p, nil
}

// Close closes the master's socket.
func (p *Packet) Close() { sys.Close(p.FD) }
