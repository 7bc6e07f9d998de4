//go:build !race

package sys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RawRead is recv(2) on a non-blocking socket, which costs a little less than read(2):
// nothing of files is looked at. p must not be empty.
func RawRead(fd int, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), 0, 0, 0)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// RawWrite is send(2) on a non-blocking socket, as above. p must not be empty. A peer
// that is gone is the error EPIPE, and no signal.
func RawWrite(fd int, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// RawWritev is writev(2) of two pieces, neither of them empty, on a non-blocking
// socket.
func RawWritev(fd int, a, b []byte) (int, syscall.Errno) {
	pieces := [2]unix.Iovec{{Base: &a[0], Len: uint64(len(a))}, {Base: &b[0], Len: uint64(len(b))}}
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&pieces[0])), uintptr(len(pieces)))
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}
