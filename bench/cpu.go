package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of the times in /proc/PID/stat: the kernel shows user space
// 100 to the second on every architecture that Go has (USER_HZ, proc(5)).
const tick = 10 * time.Millisecond

// process is one line of /proc/PID/stat.
type process struct {
	pid, parent int
	state       byte
	start       uint64        // since boot, in ticks: with the pid it names a process for ever
	cpu         time.Duration // user and system time, of all threads, also of those that ended
	rss         int64         // bytes
}

// same tells whether both are samples of one process, and not of two that had
// the same pid.
func (p process) same(o process) bool { return p.pid == o.pid && p.start == o.start }

// parseStat reads a line of /proc/PID/stat. The command in it may hold spaces
// and parentheses: what counts is behind the last one.
func parseStat(line string) (process, error) {
	pid, rest, opened := strings.Cut(line, " (")
	end := strings.LastIndex(rest, ") ")
	if !opened || end < 0 {
		return process{}, fmt.Errorf("stat line %q: no command in parentheses", line)
	}
	// proc(5) counts from 1 and the state, which is fields[0] here, is its third.
	fields := strings.Fields(rest[end+2:])
	if len(fields) < 22 || len(fields[0]) != 1 {
		return process{}, fmt.Errorf("stat line %q: too few fields", line)
	}
	var firstErr error
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil && firstErr == nil {
			firstErr = err
		}
		return n
	}
	p := process{
		pid:    int(number(pid)),
		state:  fields[0][0],
		parent: int(number(fields[1])),
		cpu:    time.Duration(number(fields[11])+number(fields[12])) * tick,
		start:  uint64(number(fields[19])),
		rss:    number(fields[21]) * int64(os.Getpagesize()),
	}
	if firstErr != nil {
		return process{}, fmt.Errorf("stat line %q: %w", line, firstErr)
	}
	return p, nil
}

// stat samples a process. The error is fs.ErrNotExist if there is none.
func stat(pid int) (process, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, syscall.ESRCH) { // it ended between open and read
		err = fs.ErrNotExist
	}
	if err != nil {
		return process{}, fmt.Errorf("sample process %d: %w", pid, err)
	}
	return parseStat(string(line))
}

// clock is the CPU time of a process in nanoseconds, where its stat line has
// hundredths of a second: the CPU-time clock of its pid, whose number
// clock_getcpuclockid(3) computes thus (CPUCLOCK_SCHED is 2,
// include/linux/posix-timers.h).
func clock(pid int) (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid)<<3|2, &t)
	if err == unix.EINVAL { // how the clock of no process is reported
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// tree samples a process and all its descendants, in order of their pids. It is
// empty if there is no such process.
func tree(root int) ([]process, error) {
	paths, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			continue
		}
		p, err := stat(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	found := descendants(all, root)
	for i := range found {
		if cpu, err := clock(found[i].pid); err == nil { // else it has just ended: as stat has it
			found[i].cpu = cpu
		}
	}
	return found, nil
}

// descendants are those of all that root is an ancestor of, and root.
func descendants(all []process, root int) []process {
	var found []process
	wanted := map[int]bool{root: true}
	for grown := true; grown; {
		grown = false
		all = slices.DeleteFunc(all, func(p process) bool {
			if p.pid != root && !wanted[p.parent] {
				return false
			}
			wanted[p.pid], grown = true, true
			found = append(found, p)
			return true
		})
	}
	slices.SortFunc(found, func(a, b process) int { return a.pid - b.pid })
	return found
}

// spent is the CPU time between two samples of a tree. They must be of the same
// processes: what a process that ended in between had used is not in the second.
func spent(before, after []process) (time.Duration, error) {
	if len(before) == 0 || !slices.EqualFunc(before, after, process.same) {
		return 0, fmt.Errorf("the processes changed under load: %v before, %v after", pids(before), pids(after))
	}
	var cpu time.Duration
	for i := range after {
		cpu += after[i].cpu - before[i].cpu
	}
	return cpu, nil
}

func pids(ps []process) []int {
	ids := make([]int, len(ps))
	for i, p := range ps {
		ids[i] = p.pid
	}
	return ids
}

// resident is the memory of all of them; what they share counts once for each.
func resident(ps []process) int64 {
	var bytes int64
	for _, p := range ps {
		bytes += p.rss
	}
	return bytes
}

// busy is the time that all CPUs have spent on anything since boot, interrupts
// and what the hypervisor took included, in hundredths of a second.
func busy() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read the CPUs' times: %w", err)
	}
	return parseBusy(string(text))
}

// parseBusy reads the first line of /proc/stat: user, nice, system, idle, iowait,
// irq, softirq and steal (proc(5)).
func parseBusy(text string) (time.Duration, error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("line %q of /proc/stat: want cpu and at least 8 numbers", line)
	}
	var ticks int64
	for i, field := range fields[1:9] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("line %q of /proc/stat: %w", line, err)
		}
		if i != 3 && i != 4 { // idle, iowait
			ticks += n
		}
	}
	return time.Duration(ticks) * tick, nil
}

// foreign is the share of all CPUs, from 0 to 1, that neither the servers nor
// the load nor this process used. The CPUs' times are in ticks, sampled: a
// percent or two of it is chance.
func foreign(busy, ours, wall time.Duration, cpus int) float64 {
	return max(0, float64(busy-ours)/float64(wall)/float64(cpus))
}

// own is the CPU time of this process so far.
func own() time.Duration {
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		panic(err) // neither argument can be wrong
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
