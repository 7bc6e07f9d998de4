package fleet

import (
	"fmt"
	"time"
)

// settle closes the gap between what is wished for and what is: the only place
// that starts and retires lives. What cannot be done yet has an instant in
// Deadline.
func (f *Fleet) settle() {
	for _, l := range f.lives {
		if !l.deadline.IsZero() && !l.deadline.After(f.now) {
			f.overdue(l)
		}
		if l.state.coming() && !l.takeReady.IsZero() && !l.takeReady.After(f.now) {
			f.become(l, Ready)
			l.readyAt = l.started // since when it has served, nobody knows
			f.becameReady(l, true)
		}
	}
	if f.phase == serving && f.hopeless() {
		f.phase = givingUp
		for _, l := range f.lives {
			l.left = f.now
			if l.state != Killed {
				f.kill(l, "the app gives up")
			}
		}
	}
	switch f.phase {
	case serving:
		f.surplus()
		f.advance()
		f.retirePredecessors()
		f.fill()
		f.foster()
		f.steer()
	case stopping, released, givingUp:
		f.end()
	}
}

// overdue kills a life whose state has lasted too long.
func (f *Fleet) overdue(l *life) {
	switch {
	case l.state.coming():
		why := fmt.Sprintf("it was not ready within %s", f.policy.ReadyTimeout)
		if l.state == Listening {
			why = fmt.Sprintf("it listens, but did not say within %s that it is ready", f.policy.ReadyTimeout)
		}
		f.kill(l, why) // its goroutines would bury what it printed last
		f.failed(l, fmt.Sprintf("worker %d of generation %d: %s", l.slot, l.generation, why))
	case l.state == Draining:
		f.killStuck(l, fmt.Sprintf("it did not finish within %s", f.patience(l)))
	case l.state == Killed:
		f.kill(l, "it is still there")
	}
}

// hopeless reports whether the app is to be given up: no life was ever ready,
// and every slot died early three times or the time to be ready is over.
func (f *Fleet) hopeless() bool {
	if f.everReady || f.firstStart.IsZero() {
		return false
	}
	if !f.firstStart.Add(f.policy.ReadyTimeout).After(f.now) {
		return true
	}
	for n := range f.want.Workers {
		if f.slot(n).never < giveUpAfter {
			return false
		}
	}
	return true
}

// surplus ends the lives of slots that are no longer wanted.
func (f *Fleet) surplus() {
	for _, l := range f.lives {
		if l.slot < f.want.Workers {
			continue
		}
		switch {
		case l.state.coming():
			f.dismiss(l, "its slot is no longer wanted")
		case l.state == Ready:
			f.retire(l)
		}
	}
	for _, sl := range f.slots[min(f.want.Workers, len(f.slots)):] {
		f.endRestarts(sl.n, f.given+1, "its slot is no longer wanted")
	}
}

func (f *Fleet) retire(l *life) {
	f.become(l, Draining)
	f.do(Retire{l.id, l.slot, false})
}

// advance moves the reload on as far as it has proven itself.
func (f *Fleet) advance() {
	for f.roll != nil {
		if f.roll.next < f.want.Workers {
			l := f.servingIn(f.roll.next)
			if l == nil || l.generation != f.roll.to || !f.proven(l) {
				return
			}
			f.roll.next++
			continue
		}
		for n := range f.want.Workers {
			l := f.servingIn(n)
			if l == nil || l.generation != f.roll.to || f.early(l) {
				return
			}
		}
		f.want.Generation = f.roll.to
		f.endRoll("", 0)
	}
}

// proven reports whether a life that is ready may take its predecessor's place.
// The first of a new generation must have been ready for MinUptime.
func (f *Fleet) proven(l *life) bool {
	canary := f.roll != nil && l.generation == f.roll.to && f.roll.next == 0
	return !canary || !f.early(l)
}

// retirePredecessors retires each life whose successor serves.
func (f *Fleet) retirePredecessors() {
	for _, old := range f.lives {
		if old.state != Ready {
			continue
		}
		if l := f.servingIn(old.slot); l.id > old.id && f.proven(l) {
			f.retire(old)
		}
	}
	served := 0
	for n := range f.want.Workers {
		if l := f.servingIn(n); l != nil {
			f.endRestarts(n, l.id, "")
			served++
		}
	}
	if served == f.want.Workers {
		f.endScaling("")
	}
}

// fill starts what is missing: first a life in each slot that has none and may
// have one, then one successor at a time of a life that is to be replaced.
func (f *Fleet) fill() {
	replacing := false
	for n := range f.want.Workers {
		if s := f.slot(n); f.vacant(n) && !s.notBefore.After(f.now) {
			f.start(s)
		}
		replacing = replacing || f.crowded(n)
	}
	if at := f.floor(); !at.IsZero() && !at.After(f.now) {
		f.start(f.nextVacant())
	}
	for n := range f.want.Workers {
		l := f.servingIn(n)
		if !replacing && l != nil && !f.crowded(n) && f.outdated(l) {
			f.start(f.slot(n))
			replacing = true
		}
	}
}

