package fleet

import (
	"fmt"
	"slices"
	"time"
)

const (
	lateAfter   = 300 * time.Millisecond // without a heartbeat: siblings accept on its sockets
	steadyAfter = time.Second            // of heartbeats in time: its siblings stop doing so
	fosters     = 2                      // how many siblings accept on one slot's sockets
)

// Beat is what the master has read of a life.
type Beat struct {
	Life        LifeID
	Age         time.Duration // since its last heartbeat
	Connections int           // that it has open
	Requests    uint64        // that it has answered
	Oldest      time.Duration // age of its oldest request in flight
	OldestIs    string        // that request, as the log calls it; empty: not known
	SchedWait   time.Duration // for how long its goroutines wait for a processor
	Memory      int64         // bytes resident; 0: not known
}

// beats takes what was read of all lives that have ever beaten. When it comes
// late itself, or the host has slept, no life is blamed.
func (f *Fleet) beats(list []Beat, slept time.Duration) {
	gap := f.now.Sub(f.lastBeats) + slept
	f.lastBeats = f.now
	for _, b := range list {
		l := f.find(b.Life)
		if l == nil {
			continue
		}
		l.beat, l.connections = f.now.Add(-b.Age), b.Connections
		if gap > lateAfter/2 || l.lateFrom.IsZero() {
			l.lateFrom = f.now
		}
		if gap > f.policy.HangTimeout/2 || l.hungFrom.IsZero() {
			l.hungFrom = f.now
		}
		switch late := f.now.Sub(latest(l.beat, l.lateFrom)) >= lateAfter; {
		case l.state != Ready:
		case late && !l.late:
			l.late = true
			f.do(Late{l.id, l.slot, b.Age})
		case !late && l.late:
			l.late = false
			l.steady = f.now
			f.do(Recovered{l.id, l.slot})
		}
	}
	if gap > f.policy.HangTimeout/2 {
		f.do(Suspect{gap})
	}
	f.killHung()
	f.recycle(list)
}

// recycle wishes for a successor of each life that has reached a limit. Wishes
// are fulfilled one after the other: no two slots recycle at once.
func (f *Fleet) recycle(list []Beat) {
	if f.phase != serving {
		return
	}
	for _, b := range list {
		l := f.find(b.Life)
		if l == nil || l.state != Ready || l.late || f.slot(l.slot).notBefore.After(f.now) {
			continue // the last successor failed: its backoff holds here too
		}
		why := f.worn(l, b)
		if why == "" || slices.ContainsFunc(f.restarts, func(r restart) bool { return r.slot == l.slot }) || f.servingIn(l.slot) != l {
			continue
		}
		f.restarts = append(f.restarts, restart{l.slot, l.id})
		f.do(Recycle{l.id, l.slot, why})
	}
}

// worn says which limit a life has reached. Requests and age are bounded up to a
// tenth lower, by the life's ID, so that lives that began together do not end
// together.
func (f *Fleet) worn(l *life, b Beat) string {
	less := func(n int64) int64 { return n - n*int64(l.id%16)/160 }
	switch p, age := f.policy, f.now.Sub(l.started); {
	case p.MaxMemory > 0 && b.Memory > p.MaxMemory:
		return fmt.Sprintf("it has %d MiB of memory, more than max_memory", b.Memory>>20)
	case p.MaxRequests > 0 && b.Requests >= uint64(less(p.MaxRequests)):
		return fmt.Sprintf("it has answered %d requests", b.Requests)
	case p.MaxAge > 0 && int64(age) >= less(int64(p.MaxAge)):
		return fmt.Sprintf("it is %s old", age.Round(time.Second))
	case p.RequestTimeout > 0 && b.Oldest > p.RequestTimeout:
		return stuck(b)
	}
	return ""
}

// loops is how long goroutines wait for a processor at least where one of them
// computes without a pause, with the other 5 ms for luck: the runtime lets it run
// for 10.
const loops = 5 * time.Millisecond

