package master

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"drover/config"
	"drover/ipc"
	"drover/master/fleet"
	"drover/master/node"
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
			switch err := g.RefuseNew(); {
			case errors.Is(err, syscall.EPERM):
				m.log.Warn(fmt.Sprintf("stop: %v: this kernel wants CAP_NET_ADMIN for it: a connection that comes just before the end may be reset", err), "event", "mute", "error", err.Error())
			case err != nil:
				m.log.Error(fmt.Sprintf("stop: %v: late connections may be reset", err), "event", "mute", "error", err.Error())
			}
		}
	case fleet.Release:
		for _, g := range m.groups {
			g.Close()
		}
	case fleet.Foster:
		m.foster(a)
	case fleet.Steer:
		m.steer(a.Slots)
	case fleet.Recycle:
		m.log.Info(fmt.Sprintf("worker %d is to be replaced: %s", a.Slot, a.Why), "event", "recycle", "slot", a.Slot, "life", a.Life, "why", a.Why)
	case fleet.Late:
		m.log.Warn(fmt.Sprintf("worker %d misses its heartbeat since %s: its siblings accept for it", a.Slot, short(a.Age)),
			"event", "late", "slot", a.Slot, "life", a.Life, "age_ms", a.Age.Milliseconds())
	case fleet.Recovered:
		m.log.Info(fmt.Sprintf("worker %d beats again", a.Slot), "event", "recovered", "slot", a.Slot, "life", a.Life)
	case fleet.Suspect:
		m.log.Warn(fmt.Sprintf("this master stood still for %s: heartbeats count anew", short(a.Gap)), "event", "suspect", "gap_ms", a.Gap.Milliseconds())
	case fleet.Verdict:
		m.verdict(a)
	case fleet.Replaced:
		m.replaced(a)
	case fleet.Scaled:
		m.scaled(a)
	case fleet.BecameReady:
		text := fmt.Sprintf("worker %d ready: pid %d, generation %d, after %s", a.Slot, a.PID, a.Generation, short(a.Took))
		if a.Taken {
			text += ": it does not say so, but lives"
		}
		if !m.served {
			m.served = true
			m.service.Ready()
		}
		if m.node != nil {
			m.steerNode()
		}
		m.log.Info(text, "event", "ready", "slot", a.Slot, "life", a.Life, "pid", a.PID, "generation", a.Generation, "took_ms", a.Took.Milliseconds())
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
	if l.node != nil {
		m.primaryStep(node.Joined{Worker: l.worker(), Slot: a.Slot, Generation: a.Generation})
	}
	if l.foreign == nil {
		m.pending = append(m.pending, l.started())
	} // one that does not say when it is ready has started when the stage is over
}

