package master

import (
	"context"
	"os"
	"sort"
	"time"

	"drover/ipc/scoreboard"
	"drover/master/admin"
)

// Status is the app as it is now. It may be called from any goroutine.
func (m *Master) Status(ctx context.Context) (admin.Status, error) {
	answer := make(chan admin.Status, 1)
	if !m.post(func() { answer <- m.status(time.Now()) }) {
		return admin.Status{}, errStopped
	}
	status := <-answer
	// Reading /proc takes milliseconds, which the loop does not spend.
	pids := make([]int, len(status.Workers))
	for i, w := range status.Workers {
		pids[i] = w.PID
	}
	used := m.meter.Measure(pids)
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
		s.Listen = append(s.Listen, admin.Listen{Name: g.Name, Address: g.Address, Steering: "spread"})
	}
	restarts := map[int]int{}
	for _, slot := range snap.Slots {
		restarts[slot.Slot] = slot.Restarts
		row := admin.Slot{Slot: slot.Slot, Restarts: slot.Restarts}
		if !slot.NextStart.IsZero() {
			row.NextStart = &slot.NextStart
		}
		s.Slots = append(s.Slots, row)
	}
	var total scoreboard.Totals
	for _, t := range m.totals {
		total.Merge(*t)
	}
	for _, life := range snap.Lives {
		l := m.lives[life.ID]
		if l == nil {
			continue
		}
		b := l.board.Snapshot()
		total.Add(b)
		s.Workers = append(s.Workers, admin.Worker{
			Slot: life.Slot, ID: uint64(life.ID), PID: life.PID, Generation: life.Generation, State: life.State.String(),
			Restarts: restarts[life.Slot], UptimeSeconds: now.Sub(life.Started).Seconds(),
			Requests: b.Requests, Connections: b.Connections, InFlight: b.InFlight, Panics: b.Panics, Counted: b.Counted,
		})
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
	for _, e := range snap.Exits {
		s.Exits = append(s.Exits, admin.Exit{Slot: e.Slot, ID: uint64(e.Life), PID: e.PID, Reason: e.Exit.String(), Planned: e.Planned, At: e.At})
	}
	return s
}

var _ admin.Master = (*Master)(nil)
