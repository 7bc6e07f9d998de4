package sys

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Rlimits are the resources that can be bounded, by their names of prlimit(1).
var Rlimits = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
	"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
	"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME,
	"sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// SetRlimit sets this process's soft and hard limit of a resource of Rlimits; a
// negative value is none (setrlimit(2)).
func SetRlimit(name string, value int64) error {
	limit := uint64(value)
	if value < 0 {
		limit = unix.RLIM_INFINITY
	}
	// By package syscall, which else restores nofile to what it was before the
	// runtime raised it.
	err := syscall.Setrlimit(Rlimits[name], &syscall.Rlimit{Cur: limit, Max: limit})
	if err != nil {
		return fmt.Errorf("set the limit of %s to %d: %w", name, value, os.NewSyscallError("setrlimit", err))
	}
	return nil
}

// HardLimit is this process's hard limit of a resource of Rlimits; -1 is none.
func HardLimit(name string) (int64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(Rlimits[name], &limit); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	if limit.Max > math.MaxInt64 { // RLIM_INFINITY is all ones
		return -1, nil
	}
	return int64(limit.Max), nil
}

// OOMScoreAdj is what is added to this process's score when memory runs out; 0
// also where that cannot be read.
func OOMScoreAdj() int {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// SetOOMScoreAdj sets what is added to this process's score when memory runs out
// (proc(5)).
func SetOOMScoreAdj(n int) error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(n)), 0); err != nil {
		return fmt.Errorf("set oom_score_adj to %d: %w", n, err)
	}
	return nil
}

// Become changes who this process is, all its threads, for good.
func Become(uid, gid int, groups []int) error {
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("change to groups %v: %w", groups, os.NewSyscallError("setgroups", err))
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("change to group %d: %w", gid, os.NewSyscallError("setresgid", err))
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("change to user %d: %w", uid, os.NewSyscallError("setresuid", err))
	}
	return nil
}
