package fleet

import (
	"fmt"
	"slices"
	"time"
)

// Step takes what has happened at the instant now, and returns what is to be
// done about it, in order. Instants never go back.
func (f *Fleet) Step(now time.Time, ev Event) []Action {
	f.now = now
	if f.lastBeats.IsZero() {
		f.lastBeats = now
	}
	switch ev := ev.(type) {
	case Tick:
	case Started:
		if l := f.find(ev.Life); l != nil {
			l.pid, l.foreign = ev.PID, ev.Foreign
			if ev.Foreign && !ev.TellsReady {
				l.takeReady = now.Add(f.policy.MinUptime)
			}
		}
	case Said:
		if l := f.find(ev.Life); l != nil {
			f.said(l, ev.Word)
		}
	case Exited:
		if l := f.find(ev.Life); l != nil {
			f.exited(l, ev.Exit, ev.TellsLeaving)
		}
	case Reload:
		f.reload(ev.Generation)
	case Restart:
		f.restart(ev.Slot)
	case Scale:
		f.scale(ev.Workers)
	case Beats:
		f.beats(ev.List, ev.Slept)
	case PolicyChanged:
		f.policy = ev.Policy.WithDefaults()
	case Stop:
		f.stop()
	case StopNow:
		f.stop()
		for _, l := range f.lives {
			f.kill(l, "it is not waited for")
		}
	default:
		panic(fmt.Sprintf("fleet: unknown event %T", ev))
	}
	f.settle()
	out := f.out
	f.out = nil
	return out
}

func (f *Fleet) do(a Action) { f.out = append(f.out, a) }

// find is a living life, or nil.
func (f *Fleet) find(id LifeID) *life {
	for _, l := range f.lives {
		if l.id == id {
			return l
		}
	}
	return nil
}

// become is the only place where a life's state changes.
func (f *Fleet) become(l *life, s State) {
	if s <= l.state {
		panic(fmt.Sprintf("fleet: life %d cannot become %s: it is %s", l.id, s, l.state))
	}
	l.state = s
	switch s {
	case Starting, Online, Listening: // its deadline runs from its start
	case Ready:
		l.readyAt, l.steady = f.now, f.now
		l.deadline = time.Time{}
		f.everReady = true
		f.slot(l.slot).vacated = time.Time{}
	case Draining:
		l.late = false // from here on its drain's deadline counts
		l.left = f.now
		l.deadline = f.now.Add(f.patience(l) + drainGrace)
	case Killed:
		l.deadline = f.now.Add(killAgain)
	case Gone:
		f.lives = slices.DeleteFunc(f.lives, func(o *life) bool { return o == l })
	}
	if sl := f.slot(l.slot); s > Ready && sl.vacated.IsZero() && f.servingIn(l.slot) == nil {
		sl.vacated = f.now
	}
}

// patience is how long a life may take to leave.
func (f *Fleet) patience(l *life) time.Duration {
	if l.readyAt.IsZero() {
		return min(unreadyGrace, f.policy.Drain)
	}
	return f.policy.Drain
}

// said takes a life's word. A word that comes too late to matter, since we have
// told the life to leave or killed it meanwhile, is no fault of its.
func (f *Fleet) said(l *life, w Word) {
	next := map[Word]State{SaysOnline: Online, SaysListening: Listening, SaysReady: Ready, SaysLeaving: Draining}
	l.takeReady = time.Time{} // it speaks
	switch {
	case w == SaysClosed:
		l.closed = true
	case l.state >= Draining || w == SaysComing:
	case w == SaysReady && l.foreign && l.state == Ready:
		// It was taken for ready before.
	case next[w] <= l.state:
		f.do(Objection{l.id, l.slot, fmt.Sprintf("it says that it is %s, but it is %s", next[w], l.state)})
	case w == SaysLeaving:
		early := f.early(l)
		f.become(l, Draining)
		f.leaveUnasked(l, early)
		if early {
			f.failed(l, fmt.Sprintf("worker %d of generation %d left, %s", l.slot, l.generation, f.lifetime(l)))
		}
	default:
		f.become(l, next[w])
		switch w {
		case SaysOnline:
			l.foreign = false
		case SaysReady:
			f.becameReady(l, false)
		}
	}
}

