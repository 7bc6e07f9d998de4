//go:build race

package sys

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Under the race detector bytes that were read came after they were written:
// package syscall's own calls tell it so.

// RawRead is read(2) on a non-blocking socket. p must not be empty.
func RawRead(fd int, p []byte) (int, syscall.Errno) {
	for {
		n, err := syscall.Read(fd, p)
		if err == nil {
			return n, 0
		}
		if err != syscall.EINTR {
			return 0, err.(syscall.Errno)
		}
	}
}

// RawWrite is write(2) on a non-blocking socket. p must not be empty.
func RawWrite(fd int, p []byte) (int, syscall.Errno) {
	for {
		n, err := syscall.Write(fd, p)
		if err == nil {
			return n, 0
		}
		if err != syscall.EINTR {
			return 0, err.(syscall.Errno)
		}
	}
}

// RawWritev is writev(2) of two pieces, neither of them empty, on a non-blocking
// socket.
func RawWritev(fd int, a, b []byte) (int, syscall.Errno) {
	for {
		n, err := unix.Writev(fd, [][]byte{a, b})
		if err == nil {
			return n, 0
		}
		if err != syscall.EINTR {
			return 0, err.(syscall.Errno)
		}
	}
}
