package sys

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls of this file never tell the Go scheduler that a system call is under
// way (syscall.RawSyscall). They are for non-blocking sockets, where a call
// returns within microseconds: entering the scheduler would wake the runtime's
// monitor thread, which then polls on the worker's own CPU
// (runtime/proc.go, entersyscallWakeSysmon). Each repeats itself after EINTR.

// Again says "not now": nothing to read, no room to write, nobody to accept.
const Again = syscall.EAGAIN

// clock reads a clock in nanoseconds (clock_gettime(2)).
func clock(which int) int64 {
	var ts unix.Timespec
	if _, _, errno := syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, uintptr(which), uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic("clock_gettime: " + errno.Error()) // fails only for a bad address, or a clock that Linux has not had since 2.6.39
	}
	return ts.Nano()
}

// RawClose is close(2) on a socket, which does not wait unless it lingers.
func RawClose(fd int) {
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) // after EINTR it is closed all the same
}

// RawShutdown is shutdown(2): how is unix.SHUT_RD, SHUT_WR or SHUT_RDWR.
func RawShutdown(fd, how int) syscall.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
	return errno
}

// How to shut a connection down (sys/socket.h).
const (
	ShutRead  = unix.SHUT_RD
	ShutWrite = unix.SHUT_WR
)

// SocketAddress is a peer's address as the kernel gives it.
type SocketAddress struct {
	raw  [unix.SizeofSockaddrAny]byte
	size uint32
}

// Addr decodes the address: a *net.TCPAddr or a *net.UnixAddr. Of a kind that it
// does not know it returns an empty *net.TCPAddr.
func (s *SocketAddress) Addr() net.Addr {
	if s.size < 2 {
		return &net.TCPAddr{}
	}
	switch family := binary.NativeEndian.Uint16(s.raw[:]); {
	case family == unix.AF_INET && s.size >= unix.SizeofSockaddrInet4:
		ip := netip.AddrFrom4([4]byte(s.raw[4:8]))
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, binary.BigEndian.Uint16(s.raw[2:])))
	case family == unix.AF_INET6 && s.size >= unix.SizeofSockaddrInet6:
		ip := netip.AddrFrom16([16]byte(s.raw[8:24])).Unmap()
		port := binary.BigEndian.Uint16(s.raw[2:])
		if scope := binary.NativeEndian.Uint32(s.raw[24:]); scope != 0 && ip.Is6() {
			if i, err := net.InterfaceByIndex(int(scope)); err == nil {
				ip = ip.WithZone(i.Name)
			}
		}
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, port))
	case family == unix.AF_UNIX:
		name := s.raw[2:s.size]
		if len(name) > 0 && name[0] == 0 {
			name = append([]byte("@"), name[1:]...) // an abstract name (unix(7))
		}
		return &net.UnixAddr{Name: unix.ByteSliceToString(name), Net: "unix"}
	}
	return &net.TCPAddr{}
}

// SocketAddressOf is the address as the kernel gives it; of an address with a zone,
// without.
func SocketAddressOf(a netip.AddrPort) (s SocketAddress) {
	binary.BigEndian.PutUint16(s.raw[2:], a.Port())
	if ip := a.Addr().Unmap(); ip.Is4() {
		binary.NativeEndian.PutUint16(s.raw[:], unix.AF_INET)
		s.size = unix.SizeofSockaddrInet4
		copy(s.raw[4:], ip.AsSlice())
	} else {
		binary.NativeEndian.PutUint16(s.raw[:], unix.AF_INET6)
		s.size = unix.SizeofSockaddrInet6
		copy(s.raw[8:], ip.AsSlice())
	}
	return s
}

// RawAccept is accept4(2) on a non-blocking listener: the connection is
// non-blocking, close-on-exec and the caller's. It writes the peer's address.
func RawAccept(fd int, peer *SocketAddress) (int, syscall.Errno) {
	for {
		peer.size = uint32(len(peer.raw))
		n, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&peer.raw)),
			uintptr(unsafe.Pointer(&peer.size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno != syscall.EINTR && errno != syscall.ECONNABORTED {
			return int(n), errno
		}
	}
}

