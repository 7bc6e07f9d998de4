package sys

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Instruction is one of a classic BPF program (linux/filter.h, sock_filter).
type Instruction struct {
	Code   uint16
	Jt, Jf uint8
	K      uint32
}

// AttachReuseport has a program choose the socket for each new connection of the
// SO_REUSEPORT group that fd is in, by its place in the order in which they
// began to listen (socket(7), SO_ATTACH_REUSEPORT_CBPF). It takes the place of
// one that is attached, without a moment in between.
func AttachReuseport(fd int, program []Instruction) error {
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return os.NewSyscallError("setsockopt SO_ATTACH_REUSEPORT_CBPF",
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &fprog))
}

// DetachReuseport takes the program of fd's group away, and reports whether
// there was one (socket(7), SO_DETACH_REUSEPORT_BPF).
func DetachReuseport(fd int) (bool, error) {
	return detached("setsockopt SO_DETACH_REUSEPORT_BPF", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0))
}

// DetachFilter takes a socket's filter away, and reports whether there was one
// (socket(7), SO_DETACH_FILTER). One that is locked cannot be.
func DetachFilter(fd int) (bool, error) {
	return detached("setsockopt SO_DETACH_FILTER", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0))
}

func detached(call string, err error) (bool, error) {
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, os.NewSyscallError(call, err)
}

// ListenAgain makes a TCP socket listen that was shut down. One that the kernel
// had found a port for has lost it, and is bound to it anew. The kernel bounds
// the queue by net.core.somaxconn.
func ListenAgain(fd, port int) error {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		a.Port = port
	case *unix.SockaddrInet6:
		a.Port = port
	}
	if err := unix.Bind(fd, name); err != nil && !errors.Is(err, unix.EINVAL) { // that one still is
		return os.NewSyscallError("bind", err)
	}
	const most = 1<<16 - 1
	return os.NewSyscallError("listen", unix.Listen(fd, most))
}

// IsShutDown reports whether a unix socket that listens was shut down: it goes on
// to say that it listens, and refuses everybody, for ever.
func IsShutDown(fd int) bool { return hungUp(fd) }

// LocalAddress is what a socket is bound to: host:port, or unix:PATH, where an
// abstract name begins with '@'.
func LocalAddress(fd int) (string, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return "", os.NewSyscallError("getsockname", err)
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return net.JoinHostPort(net.IP(a.Addr[:]).String(), strconv.Itoa(a.Port)), nil
	case *unix.SockaddrInet6:
		host := net.IP(a.Addr[:]).String()
		if a.ZoneId != 0 {
			host += "%" + strconv.Itoa(int(a.ZoneId))
		}
		return net.JoinHostPort(host, strconv.Itoa(a.Port)), nil
	case *unix.SockaddrUnix:
		return "unix:" + a.Name, nil
	}
	return "", fmt.Errorf("descriptor %d is a socket of an unknown family", fd)
}
