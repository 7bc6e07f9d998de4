package sys

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// MaxDescriptors is how many descriptors one message can carry (SCM_MAX_FD of
// the kernel's include/net/scm.h).
const MaxDescriptors = 253

// ErrTruncated says that a packet or its descriptors did not fit the buffer.
// The descriptors that did arrive are closed.
var ErrTruncated = errors.New("packet is larger than allowed")

// ErrEmpty says that a living peer sent a packet without a byte.
var ErrEmpty = errors.New("empty packet")

// sendBuffer is asked for on each end of a pair; the kernel doubles it for its
// own needs, and grants it to everybody (socket(7), SO_SNDBUF; its bound,
// wmem_max, is by default the same).
const sendBuffer = 208 << 10

// SeqpacketPair makes a connected pair of SOCK_SEQPACKET sockets, close-on-exec
// and non-blocking. The caller closes both.
func SeqpacketPair() (a, b int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, -1, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer); err != nil {
			unix.Close(fds[0])
			unix.Close(fds[1])
			return -1, -1, os.NewSyscallError("setsockopt SO_SNDBUF", err)
		}
	}
	return fds[0], fds[1], nil
}

// SendPacket sends one packet with descriptors, without waiting: an error that
// is unix.EAGAIN (os.ErrDeadlineExceeded is never returned) says that the peer
// does not read. The descriptors stay the caller's.
func SendPacket(fd int, data []byte, fds []int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(fd, data, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

// ReceivePacket receives one packet into buf, without waiting. The descriptors
// are close-on-exec and the caller's. Its errors are io.EOF when the peer is
// gone, ErrEmpty, ErrTruncated, and the kernel's, among them unix.EAGAIN.
func ReceivePacket(fd int, buf []byte) (n int, fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(MaxDescriptors*4))
	var oobn, flags int
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, buf, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		if errors.Is(err, unix.ECONNRESET) { // the peer closed with unread packets in its queue
			return 0, nil, io.EOF
		}
		return 0, nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		got, rightsErr := unix.ParseUnixRights(&m)
		if rightsErr != nil { // credentials or timestamps that somebody switched on
			continue
		}
		fds = append(fds, got...)
	}
	if err != nil || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		for _, f := range fds {
			unix.Close(f)
		}
		return 0, nil, ErrTruncated
	}
	if n == 0 && len(fds) == 0 {
		if hungUp(fd) {
			return 0, nil, io.EOF
		}
		return 0, nil, ErrEmpty
	}
	return n, fds, nil
}

// hungUp tells the end of a SOCK_SEQPACKET connection from an empty packet:
// both read as 0 bytes, but only the end raises POLLHUP.
func hungUp(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	_, err := unix.Poll(poll, 0)
	return err == nil && poll[0].Revents&(unix.POLLHUP|unix.POLLRDHUP) != 0
}

// IsAgain reports whether err says "not now": nothing to read, or no room.
func IsAgain(err error) bool { return errors.Is(err, unix.EAGAIN) }

// SetReusePort lets other sockets of the same user join fd's address
// (socket(7), SO_REUSEPORT).
func SetReusePort(fd int) error {
	return os.NewSyscallError("setsockopt SO_REUSEPORT", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
}

// SetReuseAddr lets fd be bound where another socket is, as far as the protocol
// allows that (socket(7), SO_REUSEADDR).
func SetReuseAddr(fd int) error {
	return os.NewSyscallError("setsockopt SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
}

// BindPort binds a socket to a free port of the address, and returns it.
func BindPort(fd int, a netip.Addr) (int, error) {
	var name unix.Sockaddr = &unix.SockaddrInet6{Addr: a.As16()}
	if a.Is4() {
		name = &unix.SockaddrInet4{Addr: a.As4()}
	}
	if err := unix.Bind(fd, name); err != nil {
		return 0, os.NewSyscallError("bind", err)
	}
	bound, is := BoundTo(fd).(*net.TCPAddr)
	if !is {
		return 0, errors.New("bind: it is no TCP socket")
	}
	return bound.Port, nil
}

// SetBacklog is how many connections may wait at a listening socket (listen(2)); the
// kernel has one more.
func SetBacklog(fd, n int) error { return os.NewSyscallError("listen", unix.Listen(fd, n)) }

// RefuseNew makes a listening TCP socket drop new connection attempts, while
// handshakes under way complete and its queue stays. It attaches a socket
// filter (socket(7), SO_ATTACH_FILTER) to the shared socket, so it holds for
// every process that has it, for good.
func RefuseNew(fd int) error {
	// A classic BPF program over the TCP header, where the kernel starts the
	// filter of a TCP socket: byte 13 holds the flags (RFC 9293, section 3.1).
	// SYN (2) without ACK (16) is dropped, all else is passed.
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0x02, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER",
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog))
}

// Accept takes one connection from a listening socket's queue without waiting.
// The descriptor is close-on-exec, non-blocking, and the caller's. IsAgain
// tells an empty queue.
func Accept(fd int) (int, error) {
	for {
		n, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil:
			return -1, os.NewSyscallError("accept4", err)
		}
		return n, nil
	}
}

// Queued is how many established connections wait in a listening TCP socket's
// queue: the kernel reports sk_ack_backlog as tcpi_unacked (net/ipv4/tcp.c,
// tcp_get_info).
func Queued(fd int) (int, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt TCP_INFO", err)
	}
	return int(info.Unacked), nil
}

// Unread is how much of what was sent on a unix socket its peer has not read, in
// bytes of the kernel's (unix(7), SIOCOUTQ of net/unix/af_unix.c).
func Unread(fd int) (int, error) {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	return n, os.NewSyscallError("ioctl SIOCOUTQ", err)
}

// IsListening reports whether fd is a socket that accepts connections.
func IsListening(fd int) bool {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && v == 1
}

// PeerUID is the user at the other end of a unix socket connection
// (unix(7), SO_PEERCRED).
func PeerUID(fd int) (int, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return -1, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	return int(cred.Uid), nil
}

// IsSeqpacket reports whether fd is a SOCK_SEQPACKET socket.
func IsSeqpacket(fd int) bool {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil && v == unix.SOCK_SEQPACKET
}

// ReadNow reads what has arrived at a non-blocking socket, without waiting.
// IsAgain tells that nothing has.
func ReadNow(fd int, p []byte) (int, error) {
	n, err := unix.Read(fd, p)
	return max(0, n), os.NewSyscallError("read", err)
}

// Acknowledged is how many bytes the peer of a TCP connection has acknowledged
// since its beginning (linux/tcp.h, tcpi_bytes_acked).
func Acknowledged(fd int) (uint64, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt TCP_INFO", err)
	}
	return info.Bytes_acked, nil
}

// PeerLeft reports whether a stream socket's peer has ended its sending, or the
// connection is broken, whatever is still to be read (poll(2), POLLRDHUP). It does
// not wait.
func PeerLeft(fd int) bool {
	look := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		n, err := unix.Poll(look, 0)
		if err != unix.EINTR {
			return n > 0
		}
	}
}
