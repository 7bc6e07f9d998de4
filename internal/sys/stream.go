package sys

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// StreamPair makes a connected pair of SOCK_STREAM unix sockets, close-on-exec
// and non-blocking. The caller closes both.
func StreamPair() (a, b int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, -1, os.NewSyscallError("socketpair", err)
	}
	return fds[0], fds[1], nil
}

// SendStream sends the beginning of data, as much as there is room for, without
// waiting, and says how much it was. A descriptor that is not -1 rides on the
// first byte, and stays the caller's. IsAgain tells that there is no room.
func SendStream(fd int, data []byte, handle int) (int, error) {
	var rights []byte
	if handle >= 0 {
		rights = unix.UnixRights(handle)
	}
	for {
		n, err := unix.SendmsgN(fd, data, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return max(0, n), os.NewSyscallError("sendmsg", err)
		}
	}
}

// ReceiveStream reads what has arrived at a unix stream socket, without waiting.
// The kernel ends a read after the bytes that descriptors rode on. They are
// close-on-exec and the caller's; those for which this process has no room are
// lost without a word. Its errors are io.EOF at the end, and the kernel's, among
// them unix.EAGAIN.
func ReceiveStream(fd int, buf []byte) (n int, fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(MaxDescriptors*4))
	var oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(fd, buf, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.ECONNRESET): // the peer closed with unread bytes in its queue
		return 0, nil, io.EOF
	case err != nil:
		return 0, nil, os.NewSyscallError("recvmsg", err)
	}
	// An error here is what the kernel cut short: the descriptors before it count.
	messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	if n == 0 && len(fds) == 0 {
		return 0, nil, io.EOF
	}
	return n, fds, nil
}

// IsSocket reports whether fd is a socket.
func IsSocket(fd int) bool {
	_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil
}

// SetNonblock makes fd's open file non-blocking, for every process that has it.
func SetNonblock(fd int) error {
	return os.NewSyscallError("fcntl O_NONBLOCK", unix.SetNonblock(fd, true))
}

// SetBlocking makes fd's open file blocking, for every process that has it.
func SetBlocking(fd int) error {
	return os.NewSyscallError("fcntl O_NONBLOCK", unix.SetNonblock(fd, false))
}
