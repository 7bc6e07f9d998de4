package master

import (
	"errors"
	"fmt"
	"os"
	"time"

	"drover/config"
	"drover/master/fleet"
	"drover/master/notify"
)

// This file is about programs that are not built on drover: they take their
// sockets by LISTEN_FDS, say READY=1 or nothing at all, and leave by a signal.

// foreigner is what the loop knows of a life whose program does not know us.
type foreigner struct {
	notices *notify.Socket
	spoken  bool      // it has sent a notice
	ready   bool      // it has said READY=1
	leave   time.Time // since when it is to leave; zero: it is not
	told    bool      // it has got the signal to
}

// welcomeForeign prepares a life for a program that does not know of drover, and
// returns what is set in its environment.
func (l *life) welcomeForeign() ([]string, error) {
	s, err := notify.Listen()
	if err != nil {
		return nil, err
	}
	l.foreign = &foreigner{notices: s}
	return []string{"NOTIFY_SOCKET=" + s.Address}, nil
}

// heed reads a foreign life's notices to their end, and closes their socket.
func (m *Master) heed(l *life, notices *notify.Socket) {
	defer notices.Close()
	window, heard, strange := time.Now(), 0, false
	for {
		n, err := notices.Receive()
		if heard++; heard > allowance {
			select {
			case <-time.After(time.Until(window.Add(time.Second))):
			case <-l.over:
			}
			window, heard = time.Now(), 0
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil:
			m.log.Error(fmt.Sprintf("notices of worker %d cannot be read: %v", l.slot, err), "event", "bad_notice", "slot", l.slot, "error", err.Error())
			return
		case !l.process.Has(n.PID):
			if !strange { // one line is enough to know it by
				m.log.Warn(fmt.Sprintf("process %d sent a notice in the name of worker %d, of which it is no part, or was gone before it could be looked at: it is ignored", n.PID, l.slot),
					"event", "bad_notice", "slot", l.slot, "pid", n.PID)
			}
			strange = true
			continue
		}
		if !m.post(func() { m.noticed(l, n) }) {
			return
		}
	}
}

// noticed takes a foreign life's word.
func (m *Master) noticed(l *life, n notify.Notice) {
	f := l.foreign
	if f == nil {
		return // it speaks by the channel
	}
	if !f.spoken && !n.Ready {
		m.step(fleet.Said{Life: l.id, Word: fleet.SaysComing})
	}
	f.spoken = true
	if n.Ready && !f.ready { // again after each reload of its own
		f.ready = true
		m.step(fleet.Said{Life: l.id, Word: fleet.SaysReady})
	}
	if n.Stopping && f.leave.IsZero() {
		m.log.Info(fmt.Sprintf("worker %d leaves: it says that it stops", l.slot), "event", "leaving", "slot", l.slot, "life", l.id, "why", "STOPPING=1")
		m.step(fleet.Said{Life: l.id, Word: fleet.SaysLeaving})
	}
}

// goNative is for a life that says hello though its program did not look as if it
// were built on drover: a wrapper has become one that is.
func (m *Master) goNative(l *life) error {
	if l.foreign == nil {
		return nil
	}
	_ = l.foreign.notices.Hurry() // to their end
	l.foreign = nil
	if !m.blocking {
		return nil
	}
	m.log.Info("the program is built on drover after all: its sockets are non-blocking from now on", "event", "native", "slot", l.slot)
	return m.setBlocking(false)
}

// setBlocking sets the mode of every listening socket, which all who have it
// share.
func (m *Master) setBlocking(on bool) error {
	m.blocking = on
	for _, g := range m.groups {
		if err := g.SetBlocking(on); err != nil {
			return err
		}
	}
	return nil
}

// wantsBlocking reports whether a generation is to be given blocking sockets, as
// whoever takes them by LISTEN_FDS expects them to be.
func (g *generation) wantsBlocking() bool { return g.program.Foreign && !g.config.Nonblocking }

// fixedMode refuses a generation that needs the sockets in another mode: it
// belongs to the socket, and those that serve have the same. What is only taken
// for foreign may be broken, or become a program on drover: it is let try.
func (m *Master) fixedMode(wanted *generation) error {
	const cure = "and a socket cannot be both: nothing was changed; stop drover and start it again"
	switch {
	case wanted.program.Node != (m.node != nil):
		return fmt.Errorf("%s cannot take the place of what serves, since one of them is a Node program: nothing was changed; stop drover and start it again", wanted.program.Path)
	case m.blocking && !wanted.wantsBlocking():
		return fmt.Errorf("%s needs non-blocking sockets, what serves has blocking ones, %s", wanted.program.Path, cure)
	case !m.blocking && wanted.wantsBlocking() && wanted.config.Kind == config.KindForeign:
		return fmt.Errorf("%s needs blocking sockets, what serves has non-blocking ones, %s", wanted.program.Path, cure)
	}
	return nil
}

// retireForeign begins to end a foreign life. One that shares its sockets with
// another of its slot that serves is told at once. Else it first takes what is
// queued there, for at most half of the drain: nobody else will.
func (m *Master) retireForeign(l *life) {
	f := l.foreign
	if f.told {
		return
	}
	if f.leave.IsZero() {
		f.leave = time.Now()
	}
	for _, o := range m.fleet.Snapshot().Lives {
		if o.Slot == l.slot && o.ID != l.id && o.State == fleet.Ready {
			m.tellToLeave(l)
			return
		}
	}
}

// lastKnock is how long what knocked before the door was shut may take to come in.
const lastKnock = 25 * time.Millisecond

// urge tells foreign lives to leave, once nothing is queued for them any more.
func (m *Master) urge(now time.Time) {
	for _, l := range m.lives {
		f := l.foreign
		if f == nil || f.told || f.leave.IsZero() || now.Sub(f.leave) < lastKnock {
			continue
		}
		if now.Sub(f.leave) < l.config.Drain/2 && m.queued(l.slot) > 0 {
			continue
		}
		m.tellToLeave(l)
	}
}

// queued is how many connections wait at a slot's sockets, as far as can be told.
func (m *Master) queued(slot int) int {
	n := 0
	for _, g := range m.groups {
		n += g.Queued(slot)
	}
	return n
}

func (m *Master) tellToLeave(l *life) {
	l.foreign.told = true
	if err := l.process.Signal(config.Signal(l.config.StopSignal)); err != nil {
		m.log.Error(fmt.Sprintf("worker %d: %v", l.slot, err), "event", "deaf", "slot", l.slot, "life", l.id, "error", err.Error())
	}
}

// started is what the fleet is told of a life that runs.
func (l *life) started() fleet.Started {
	return fleet.Started{Life: l.id, PID: l.process.PID, Foreign: l.foreign != nil || l.node != nil, TellsReady: l.node != nil || l.config.Ready == config.ReadyNotify}
}