// BoundTo is the address that a socket is bound to (getsockname(2)).
func BoundTo(fd int) net.Addr {
	s := SocketAddress{size: unix.SizeofSockaddrAny}
	if _, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&s.raw)), uintptr(unsafe.Pointer(&s.size))); errno != 0 {
		return &net.TCPAddr{}
	}
	return s.Addr()
}

// SendFile sends up to n bytes of a file, from its offset on, to a non-blocking
// socket (sendfile(2)). It does tell the scheduler: the file may have to be read
// from a disk. It returns 0 and no error at the file's end.
func SendFile(socket, file, n int) (int, error) {
	for {
		sent, err := unix.Sendfile(socket, file, nil, n)
		if err != unix.EINTR {
			return max(0, sent), err
		}
	}
}

// EpollEvent is what an epoll instance reports: Events and the Data that the
// descriptor was added with.
type EpollEvent struct {
	Events uint32
	Data   uint64
}

// The events of epoll_ctl(2).
const (
	EpollIn      = unix.EPOLLIN
	EpollOut     = unix.EPOLLOUT
	EpollErr     = unix.EPOLLERR
	EpollHup     = unix.EPOLLHUP
	EpollPeerHup = unix.EPOLLRDHUP
	EpollEdge    = unix.EPOLLET
)

// Epoll makes an epoll instance that is close-on-exec and non-blocking, so that
// the Go runtime can wait for it. The caller closes it.
func Epoll() (int, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("fcntl O_NONBLOCK", err)
	}
	return fd, nil
}

// Readable makes a descriptor that is always readable (eventfd(2)), for epoll instances.
// The caller closes it.
func Readable() (int, error) {
	fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, os.NewSyscallError("eventfd2", err)
	}
	return fd, nil
}

// EpollAdd has an epoll instance report a descriptor's events with data.
func EpollAdd(epoll, fd int, events uint32, data uint64) syscall.Errno {
	return epollControl(epoll, unix.EPOLL_CTL_ADD, fd, events, data)
}

// EpollAnew has it report what is there already once more.
func EpollAnew(epoll, fd int, events uint32, data uint64) {
	_ = epollControl(epoll, unix.EPOLL_CTL_MOD, fd, events, data) // fails only for one that was not added
}

func epollControl(epoll, how, fd int, events uint32, data uint64) syscall.Errno {
	event := unix.EpollEvent{Events: events, Fd: int32(data), Pad: int32(data >> 32)}
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(how), uintptr(fd), uintptr(unsafe.Pointer(&event)), 0, 0)
	return errno
}

// EpollRemove ends the reports. It is needed only where the same socket stays
// open under another number; otherwise its close ends them.
func EpollRemove(epoll, fd int) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), unix.EPOLL_CTL_DEL, uintptr(fd), 0, 0, 0)
}

// Events is room for what one EpollNow reports.
type Events [128]unix.EpollEvent

// At is the i-th event.
func (e *Events) At(i int) EpollEvent {
	return EpollEvent{e[i].Events, uint64(uint32(e[i].Fd)) | uint64(uint32(e[i].Pad))<<32}
}

// EpollNow reports what has happened, without waiting, and how many events that
// are; as many as there is room for: there may be more.
func EpollNow(epoll int, events *Events) int {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(events)), uintptr(len(events)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n)
		case syscall.EINTR:
			continue
		}
		panic("epoll_pwait: " + errno.Error()) // a bad descriptor or address: a bug of ours
	}
}

// ListenerOptions sets options that the connections accepted from a TCP listener
// inherit from it, so that each of them costs no call: TCP_NODELAY, and the
// keep-alive probes that package net sets (15 s, 9 of them). deferred keeps a
// connection in the kernel until its first bytes are there (tcp(7),
// TCP_DEFER_ACCEPT); one that sends nothing is accepted about a second later. The
// options are the socket's: they hold for everybody who accepts on it.
func ListenerOptions(fd int, deferred bool) error {
	wait := 0
	if deferred {
		wait = 1
	}
	for _, o := range []struct {
		name          string
		level, option int
		value         int
	}{
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
		{"TCP_DEFER_ACCEPT", unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, wait},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.option, o.value); err != nil {
			return os.NewSyscallError("setsockopt "+o.name, err)
		}
	}
	return nil
}
