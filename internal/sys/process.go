package sys

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SpawnAttr says how Spawn starts a process.
type SpawnAttr struct {
	Path string   // what is executed
	Argv []string // with argv[0]
	Env  []string
	// Files are raw descriptor numbers that become 0, 1, 2, … in the child.
	// They stay the caller's, keep their blocking mode and their own
	// close-on-exec mark.
	Files []int
}

// Spawn starts a process that leads its own process group, so that a signal
// typed at the terminal does not reach it and a kill reaches all that it
// forked. It returns the process and a close-on-exec, non-blocking pidfd, which
// the caller closes. It blocks until the child has executed Path.
func Spawn(a SpawnAttr) (pid, pidfd int, err error) {
	files := make([]uintptr, len(a.Files))
	for i, fd := range a.Files {
		files[i] = uintptr(fd)
	}
	pidfd = -1
	pid, err = syscall.ForkExec(a.Path, a.Argv, &syscall.ProcAttr{
		Env:   a.Env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd},
	})
	if err != nil {
		return 0, -1, fmt.Errorf("fork and exec %s: %w", a.Path, err)
	}
	if pidfd < 0 { // CLONE_PIDFD is older than any kernel that drover runs on, but seccomp filters exist
		if pidfd, err = PidfdOpen(pid); err != nil {
			return pid, -1, err
		}
	}
	unix.CloseOnExec(pidfd)
	if err := unix.SetNonblock(pidfd, true); err != nil {
		return pid, pidfd, fmt.Errorf("make pidfd of process %d non-blocking: %w", pid, err)
	}
	return pid, pidfd, nil
}

// Exit is how a process ended.
type Exit struct {
	Code       int // its exit code, when Signal is 0
	Signal     int // the signal that killed it, or 0
	CoreDumped bool
}

// ErrRunning says that a process has not ended yet.
var ErrRunning = errors.New("still running")

// childInfo is siginfo_t of asm-generic/siginfo.h on 64-bit: si_code at byte 8,
// and for SIGCHLD si_pid at 16, si_uid at 20, si_status at 24. x/sys leaves that
// part of the union opaque.
type childInfo struct {
	signo, errno, code, _ int32
	pid, uid, status      int32
	_                     [100]byte
}

func (i *childInfo) siginfo() *unix.Siginfo { return (*unix.Siginfo)(unsafe.Pointer(i)) }

// EndedChild is a child that has ended and is not collected yet, its own or one
// that fell to this process as PID 1, or 0 when there is none. It stays so.
func EndedChild() (int, error) {
	for {
		var info childInfo
		err := unix.Waitid(unix.P_ALL, 0, info.siginfo(), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return 0, nil
		}
		return int(info.pid), os.NewSyscallError("waitid", err)
	}
}

// Collect collects a child that has ended, by its number.
func Collect(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("waitid", err)
		}
	}
}

// Wait collects a child that has ended, by its pidfd, and returns ErrRunning
// at once when it has not. It never touches another child.
func Wait(pidfd int) (Exit, error) {
	var info childInfo
	for {
		err := unix.Waitid(unix.P_PIDFD, pidfd, info.siginfo(), unix.WEXITED|unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN) || err == nil && info.pid == 0:
			return Exit{}, ErrRunning
		case err != nil:
			return Exit{}, os.NewSyscallError("waitid", err)
		}
		// CLD_EXITED 1, CLD_KILLED 2, CLD_DUMPED 3: asm-generic/siginfo.h.
		if info.code == 1 {
			return Exit{Code: int(info.status)}, nil
		}
		return Exit{Signal: int(info.status), CoreDumped: info.code == 3}, nil
	}
}

// KillGroup sends a signal to every process of the group that pid leads. The
// caller must not yet have collected pid, or the number may be another's.
func KillGroup(pid int, sig syscall.Signal) error {
	return os.NewSyscallError("kill", unix.Kill(-pid, sig))
}

// Family is a process's parent and process group, both 0 when there is none
// (proc(5), /proc/PID/stat).
func Family(pid int) (parent, group int) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0
	}
	// pid (comm) state ppid pgrp …: comm may hold blanks and parentheses.
	text := string(stat)
	field := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	if len(field) < 3 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(field[1])
	group, _ = strconv.Atoi(field[2])
	return parent, group
}

// PidfdOpen returns a close-on-exec, non-blocking pidfd of any living process.
// The caller closes it.
func PidfdOpen(pid int) (int, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return -1, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	return fd, nil
}

// PidfdSignal sends a signal to the process behind a pidfd, never to another
// that got its number later.
func PidfdSignal(pidfd int, sig syscall.Signal) error {
	return os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(pidfd, sig, nil, 0))
}

// AwaitReadable blocks until fd is readable (a pidfd: until its process has
// ended) or the file is closed. It takes fd over: closing f closes it. It parks
// in the Go runtime's poller and holds no thread.
func AwaitReadable(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ := unix.Poll(poll, 0)
		return n > 0
	})
}

// SetName sets the calling process's name as ps and top show it, at most 15
// bytes (prctl(2), PR_SET_NAME).
func SetName(name string) {
	if len(name) > 15 {
		name = name[:15]
	}
	// /proc/self/comm names the main thread, whatever thread this runs on.
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0)
}

// NoNewPrivs keeps this process and all that it executes from gaining
// privileges by set-user-ID files (prctl(2), PR_SET_NO_NEW_PRIVS).
func NoNewPrivs() error {
	return os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}

// Exec replaces this process's program. It returns only when that failed.
func Exec(path string, argv, env []string) error {
	runtime.LockOSThread()
	return os.NewSyscallError("execve", unix.Exec(path, argv, env))
}

// Affinity is the number of CPUs that this process may run on, at least 1
// (sched_getaffinity(2)).
func Affinity() int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return runtime.NumCPU()
	}
	return max(1, set.Count())
}

// Slept is for how long the host has slept since it was started, which
// CLOCK_MONOTONIC leaves out and CLOCK_BOOTTIME counts (clock_gettime(2)); two
// calls may differ by what passes between the readings of the clocks.
func Slept() time.Duration {
	before := clock(unix.CLOCK_MONOTONIC)
	boot := clock(unix.CLOCK_BOOTTIME)
	return time.Duration(boot - (before+clock(unix.CLOCK_MONOTONIC))/2)
}
