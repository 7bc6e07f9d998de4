package sys

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// States of TCP sockets, of include/net/tcp_states.h.
const (
	established = 1 // TCP_ESTABLISHED
	synReceived = 3 // TCP_SYN_RECV; TCP_NEW_SYN_RECV is listed with it
)

// Peers are the remote addresses of TCP connections that are established to a
// local port, at most so many of each family, as the kernel lists them
// (sock_diag(7), in this process's network namespace). It blocks for as long as
// the kernel takes to walk its table, some milliseconds on a busy machine.
func Peers(port uint16, most int) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		peers, err := peers(family, established, port, most)
		if err != nil {
			return nil, fmt.Errorf("list connections to port %d: %w", port, err)
		}
		all = append(all, peers...)
	}
	return all, nil
}

// Handshakes reports whether a client is connecting to a local port, and is in no
// queue yet: its handshake is under way, or its first bytes are to come where the
// socket has TCP_DEFER_ACCEPT (tcp(7)). It blocks as Peers does.
func Handshakes(port uint16) (bool, error) {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		peers, err := peers(family, synReceived, port, 1)
		if err != nil {
			return false, fmt.Errorf("list handshakes to port %d: %w", port, err)
		}
		if len(peers) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// peers are those of one family (an AF_) whose sockets are in one state.
func peers(family byte, state int, port uint16, most int) ([]netip.Addr, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// struct nlmsghdr and struct inet_diag_req_v2 of linux/inet_diag.h.
	request := make([]byte, 72)
	native := binary.NativeEndian
	native.PutUint32(request[0:], uint32(len(request)))
	native.PutUint16(request[4:], unix.SOCK_DIAG_BY_FAMILY)
	native.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request[16], request[17] = family, unix.IPPROTO_TCP
	native.PutUint32(request[20:], 1<<state)
	binary.BigEndian.PutUint16(request[24:], port)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	var found []netip.Addr
	for buf := make([]byte, 32<<10); ; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		for rest := buf[:n]; len(rest) >= 16; {
			length := int(native.Uint32(rest))
			if length < 16 || length > len(rest) {
				return nil, fmt.Errorf("a netlink message of %d bytes in %d", length, len(rest))
			}
			switch kind := native.Uint16(rest[4:]); {
			case len(found) >= most:
				return found, nil
			case (kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR) && length >= 20:
				// Either carries what the dump came to, 0 or a negative errno (netlink(7)).
				if code := int32(native.Uint32(rest[16:])); code != 0 {
					return nil, os.NewSyscallError("sock_diag", unix.Errno(-code))
				}
				return found, nil
			case kind == unix.NLMSG_DONE:
				return found, nil
			case kind == unix.SOCK_DIAG_BY_FAMILY && length >= 16+40:
				// struct inet_diag_msg: idiag_dst at byte 24.
				destination := rest[16+24 : 16+40]
				if family == unix.AF_INET {
					destination = destination[:4]
				}
				if addr, ok := netip.AddrFromSlice(destination); ok {
					found = append(found, addr.Unmap())
				}
			}
			rest = rest[min(len(rest), (length+3)&^3):]
		}
	}
}
