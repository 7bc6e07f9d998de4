//go:build !race

package sys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RawRead is read(2) on a non-blocking descriptor. p must not be empty.
func RawRead(fd int, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// RawWrite is write(2) on a non-blocking descriptor. p must not be empty. The
// runtime ignores the SIGPIPE of a socket whose peer is gone: the error is EPIPE.
func RawWrite(fd int, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// RawWritev is writev(2) of two pieces, neither of them empty, on a non-blocking
// descriptor.
func RawWritev(fd int, a, b []byte) (int, syscall.Errno) {
	pieces := [2]unix.Iovec{{Base: &a[0], Len: uint64(len(a))}, {Base: &b[0], Len: uint64(len(b))}}
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&pieces[0])), uintptr(len(pieces)))
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}