// stuck says what the oldest request is, and whether it computes or waits.
func stuck(b Beat) string {
	why := fmt.Sprintf("a request is in flight for %s, more than request_timeout", b.Oldest.Round(100*time.Millisecond))
	if b.OldestIs != "" {
		why += ": " + b.OldestIs
	}
	wait := b.SchedWait.Round(10 * time.Microsecond)
	if b.SchedWait >= loops {
		return fmt.Sprintf("%s; goroutines wait %s for a processor: something computes without a pause", why, wait)
	}
	return fmt.Sprintf("%s; goroutines wait %s for a processor: it computes nothing, it waits", why, wait)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// killHung kills a life that has not beaten for HangTimeout. When every life
// that serves is late, the fault may be the machine's: then only the one that is
// late the longest is killed, after three times as long, and no other before its
// successor serves.
func (f *Fleet) killHung() {
	if f.phase != serving {
		return
	}
	var longest *life
	late, ready, coming := 0, 0, false
	for _, l := range f.lives {
		coming = coming || l.state.coming()
		if l.state != Ready {
			continue
		}
		ready++
		if l.late {
			late++
			if longest == nil || f.silence(l) > f.silence(longest) {
				longest = l
			}
		}
	}
	if late == ready {
		if longest != nil && !coming && f.silence(longest) > 3*f.policy.HangTimeout {
			f.hang(longest)
		}
		return
	}
	for _, l := range slices.Clone(f.lives) {
		if l.state == Ready && l.late && f.silence(l) > f.policy.HangTimeout {
			f.hang(l)
		}
	}
}

// silence is for how long a life's heartbeat has been missed.
func (f *Fleet) silence(l *life) time.Duration { return f.now.Sub(latest(l.beat, l.hungFrom)) }

// hang ends a life that hangs: first it is asked for its goroutines.
func (f *Fleet) hang(l *life) {
	l.why = fmt.Sprintf("no heartbeat for %s", f.now.Sub(l.beat).Round(100*time.Millisecond))
	early := f.early(l)
	f.killStuck(l, "it hangs: "+l.why)
	if early {
		f.failed(l, fmt.Sprintf("worker %d of generation %d: %s", l.slot, l.generation, l.why))
	}
}

// foster has siblings accept on the sockets of a slot that nobody serves, or
// whose life is late; until its owner has beaten in time for a second.
func (f *Fleet) foster() {
	for _, s := range f.slots {
		s.fosters = slices.DeleteFunc(s.fosters, func(id LifeID) bool {
			l := f.find(id)
			if l == nil || l.state != Ready {
				return true // its listeners are closed
			}
			if l.late || !f.needsFoster(s) {
				f.do(Foster{l.id, l.slot, s.n, false})
				return true
			}
			return false
		})
		if !f.needsFoster(s) {
			continue
		}
		for len(s.fosters) < fosters {
			l := f.leastLoaded(s)
			if l == nil {
				break
			}
			s.fosters = append(s.fosters, l.id)
			f.do(Foster{l.id, l.slot, s.n, true})
		}
	}
}

func (f *Fleet) needsFoster(s *slot) bool {
	owner := f.servingIn(s.n)
	switch {
	case owner == nil && f.policy.Sticky && s.n < f.want.Workers:
		// Its clients are to find their own again, unless that takes too long.
		return !s.vacated.IsZero() && f.now.Sub(s.vacated) >= steadyAfter
	case owner == nil:
		return !s.vacated.IsZero() // else its first life is still coming
	case owner.late:
		return true
	}
	return len(s.fosters) > 0 && f.now.Sub(owner.steady) < steadyAfter
}

// leastLoaded is the sibling with the fewest connections that may accept on a
// slot's sockets, or nil.
func (f *Fleet) leastLoaded(s *slot) *life {
	var least *life
	for _, l := range f.lives {
		if l.state != Ready || l.late || l.foreign || l.slot == s.n || slices.Contains(s.fosters, l.id) {
			continue
		}
		if least == nil || l.connections < least.connections {
			least = l
		}
	}
	return least
}

// steer says which slots' sockets get new connections: those that are served,
// or will be without a wait. When that is none, all that are wanted: their
// queues wait.
func (f *Fleet) steer() {
	var slots []int
	for n := range f.want.Workers {
		owner := f.servingIn(n)
		switch s := f.slot(n); {
		case owner != nil && owner.late:
			s.off = true
		case owner != nil:
			s.off = false
		case !s.off && f.vacant(n) && s.notBefore.After(f.now):
			s.off = true
		}
		if !f.slots[n].off {
			slots = append(slots, n)
		}
	}
	for _, s := range f.slots[f.want.Workers:] {
		s.off = true
	}
	if len(slots) == 0 {
		for n := range f.want.Workers {
			slots = append(slots, n)
		}
	}
	if !slices.Equal(slots, f.steered) {
		f.steered = slots
		f.do(Steer{slices.Clone(slots)})
	}
}
