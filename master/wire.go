package master

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sort"
	"time"

	"drover/ipc/scoreboard"
	"drover/master/admin"
	"drover/master/fleet"
)

// tellService keeps the service manager told of how the app is.
func (m *Master) tellService(now time.Time) {
	if m.service == nil {
		return
	}
	snap := m.fleet.Snapshot()
	ready := 0
	for _, l := range snap.Lives {
		if l.State == fleet.Ready {
			ready++
		}
	}
	m.service.Status(fmt.Sprintf("%s: %d of %s ready, generation %d", snap.State, ready, count(snap.Want.Workers, "worker"), snap.Generation))
	m.service.Beat(now)
}

// Status is the app as it is now. It may be called from any goroutine.
func (m *Master) Status(ctx context.Context) (admin.Status, error) {
	answer := make(chan admin.Status, 1)
	if !m.post(func() { answer <- m.status(time.Now()) }) {
		return admin.Status{}, errStopped
	}
	status := <-answer
	// Reading /proc takes milliseconds, which the loop does not spend.
	pids := []int{status.PID}
	for _, w := range status.Workers {
		pids = append(pids, w.PID)
	}
	used := m.meter.Measure(pids)
	itself := used[status.PID]
	status.Master = admin.Itself{RSSBytes: itself.RSSBytes, CPUPercent: itself.CPUPercent, Goroutines: runtime.NumGoroutine()}
	for i := range status.Workers {
		u := used[status.Workers[i].PID]
		status.Workers[i].RSSBytes, status.Workers[i].CPUPercent = u.RSSBytes, u.CPUPercent
	}
	return status, nil
}

// status joins what the fleet, the sockets and the scoreboards know.
func (m *Master) status(now time.Time) admin.Status {
	snap := m.fleet.Snapshot()
	s := admin.Status{
		Name: m.instance.Name, PID: os.Getpid(), State: snap.State, Generation: snap.Generation,
		Listen: []admin.Listen{}, Workers: []admin.Worker{}, Slots: []admin.Slot{}, Exits: []admin.Exit{},
	}
	for _, g := range m.groups {
		steering, slots, why := g.Steering()
		if m.node != nil && len(slots) == snap.Want.Workers {
			slots = nil // all
		}
		s.Listen = append(s.Listen, admin.Listen{Name: g.Name, Address: g.Address, Steering: steering, Slots: slots, Why: why})
	}
	for _, f := range m.serving() {
		l := &s.Listen[f.Listen]
		l.Certificates = append(l.Certificates, admin.Certificate{Names: f.Names, Until: f.Until})
	}
	restarts := map[int]int{}
	for _, slot := range snap.Slots {
		restarts[slot.Slot] = slot.Restarts
		row := admin.Slot{Slot: slot.Slot, Restarts: slot.Restarts, EarlyDeaths: slot.EarlyDeaths, FosteredBy: slot.Fosters}
		if !slot.NextStart.IsZero() {
			row.NextStart = &slot.NextStart
		}
		s.Slots = append(s.Slots, row)
	}
	total := scoreboard.Totals{Dropped: m.bus.DroppedByThePast()}
	if m.node != nil {
		total.Dropped += m.node.dropped
	}
	for _, t := range m.totals {
		total.Merge(*t)
	}
	for _, life := range snap.Lives {
		l := m.lives[life.ID]
		if l == nil {
			continue
		}
		var b scoreboard.Snapshot
		if !l.overwritten {
			b = l.board.Snapshot()
		}
		total.Add(b)
		dropped := m.bus.Dropped(uint64(life.ID))
		if l.node != nil {
			dropped += l.node.dropped
		}
		total.Dropped += dropped
		row := admin.Worker{
			Slot: life.Slot, ID: uint64(life.ID), PID: life.PID, Generation: life.Generation, State: life.State.String(),
			Restarts: restarts[life.Slot], UptimeSeconds: now.Sub(life.Started).Seconds(),
			Requests: b.Requests, Connections: b.Connections, Sockets: b.Sockets, InFlight: b.InFlight, Panics: b.Panics, Counted: b.Counted,
			DroppedMessages: b.Dropped + dropped, SchedWaitMilliseconds: float64(b.SchedWait.Microseconds()) / 1000,
			Late: life.Late,
		}
		if !life.Until.IsZero() {
			row.Until = &life.Until
		}
		s.Workers = append(s.Workers, row)
	}
	sort.SliceStable(s.Workers, func(i, j int) bool { return s.Workers[i].Slot < s.Workers[j].Slot })
	s.Totals.Requests = total.Requests
	s.Totals.Status.Informational = total.Status[1]
	s.Totals.Status.Success = total.Status[2]
	s.Totals.Status.Redirection = total.Status[3]
	s.Totals.Status.ClientError = total.Status[4]
	s.Totals.Status.ServerError = total.Status[5]
	s.Totals.BytesIn, s.Totals.BytesOut = total.BytesIn, total.BytesOut
	s.Totals.Connections, s.Totals.Panics = total.Accepted, total.Panics
	s.Totals.DroppedMessages = total.Dropped
	s.Totals.Latency = total.Latency
	for _, e := range snap.Exits {
		s.Exits = append(s.Exits, admin.Exit{Slot: e.Slot, ID: uint64(e.Life), PID: e.PID, Reason: e.Exit.String(), Planned: e.Planned, At: e.At})
	}
	return s
}

var _ admin.Master = (*Master)(nil)
