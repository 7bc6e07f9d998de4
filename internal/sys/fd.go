package sys

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Null is an open /dev/null, read only, close-on-exec.
func Null() (int, error) {
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	return fd, nil
}

// OpenPath opens path as a handle only (O_PATH, open(2)): it can be executed
// through /proc/self/fd or entered by fchdir, and names the same file for ever,
// whatever happens to the path. The caller closes it.
func OpenPath(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// Close closes a descriptor. An error here could only be a bug of ours, or an
// I/O error of a file that nobody reads.
func Close(fd int) { unix.Close(fd) }

// Dup makes a second close-on-exec number for fd's open file.
func Dup(fd int) (int, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1, os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	return n, nil
}

// SetCloexec marks fd to be closed by the next execve.
func SetCloexec(fd int) { unix.CloseOnExec(fd) }

// Fchdir enters the directory that fd holds.
func Fchdir(fd int) error { return os.NewSyscallError("fchdir", unix.Fchdir(fd)) }

// CloexecFrom marks every open descriptor from first upwards close-on-exec, so
// that nothing this process inherited reaches its children. It uses close_range
// (Linux 5.11), and walks /proc/self/fd where the kernel is older.
func CloexecFrom(first int) error {
	err := unix.CloseRange(uint(first), ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
		return os.NewSyscallError("close_range", err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("mark inherited descriptors close-on-exec: %w", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// OpenSockets are the open descriptors from first upwards that are sockets, as far
// as /proc tells.
func OpenSockets(first int) (fds []int) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first && IsSocket(fd) {
			fds = append(fds, fd)
		}
	}
	return fds
}

// Flock takes the exclusive advisory lock of an open file without waiting
// (flock(2)). It reports false when somebody else has it. The lock ends when
// the last descriptor of that open file is closed, at the latest with the
// process.
func Flock(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("flock", err)
}

// SameFile reports whether two descriptors, O_PATH ones included, name the same
// file.
func SameFile(a, b int) bool {
	var sa, sb unix.Stat_t
	if unix.Fstat(a, &sa) != nil || unix.Fstat(b, &sb) != nil {
		return false
	}
	return sa.Dev == sb.Dev && sa.Ino == sb.Ino
}