// outdated reports whether a life that serves is to have a successor.
func (f *Fleet) outdated(l *life) bool {
	if l.generation != f.generation(l.slot) {
		return true
	}
	for _, r := range f.restarts {
		if f.roll == nil && r.slot == l.slot && l.id <= r.after {
			return true
		}
	}
	return false
}

// generation is what a slot's next life runs.
func (f *Fleet) generation(n int) int {
	if f.roll != nil && n <= f.roll.next {
		return f.roll.to
	}
	return f.want.Generation
}

func (f *Fleet) start(s *slot) {
	f.given++
	l := &life{
		id: f.given, slot: s.n, generation: f.generation(s.n),
		started: f.now, deadline: f.now.Add(f.policy.ReadyTimeout),
	}
	f.lives = append(f.lives, l)
	f.lastStart = f.now
	if f.firstStart.IsZero() {
		f.firstStart = f.now
	}
	f.do(Start{l.id, s.n, l.generation})
}

// end brings a full stop, or the giving up, to its end.
func (f *Fleet) end() {
	if f.phase == stopping && !f.accepting() {
		f.phase = released
		f.do(Release{})
	}
	switch {
	case len(f.lives) > 0 || f.phase == stopping:
	case f.phase == givingUp:
		f.phase = finished
		f.do(Finish{3, "no worker ever became ready"})
	default:
		f.phase = finished
		f.do(Finish{0, "stopped"})
	}
}

// accepting reports whether a life may still empty the sockets' queues.
func (f *Fleet) accepting() bool {
	for _, l := range f.lives {
		if l.state == Draining && !l.closed {
			return true
		}
	}
	return false
}

// slot is slot n, which is made when it is first spoken of. One that is added
// to a fleet that serves gets no connection before it is served.
func (f *Fleet) slot(n int) *slot {
	for len(f.slots) <= n {
		f.slots = append(f.slots, &slot{n: len(f.slots), off: f.everReady})
	}
	return f.slots[n]
}

// servingIn is the newest life of a slot that is ready, or nil.
func (f *Fleet) servingIn(n int) *life {
	for i := len(f.lives) - 1; i >= 0; i-- {
		if l := f.lives[i]; l.slot == n && l.state == Ready {
			return l
		}
	}
	return nil
}

// comingIn reports whether a life of the slot may yet become ready.
func (f *Fleet) comingIn(n int) bool {
	for _, l := range f.lives {
		if l.slot == n && l.state.coming() {
			return true
		}
	}
	return false
}

// crowded reports whether a slot has a life beside the one that serves, which
// serves too or comes.
func (f *Fleet) crowded(n int) bool {
	count := 0
	for _, l := range f.lives {
		if l.slot == n && l.state <= Ready {
			count++
		}
	}
	return count > 1
}

// vacant reports whether a slot has neither a life that serves nor one that
// comes.
func (f *Fleet) vacant(n int) bool { return f.servingIn(n) == nil && !f.comingIn(n) }

// nextVacant is the vacant slot that may be filled first, or nil.
func (f *Fleet) nextVacant() *slot {
	var first *slot
	for n := range f.want.Workers {
		if s := f.slot(n); f.vacant(n) && (first == nil || s.notBefore.Before(first.notBefore)) {
			first = s
		}
	}
	return first
}

// floor is when a life is started although each slot's backoff says later:
// while nobody serves or comes. Zero when somebody does.
func (f *Fleet) floor() time.Time {
	for n := range f.want.Workers {
		if !f.vacant(n) {
			return time.Time{}
		}
	}
	return f.lastStart.Add(herdFloor)
}

// nextStart is when a slot that is vacant gets its next life.
func (f *Fleet) nextStart(s *slot) time.Time {
	if at := f.floor(); !at.IsZero() && at.Before(s.notBefore) && f.nextVacant() == s {
		return at
	}
	return s.notBefore
}

// Deadline is when Step is to be called with a Tick, if nothing happens before;
// zero when it need not be. It is always after the instant of the last Step.
func (f *Fleet) Deadline() time.Time {
	var first time.Time
	at := func(t time.Time) {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	for _, l := range f.lives {
		at(l.deadline)
		if l.state.coming() {
			at(l.takeReady)
		}
	}
	if f.phase != serving {
		return first
	}
	if !f.everReady && !f.firstStart.IsZero() {
		at(f.firstStart.Add(f.policy.ReadyTimeout))
	}
	for n := range f.want.Workers {
		if s := f.slot(n); f.vacant(n) {
			at(s.notBefore)
		}
	}
	at(f.floor())
	for _, s := range f.slots {
		switch owner := f.servingIn(s.n); {
		case owner != nil && !owner.late && len(s.fosters) > 0:
			at(owner.steady.Add(steadyAfter))
		case owner == nil && f.policy.Sticky && !f.needsFoster(s) && !s.vacated.IsZero():
			at(s.vacated.Add(steadyAfter))
		}
	}
	if f.roll != nil {
		for _, l := range f.lives {
			if l.generation == f.roll.to && l.state == Ready && f.early(l) {
				at(l.readyAt.Add(f.policy.MinUptime))
			}
		}
	}
	return first
}
