package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// NoticeSocket binds a datagram socket in the abstract namespace of unix(7),
// where no directory's permissions keep another user away, close-on-exec and
// non-blocking. Each datagram tells its sender's process. The caller closes it.
func NoticeSocket(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("setsockopt SO_PASSCRED", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name}); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

// ReceiveNotice reads a datagram of a NoticeSocket, without waiting, and says
// which process sent it: the kernel vouches for that, unless the sender may act
// for others (CAP_SYS_ADMIN). One that is larger than buf is cut. Descriptors
// that came with it are closed, which is what a barrier waits for
// (sd_notify_barrier(3)). IsAgain tells that there is none.
func ReceiveNotice(fd int, buf []byte) (n, pid int, err error) {
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(MaxDescriptors*4))
	var oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(fd, buf, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return 0, 0, os.NewSyscallError("recvmsg", err)
	}
	// An error here is what the kernel cut short: what is before it counts.
	messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			pid = int(cred.Pid)
		}
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, f := range fds {
			unix.Close(f)
		}
	}
	return n, pid, nil
}