func (f *Fleet) becameReady(l *life, taken bool) {
	f.do(BecameReady{l.id, l.slot, l.pid, l.generation, f.now.Sub(l.started), taken})
}

// early reports whether an end of the life now would be an early one.
func (f *Fleet) early(l *life) bool {
	return l.readyAt.IsZero() || f.now.Sub(l.readyAt) < f.policy.MinUptime
}

// exited takes the end of a life.
func (f *Fleet) exited(l *life, e Exit, tells bool) {
	early := f.early(l)
	asked := !l.left.IsZero() || f.phase != serving
	planned := asked || !tells && e == Exit{}
	f.become(l, Gone)
	f.exits = append(f.exits, PastExit{l.slot, l.id, l.pid, l.generation, e, planned, l.why, f.now})
	if len(f.exits) > keptExits {
		f.exits = f.exits[1:]
	}
	s := f.slots[l.slot]
	if !planned {
		s.restarts++
	}
	if !asked {
		f.leaveUnasked(l, early)
	}
	next := time.Duration(-1)
	if f.phase == serving && l.slot < f.want.Workers && f.vacant(l.slot) {
		next = max(0, f.nextStart(s).Sub(f.now))
	}
	f.do(Death{l.id, l.slot, l.pid, l.generation, e, l.why, planned, early, f.now.Sub(l.started), next})
	if early && !asked {
		f.failed(l, fmt.Sprintf("worker %d of generation %d: %s, %s", l.slot, l.generation, e, f.lifetime(l)))
	}
}

// lifetime says how long a life was good for.
func (f *Fleet) lifetime(l *life) string {
	if l.readyAt.IsZero() {
		return "before it was ready"
	}
	return fmt.Sprintf("%s after it was ready", f.now.Sub(l.readyAt).Round(time.Millisecond))
}

// leaveUnasked sets when the slot may have its next life: at once after a late
// end, with a backoff after an early one.
func (f *Fleet) leaveUnasked(l *life, early bool) {
	s := f.slots[l.slot]
	s.notBefore = f.now
	if !early {
		return
	}
	if f.roll != nil && l.generation == f.roll.to {
		return // the reload fails for it, and the slot's next life is of the old generation
	}
	if !f.everReady {
		s.never++
	}
	s.early = slices.DeleteFunc(s.early, func(at time.Time) bool { return f.now.Sub(at) >= earlyWindow })
	s.early = append(s.early, f.now)
	s.notBefore = f.now.Add(backoff(len(s.early), l.id))
}

// backoff is the answer to the n-th early end within the window: nothing, then
// backoffFirst, then backoffTimes as long each time up to backoffMost, and up to a
// tenth more, so that slots that die together do not start together.
func backoff(n int, id LifeID) time.Duration {
	if n <= 1 {
		return 0
	}
	d := backoffFirst
	for ; n > 2 && d < backoffMost; n-- {
		d = min(d*backoffTimes, backoffMost)
	}
	return d + d*time.Duration(id%16)/160
}

// reload begins to move to a generation, or remembers to.
func (f *Fleet) reload(generation int) {
	switch {
	case f.phase != serving:
		f.do(Verdict{Generation: generation, Err: "the app is stopping"})
	case f.roll != nil:
		f.queued = generation
	default:
		f.beginRoll(generation)
	}
}

// beginRoll begins a reload. Where the old generation does not serve, the new
// one is not kept waiting by its backoff: it may be the cure.
func (f *Fleet) beginRoll(generation int) {
	f.roll = &roll{to: generation}
	for n := range f.want.Workers {
		if f.vacant(n) {
			f.slot(n).notBefore = f.now
		}
	}
}

