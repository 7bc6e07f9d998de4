package master

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"drover/ipc"
	"drover/master/fleet"
)

// act carries out one action. Whatever answers it comes back as an event.
func (m *Master) act(action fleet.Action) {
	switch a := action.(type) {
	case fleet.Start:
		m.start(a)
	case fleet.Retire:
		m.retire(a)
	case fleet.Kill:
		m.kill(a)
	case fleet.Mute:
		for _, g := range m.groups {
			if err := g.RefuseNew(); err != nil {
				m.log.Error(fmt.Sprintf("stop: %v: late connections may be reset", err), "event", "mute", "error", err.Error())
			}
		}
	case fleet.Release:
		for _, g := range m.groups {
			g.Close()
		}
	case fleet.Verdict:
		m.verdict(a)
	case fleet.Replaced:
		m.replaced(a)
	case fleet.BecameReady:
		m.log.Info(fmt.Sprintf("worker %d ready: pid %d, generation %d, after %s", a.Slot, a.PID, a.Generation, short(a.Took)),
			"event", "ready", "slot", a.Slot, "life", a.Life, "pid", a.PID, "generation", a.Generation, "took_ms", a.Took.Milliseconds())
	case fleet.Death:
		m.death(a)
	case fleet.RolledBack:
		m.log.Warn(fmt.Sprintf("reload: going back to generation %d: %s", a.To, a.Why),
			"event", "rollback", "from", a.From, "to", a.To, "why", a.Why)
	case fleet.Objection:
		m.log.Warn(fmt.Sprintf("worker %d: %s", a.Slot, a.Why), "event", "objection", "slot", a.Slot, "life", a.Life, "why", a.Why)
	case fleet.Finish:
		m.finished(a)
	default:
		panic(fmt.Sprintf("master: the fleet asks for %T, which nobody carries out", action))
	}
}

// start starts a life and reports how that went.
func (m *Master) start(a fleet.Start) {
	l, err := m.spawn(a)
	if err != nil {
		m.log.Error(fmt.Sprintf("worker %d could not be started: %v", a.Slot, err), "event", "start", "slot", a.Slot, "life", a.Life, "error", err.Error())
		m.pending = append(m.pending, fleet.Exited{Life: a.Life, Exit: fleet.Exit{Err: err.Error()}})
		return
	}
	m.lives[a.Life] = l
	m.record()
	m.log.Info(fmt.Sprintf("worker %d started: pid %d, generation %d", a.Slot, l.process.PID, a.Generation),
		"event", "started", "slot", a.Slot, "life", a.Life, "pid", l.process.PID, "generation", a.Generation)
	m.pending = append(m.pending, fleet.Started{Life: a.Life, PID: l.process.PID})
}

// retire tells a life to drain: by a word, or by TERM when it does not read.
func (m *Master) retire(a fleet.Retire) {
	l := m.lives[a.Life]
	err := l.conn.Send(ipc.Message{Kind: ipc.Drain, Final: a.Final})
	if err != nil {
		m.log.Warn(fmt.Sprintf("worker %d does not hear (%v): it gets TERM", a.Slot, err), "event", "deaf", "slot", a.Slot, "life", a.Life, "error", err.Error())
		err = l.process.Signal(syscall.SIGTERM)
	}
	if err != nil {
		m.log.Error(fmt.Sprintf("worker %d: %v", a.Slot, err), "event", "deaf", "slot", a.Slot, "life", a.Life, "error", err.Error())
	}
}

func (m *Master) kill(a fleet.Kill) {
	l := m.lives[a.Life]
	m.log.Warn(fmt.Sprintf("worker %d is killed: %s (pid %d)", a.Slot, a.Why, l.process.PID),
		"event", "kill", "slot", a.Slot, "life", a.Life, "pid", l.process.PID, "why", a.Why)
	if err := l.process.Kill(); err != nil {
		m.log.Error(fmt.Sprintf("worker %d: %v", a.Slot, err), "event", "kill", "slot", a.Slot, "life", a.Life, "error", err.Error())
	}
}

// death tells the operator how a life ended and what comes next.
func (m *Master) death(a fleet.Death) {
	what, next := "exited", ""
	if a.Planned {
		what = "left"
	}
	switch {
	case a.Planned || a.Next < 0:
	case a.Next == 0:
		next = "; restart at once"
	default:
		next = "; restart in " + short(a.Next).String()
	}
	text := fmt.Sprintf("worker %d %s: %s, pid %d, generation %d, after %s%s", a.Slot, what, a.Exit, a.PID, a.Generation, short(a.Uptime), next)
	attrs := []any{"event", "exit", "slot", a.Slot, "life", a.Life, "pid", a.PID, "generation", a.Generation,
		"reason", a.Exit.String(), "planned", a.Planned, "early", a.Early, "uptime_ms", a.Uptime.Milliseconds(),
		"connections", m.lastBoard.Connections, "in_flight", m.lastBoard.InFlight}
	if a.Next >= 0 {
		attrs = append(attrs, "restart_in_ms", a.Next.Milliseconds())
	}
	if a.Planned {
		m.log.Info(text, attrs...)
		return
	}
	m.log.Warn(text, attrs...)
}