// retire tells a life to drain: by a word, and by TERM when it may not read it,
// having left something else unread. Who gets both drains once.
func (m *Master) retire(a fleet.Retire) {
	l := m.lives[a.Life]
	switch {
	case l.foreign != nil:
		m.retireForeign(l)
		return
	case l.node != nil:
		m.retireNode(l, a.Final)
		return
	}
	deaf := l.conn.Unread()
	err := l.conn.Send(ipc.Message{Kind: ipc.Drain, Final: a.Final})
	if err == nil && deaf {
		err = l.process.Signal(syscall.SIGTERM)
	} else if err != nil {
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
	end := l.process.Kill
	if a.Dump {
		end = l.process.Dump
	}
	if err := end(); err != nil {
		m.log.Error(fmt.Sprintf("worker %d: %v", a.Slot, err), "event", "kill", "slot", a.Slot, "life", a.Life, "error", err.Error())
	}
}

// foster has a life accept on a sibling's sockets, or no more. One that does not
// hear is found out by its heartbeat.
func (m *Master) foster(a fleet.Foster) {
	err := m.lives[a.Life].conn.Send(ipc.Message{Kind: ipc.Foster, Slot: a.Of, On: a.On})
	if err != nil {
		m.log.Warn(fmt.Sprintf("worker %d does not hear: %v", a.Slot, err), "event", "deaf", "slot", a.Slot, "life", a.Life, "error", err.Error())
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
	exit := a.Exit.String()
	if a.Why != "" {
		exit += " (" + a.Why + ")"
	}
	text := fmt.Sprintf("worker %d %s: %s, pid %d, generation %d, after %s%s", a.Slot, what, exit, a.PID, a.Generation, short(a.Uptime), next)
	attrs := []any{"event", "exit", "slot", a.Slot, "life", a.Life, "pid", a.PID, "generation", a.Generation,
		"reason", a.Exit.String(), "planned", a.Planned, "early", a.Early, "uptime_ms", a.Uptime.Milliseconds(),
		"connections", m.lastBoard.Connections, "in_flight", m.lastBoard.InFlight}
	if a.Why != "" {
		attrs = append(attrs, "why", a.Why)
	}
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
	if m.node != nil && m.node.quiet {
		a.Why += ": none asked for a socket, and a program that listens on nothing needs never_listens of node"
	}
	m.log.Error(a.Why+lastSaid(m.lastSaid), "event", "gave_up", "why", a.Why, "last_lines", m.lastSaid)
}

// wordsOf are the last lines of a life that lives, or was the last to end.
func (m *Master) wordsOf(id fleet.LifeID) []string {
	if l := m.lives[id]; l != nil {
		return l.tail.Lines()
	}
	if id == m.lastLife {
		return m.lastWords
	}
	return nil
}

func lastSaid(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return "; its last lines:\n    " + strings.Join(lines, "\n    ")
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
	if n < m.fleet.Snapshot().Want.Workers {
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
	m.service.Stopping()
	m.log.Info("stopping: what was accepted or queued is answered first", "event", "stop", "now", false)
	if m.config.StopDelay == 0 {
		m.step(fleet.Stop{})
		return
	}
	for _, l := range m.lives {
		if l.conn != nil {
			_ = l.conn.Send(ipc.Message{Kind: ipc.Stopping}) // a deaf worker only misses /healthz
		}
	}
	time.AfterFunc(m.config.StopDelay, func() { m.post(func() { m.step(fleet.Stop{}) }) })
}

// reloadCall is somebody who waits for the outcome of a reload.
type reloadCall struct {
	generation int
	answer     chan<- error
}

// reload loads a new generation and has the fleet move to it.
func (m *Master) reload(answer chan<- error) {
	m.service.Reloading()
	gen, err := m.load()
	if err == nil {
		if err = fixed(m.config, gen.config); err == nil {
			err = m.fixedMode(gen)
		}
		if err != nil {
			gen.close()
			delete(m.generations, m.newest)
		}
	}
	if err != nil {
		m.log.Error(fmt.Sprintf("reload: %v: generation %d serves on", err, m.fleet.Snapshot().Generation), "event", "reload", "error", err.Error())
		answer <- fmt.Errorf("reload: %w", err)
		m.reloadEnded()
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
		m.adopt(m.generations[a.Generation].config)
		if k := m.generations[a.Generation].keys; k != nil {
			m.tellKeys(k.ring)
		}
	} else {
		err = fmt.Errorf("reload failed: %s%s", a.Err, lastSaid(m.wordsOf(a.Life)))
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
	m.reloadEnded()
	serving := m.fleet.Snapshot().Want.Generation
	for n, g := range m.generations {
		if n <= a.Generation && n != serving {
			g.close()
			delete(m.generations, n)
		}
	}
}

// reloadEnded tells the service manager, once nobody waits for a reload any more.
func (m *Master) reloadEnded() {
	if len(m.reloads) == 0 && m.served && !m.stopping {
		m.service.Ready()
	}
}

// adopt takes over what a generation that serves now was configured with. A
// number of workers that was changed by hand is only changed again where the
// configuration has another than before.
func (m *Master) adopt(c config.Config) {
	if c.Workers != m.config.Workers {
		m.pending = append(m.pending, fleet.Scale{Workers: c.Workers})
	}
	m.rearm(m.config, c)
	m.config = c
	m.pending = append(m.pending, fleet.PolicyChanged{Policy: m.policy(c)})
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

func (m *Master) scaled(a fleet.Scaled) {
	var err error
	if a.Err == "" {
		m.log.Info(fmt.Sprintf("scaled to %s", count(a.Workers, "worker")), "event", "scaled", "workers", a.Workers)
	} else {
		err = fmt.Errorf("scale to %s: %s", count(a.Workers, "worker"), a.Err)
		m.log.Error(err.Error(), "event", "scale_failed", "workers", a.Workers, "why", a.Err)
	}
	for _, answer := range m.scales {
		answer <- err
	}
	m.scales = nil
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
	for _, answer := range m.scales {
		answer <- err
	}
	m.reloads, m.restarts, m.scales = nil, nil, nil
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

// Scale changes the number of workers, and blocks until so many serve, or one
// that was started for it fails. It may be called from any goroutine.
func (m *Master) Scale(ctx context.Context, workers int) error {
	if workers < 1 || workers > config.MaxWorkers {
		return fmt.Errorf("scale to %d: want a number of workers from 1 to %d", workers, config.MaxWorkers)
	}
	return m.ask(ctx, func(answer chan<- error) { m.scale(workers, answer) })
}

func (m *Master) scale(workers int, answer chan<- error) {
	if err := m.fitsSteering(workers); err != nil {
		answer <- fmt.Errorf("scale to %w", err)
		return
	}
	m.log.Info(fmt.Sprintf("scale to %s asked for", count(workers, "worker")), "event", "scale", "workers", workers)
	m.scales = append(m.scales, answer)
	m.step(fleet.Scale{Workers: workers})
}

// Stop begins a graceful stop, upon which no new connection is let in, and does
// not wait for its end, which Run's return is. Called again it ends everything at
// once. It may be called from any goroutine.
func (m *Master) Stop(ctx context.Context) error {
	return m.ask(ctx, func(answer chan<- error) {
		m.stop()
		answer <- nil
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