// failed ends what a life was the test of: a reload to its generation, or a
// restart of its slot.
func (f *Fleet) failed(l *life, why string) {
	if f.phase != serving {
		return
	}
	if f.roll != nil && l.generation == f.roll.to {
		f.do(RolledBack{f.roll.to, f.want.Generation, why})
		for _, o := range f.lives {
			if o.generation == f.roll.to && o.state.coming() {
				f.dismiss(o, "its generation has failed")
			}
		}
		f.endRoll(why, l.id)
		return
	}
	f.endRestarts(l.slot, l.id, why)
	if l.readyAt.IsZero() {
		f.endScaling(why)
	}
}

// endRoll gives the verdict on a reload, and begins the one that waits.
func (f *Fleet) endRoll(err string, failed LifeID) {
	f.do(Verdict{f.roll.to, err, failed})
	f.roll = nil
	if f.queued != 0 {
		f.beginRoll(f.queued)
		f.queued = 0
	}
}

// scale wishes for a number of workers.
func (f *Fleet) scale(workers int) {
	if f.phase != serving {
		f.do(Scaled{workers, "the app is stopping"})
		return
	}
	f.want.Workers = max(1, workers)
	f.scaling = true
}

// endScaling answers who waits for a number of workers.
func (f *Fleet) endScaling(err string) {
	if f.scaling {
		f.scaling = false
		f.do(Scaled{f.want.Workers, err})
	}
}

// restart wishes for a new life in a slot.
func (f *Fleet) restart(n int) {
	switch {
	case f.phase != serving:
		f.do(Replaced{n, "the app is stopping"})
	case n < 0 || n >= f.want.Workers:
		f.do(Replaced{n, fmt.Sprintf("there is no slot %d: there are %d, from 0", n, f.want.Workers)})
	default:
		if f.vacant(n) {
			f.slot(n).notBefore = f.now
		}
		if !slices.ContainsFunc(f.restarts, func(r restart) bool { return r.slot == n }) {
			f.restarts = append(f.restarts, restart{n, f.given})
		} // else the successor that is wished for already will do for both
	}
}

// endRestarts answers the wish for a slot that life id fulfils, or fails.
func (f *Fleet) endRestarts(n int, id LifeID, err string) {
	before := len(f.restarts)
	f.restarts = slices.DeleteFunc(f.restarts, func(r restart) bool { return r.slot == n && r.after < id })
	if len(f.restarts) < before {
		f.do(Replaced{n, err})
	}
}

// stop begins the full stop.
func (f *Fleet) stop() {
	if f.phase != serving {
		return
	}
	f.phase = stopping
	f.want.Stop = true
	const why = "the app is stopping"
	if f.roll != nil {
		f.do(Verdict{Generation: max(f.roll.to, f.queued), Err: why})
		f.roll, f.queued = nil, 0
	}
	for len(f.restarts) > 0 {
		f.endRestarts(f.restarts[0].slot, f.given+1, why)
	}
	f.endScaling(why)
	f.do(Mute{})
	for _, l := range f.lives {
		switch {
		case l.state.coming():
			f.dismiss(l, why)
		case l.state == Ready:
			f.become(l, Draining)
			f.do(Retire{l.id, l.slot, true})
		case l.state == Draining:
			f.do(Retire{l.id, l.slot, true})
		}
	}
}

// dismiss ends a life that is still coming. One that has said hello may serve
// by now, which we have not heard yet, and a foreign one accepts when it likes:
// they drain.
func (f *Fleet) dismiss(l *life, why string) {
	switch {
	case l.state == Killed:
		l.left = f.now
	case l.state < Online && !l.foreign:
		l.left = f.now
		f.kill(l, why)
	default:
		f.become(l, Draining)
		f.do(Retire{l.id, l.slot, f.want.Stop})
	}
}

// kill kills a life, again if it was killed before.
func (f *Fleet) kill(l *life, why string) {
	if l.state == Killed {
		l.deadline = f.now.Add(killAgain)
	} else {
		f.become(l, Killed)
	}
	f.do(Kill{Life: l.id, Slot: l.slot, Why: why})
}

// killStuck kills a life that was waited for in vain. It is asked for its
// goroutines first: they say what it does instead.
func (f *Fleet) killStuck(l *life, why string) {
	f.become(l, Killed)
	f.do(Kill{Life: l.id, Slot: l.slot, Why: why, Dump: true})
}
