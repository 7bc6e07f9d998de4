// Package usage measures what processes take of the machine, through gopsutil.
package usage

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v3/process"
)

// Usage is what one process takes.
type Usage struct {
	RSSBytes   uint64
	CPUPercent float64 // of one CPU
}

// Meter measures processes. Its zero value is ready.
type Meter struct {
	mu   sync.Mutex // several readers of the status may ask at once
	last map[int]sample
}

type sample struct {
	at      time.Time
	cpu     float64 // seconds, user and system
	percent float64
}

// minSpan is the shortest time over which CPU use is measured: the kernel's
// clock ticks are 10 ms.
const minSpan = time.Second

// Measure measures the processes, and forgets all others. CPU use is over the
// time since the measure before, at least a second; over the process's life at
// the first. A process that is gone takes nothing.
func (m *Meter) Measure(pids []int) map[int]Usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	next := make(map[int]sample, len(pids))
	found := make(map[int]Usage, len(pids))
	for _, pid := range pids {
		// Not process.NewProcess: it opens a pidfd to see whether the process is
		// there, which only the garbage collector closes.
		p := &process.Process{Pid: int32(pid)}
		mem, err := p.MemoryInfo()
		if err != nil {
			continue
		}
		u := Usage{RSSBytes: mem.RSS}
		if times, err := p.Times(); err == nil {
			s := sample{at: now, cpu: times.User + times.System}
			before, known := m.last[pid]
			switch {
			case known && now.Sub(before.at) < minSpan:
				s = before
			case known:
				s.percent = percent(s.cpu-before.cpu, now.Sub(before.at))
			default:
				if ms, err := p.CreateTime(); err == nil {
					s.percent = percent(s.cpu, now.Sub(time.UnixMilli(ms)))
				}
			}
			next[pid] = s
			u.CPUPercent = s.percent
		}
		found[pid] = u
	}
	m.last = next
	return found
}

func percent(cpu float64, span time.Duration) float64 {
	if span <= 0 || cpu < 0 {
		return 0
	}
	return 100 * cpu / span.Seconds()
}

// Descriptors is how many descriptors a process has open: the size of its
// /proc/PID/fd (Linux 6.2; proc_pid_fd(5)). Where that cannot be told it is 0.
func Descriptors(pid int) int {
	info, err := os.Stat(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0
	}
	return int(info.Size())
}