// finished ends the loop. When no worker ever became ready, the program's last
// words say why.
func (m *Master) finished(a fleet.Finish) {
	m.finish = &a
	if a.Code == 0 {
		m.log.Info("stopped", "event", "stopped")
		return
	}
	text := a.Why
	if len(m.lastWords) > 0 {
		text += "; its last lines:\n    " + strings.Join(m.lastWords, "\n    ")
	}
	m.log.Error(text, "event", "gave_up", "why", a.Why, "last_lines", m.lastWords)
}

// noticeReady tells once that every slot serves, and then relieves the workers
// that a killed master left behind.
func (m *Master) noticeReady() {
	if m.ready || m.finish != nil {
		return
	}
	n := 0
	for _, l := range m.fleet.Snapshot().Lives {
		if l.State == fleet.Ready {
			n++
		}
	}
	if n < m.config.Workers {
		return
	}
	m.ready = true
	if orphans := m.instance.Orphans; len(orphans) > 0 {
		m.relieve(orphans)
	}
}

// stop begins the graceful stop; called again it ends everything at once.
func (m *Master) stop() {
	if m.stopping {
		m.log.Warn("stopping at once", "event", "stop", "now", true)
		m.step(fleet.StopNow{})
		return
	}
	m.stopping = true
	m.log.Info("stopping: what was accepted or queued is answered first", "event", "stop", "now", false)
	if m.config.StopDelay == 0 {
		m.step(fleet.Stop{})
		return
	}
	for _, l := range m.lives {
		_ = l.conn.Send(ipc.Message{Kind: ipc.Stopping}) // a deaf worker only misses /healthz
	}
	time.AfterFunc(m.config.StopDelay, func() { m.post(func() { m.step(fleet.Stop{}) }) })
}

// reloadCall is somebody who waits for the outcome of a reload.
type reloadCall struct {
	generation int
	answer     chan<- error
}

// reload pins the program anew and has the fleet move to it.
func (m *Master) reload(answer chan<- error) {
	if _, err := m.pin(); err != nil {
		m.log.Error(fmt.Sprintf("reload: %v: generation %d serves on", err, m.fleet.Snapshot().Generation), "event", "reload", "error", err.Error())
		answer <- fmt.Errorf("reload: %w", err)
		return
	}
	m.reloads = append(m.reloads, reloadCall{m.newest, answer})
	m.log.Info(fmt.Sprintf("reload asked for: generation %d", m.newest), "event", "reload", "generation", m.newest)
	m.step(fleet.Reload{Generation: m.newest})
}

// verdict answers all who asked for this generation or one that was merged
// into it, and gives back the programs that nothing will be started from.
func (m *Master) verdict(a fleet.Verdict) {
	var err error
	if a.Err == "" {
		m.log.Info(fmt.Sprintf("reload done: generation %d serves", a.Generation), "event", "reloaded", "generation", a.Generation)
	} else {
		err = fmt.Errorf("reload failed: %s", a.Err)
		m.log.Error(err.Error(), "event", "reload_failed", "generation", a.Generation, "why", a.Err)
	}
	var later []reloadCall
	for _, call := range m.reloads {
		if call.generation > a.Generation {
			later = append(later, call)
			continue
		}
		call.answer <- err
	}
	m.reloads = later
	serving := m.fleet.Snapshot().Want.Generation
	for n, p := range m.generations {
		if n <= a.Generation && n != serving {
			p.Close()
			delete(m.generations, n)
		}
	}
}

func (m *Master) replaced(a fleet.Replaced) {
	var err error
	if a.Err != "" {
		err = fmt.Errorf("restart slot %d: %s", a.Slot, a.Err)
		m.log.Error(err.Error(), "event", "restart_failed", "slot", a.Slot, "why", a.Err)
	}
	for _, answer := range m.restarts[a.Slot] {
		answer <- err
	}
	delete(m.restarts, a.Slot)
}

// answerAll answers everybody who still waits.
func (m *Master) answerAll(err error) {
	for _, call := range m.reloads {
		call.answer <- err
	}
	for _, waiting := range m.restarts {
		for _, answer := range waiting {
			answer <- err
		}
	}
	m.reloads, m.restarts = nil, nil
}

// Reload replaces every worker by one of a new generation: the program that its
// path now holds. It blocks until that is done, and returns why when the old
// generation serves on. It may be called from any goroutine.
func (m *Master) Reload(ctx context.Context) error {
	return m.ask(ctx, m.reload)
}

// Restart replaces the worker of one slot by one of the same generation, and
// blocks until that is done. It may be called from any goroutine.
func (m *Master) Restart(ctx context.Context, slot int) error {
	return m.ask(ctx, func(answer chan<- error) {
		m.restarts[slot] = append(m.restarts[slot], answer)
		m.log.Info(fmt.Sprintf("restart of worker %d asked for", slot), "event", "restart", "slot", slot)
		m.step(fleet.Restart{Slot: slot})
	})
}

// Stop begins a graceful stop and does not wait for its end, which Run's return
// is. Called again it ends everything at once. It may be called from any
// goroutine.
func (m *Master) Stop(ctx context.Context) error {
	return m.ask(ctx, func(answer chan<- error) {
		answer <- nil
		m.stop()
	})
}

// ask has the loop do something that answers once, and waits for the answer.
func (m *Master) ask(ctx context.Context, do func(answer chan<- error)) error {
	answer := make(chan error, 1)
	if !m.post(func() { do(answer) }) {
		return errStopped
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return errors.New("the asker left before the answer")
	}
}

// short rounds a duration to what a reader of the log wants to know.
func short(d time.Duration) time.Duration {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond)
	case d < time.Minute:
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}
