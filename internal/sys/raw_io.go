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
