package sys

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SealedMemory makes anonymous memory of size bytes, all zero, that other
// processes can map by its descriptor and that nobody can shrink, grow or
// unseal: a process that maps a file which another truncates dies of SIGBUS.
// The caller closes the close-on-exec descriptor and unmaps the memory.
func SealedMemory(name string, size int) (fd int, memory []byte, err error) {
	fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, nil, os.NewSyscallError("memfd_create", err)
	}
	if err = unix.Ftruncate(fd, int64(size)); err != nil {
		unix.Close(fd)
		return -1, nil, os.NewSyscallError("ftruncate", err)
	}
	if _, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, sizeSeals|unix.F_SEAL_SEAL); err != nil {
		unix.Close(fd)
		return -1, nil, os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	if memory, err = mapShared(fd, size); err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	return fd, memory, nil
}

const sizeSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW

// MapSealed maps memory that SealedMemory made in another process, and refuses
// what is not sealed or not size bytes long. The descriptor stays the caller's.
func MapSealed(fd, size int) ([]byte, error) {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d is no sealed memory: %w", fd, os.NewSyscallError("fcntl F_GET_SEALS", err))
	}
	if seals&sizeSeals != sizeSeals {
		return nil, fmt.Errorf("descriptor %d: memory that can be truncated (seals %#x)", fd, seals)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if stat.Size != int64(size) {
		return nil, fmt.Errorf("descriptor %d: %d bytes of memory, want %d", fd, stat.Size, size)
	}
	return mapShared(fd, size)
}

// SealedBytes makes anonymous memory that holds data and that nobody can change any
// more. The caller closes the close-on-exec descriptor.
func SealedBytes(name string, data []byte) (fd int, err error) {
	fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	for rest := data; len(rest) > 0; {
		n, err := unix.Write(fd, rest)
		if err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("write", err)
		}
		rest = rest[n:]
	}
	if _, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, sizeSeals|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	return fd, nil
}

// ReadSealed reads what SealedBytes made in another process, and refuses what could
// still change or is longer than most bytes. The descriptor stays the caller's.
func ReadSealed(fd, most int) ([]byte, error) {
	const want = sizeSeals | unix.F_SEAL_WRITE
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d is no sealed memory: %w", fd, os.NewSyscallError("fcntl F_GET_SEALS", err))
	}
	if seals&want != want {
		return nil, fmt.Errorf("descriptor %d: memory that can be changed (seals %#x)", fd, seals)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if stat.Size > int64(most) {
		return nil, fmt.Errorf("descriptor %d: %d bytes of memory, want at most %d", fd, stat.Size, most)
	}
	data := make([]byte, stat.Size)
	for n := 0; n < len(data); {
		// At an offset of our own: others read by the same description.
		got, err := unix.Pread(fd, data[n:], int64(n))
		if err != nil {
			return nil, os.NewSyscallError("pread", err)
		}
		if got == 0 {
			return nil, fmt.Errorf("descriptor %d: %d bytes of memory, of which %d can be read", fd, stat.Size, n)
		}
		n += got
	}
	return data, nil
}

func mapShared(fd, size int) ([]byte, error) {
	memory, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return memory, os.NewSyscallError("mmap", err)
}

// Unmap gives mapped memory back. Whoever touches it afterwards dies.
func Unmap(memory []byte) error { return os.NewSyscallError("munmap", unix.Munmap(memory)) }

// ErrAlignment says that memory cannot hold a value of that type.
var ErrAlignment = errors.New("memory is too small or not aligned")

// At views the beginning of memory as a *T. T must hold no pointers, and memory
// must live as long as the view is used.
func At[T any](memory []byte) (*T, error) {
	var t T
	p := unsafe.Pointer(unsafe.SliceData(memory))
	if uintptr(len(memory)) < unsafe.Sizeof(t) || uintptr(p)%unsafe.Alignof(t) != 0 {
		return nil, ErrAlignment
	}
	return (*T)(p), nil
}

// SizeOf is the size of a T in memory, in bytes.
func SizeOf[T any]() int {
	var t T
	return int(unsafe.Sizeof(t))
}

// Monotonic is CLOCK_MONOTONIC in nanoseconds: the same clock in every process
// of the machine, which stands still while it is suspended (clock_gettime(2)).
func Monotonic() int64 { return clock(unix.CLOCK_MONOTONIC) }
