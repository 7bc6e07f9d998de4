// Package usage measures what processes take of the machine, through gopsutil.
package usage

import (
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
		p, err := process.NewProcess(int32(pid))
		if err != nil {
			continue
		}
		var u Usage
		if mem, err := p.MemoryInfo(); err == nil {
			u.RSSBytes = mem.RSS
		}
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
