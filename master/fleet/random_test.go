package fleet

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var (
	histories = flag.Int("histories", 10_000, "how many random histories to play")
	oneSeed   = flag.Uint64("history", 0, "play only the history of this seed")
)

// TestRandomHistories plays histories in which a simulated world answers the
// fleet's actions as badly as it likes, and then calms down; invariants are
// checked after each step.
func TestRandomHistories(t *testing.T) {
	if *oneSeed != 0 {
		play(t, *oneSeed)
		return
	}
	for seed := range uint64(*histories) {
		play(t, seed+1)
		if t.Failed() {
			t.Fatalf("replay with: go test ./master/fleet -run RandomHistories -history %d", seed+1)
		}
	}
}

// world is what the fleet acts upon: processes with a will of their own.
type world struct {
	t      *testing.T
	seed   uint64
	random *rand.Rand
	fleet  *Fleet
	now    time.Time
	calm   bool // every start succeeds from now on, nothing dies unasked
	mixed  bool // every second life is a foreign one

	lives       map[LifeID]*simulated
	given       LifeID
	newest      int          // generation asked for last
	answered    int          // newest generation that got its verdict
	failed      map[int]bool // generations whose verdict was no
	restarts    map[int]int  // unanswered wishes by slot
	scaling     bool         // a wish for a number of workers is unanswered
	everReady   bool
	muted       bool
	released    bool
	finished    *Finish
	stopping    bool
	expectDeath map[LifeID]bool         // ends that must be told as planned
	fosters     map[int]map[LifeID]bool // who was told to accept for a slot
	steered     []int
	lastBeats   time.Time
	log         []string
}

// simulated is a process.
type simulated struct {
	id         LifeID
	slot       int
	generation int
	state      State // as the world has it: Starting, Ready, Draining, Killed
	beat       time.Time
	stuck      bool // it beats no more
	foreign    bool
}

func play(t *testing.T, seed uint64) {
	w := &world{
		t: t, seed: seed, random: rand.New(rand.NewPCG(seed, seed)), now: time.Unix(1_000_000, 0),
		lives: map[LifeID]*simulated{}, failed: map[int]bool{}, restarts: map[int]int{}, expectDeath: map[LifeID]bool{}, fosters: map[int]map[LifeID]bool{}, newest: 1, answered: 1,
	}
	w.fleet = New(Policy{}, Want{Workers: 1 + w.random.IntN(4), Generation: 1})
	for n := range w.fleet.want.Workers {
		w.steered = append(w.steered, n)
	}
	w.mixed = w.random.IntN(3) == 0
	w.step(Tick{})
	for range 20 + w.random.IntN(40) {
		if w.finished != nil || t.Failed() {
			return
		}
		w.misbehave()
	}
	w.calmDown()
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Errorf("seed %d: "+format+"\n%s", append(append([]any{w.seed}, args...), w.history())...)
}

func (w *world) history() string {
	text := ""
	for _, l := range w.log[max(0, len(w.log)-60):] {
		text += l + "\n"
	}
	return text
}

// misbehave does one random thing.
func (w *world) misbehave() {
	life := w.any()
	switch n := w.random.IntN(100); {
	case n < 25:
		w.wait(time.Duration(w.random.IntN(1500)) * time.Millisecond)
	case n < 27:
		w.wait(time.Duration(w.random.IntN(60)) * time.Second)
	case n < 50 && life != nil && life.state == Starting:
		life.state = Ready
		if w.random.IntN(3) == 0 {
			life.foreign = false
			w.step(Said{life.id, SaysOnline})
		}
		w.everReady = true
		w.step(Said{life.id, SaysReady})
	case n < 62 && life != nil:
		w.exit(life, Exit{Signal: 9})
	case n < 66 && life != nil:
		w.exit(life, Exit{})
	case n < 70 && life != nil && life.state <= Ready:
		life.state = Draining
		w.expectDeath[life.id] = true
		w.step(Said{life.id, SaysLeaving})
	case n < 76 && life != nil && (life.state == Draining || life.state == Killed):
		w.exit(life, Exit{Code: w.random.IntN(2)})
	case n < 80: // late news of the dead, and of those who never were
		dead := LifeID(w.random.IntN(int(w.given) + 2))
		if w.lives[dead] != nil {
			return
		}
		before := w.fleet.Snapshot()
		for _, ev := range []Event{Said{dead, SaysReady}, Exited{Life: dead, Exit: Exit{Code: 1}}, Said{dead, SaysLeaving}, Started{Life: dead, PID: 7}} {
			if acts := w.step(ev); len(acts) > 0 {
				w.fail("late news %+v led to %v", ev, acts)
			}
		}
		if after := w.fleet.Snapshot(); fmt.Sprint(before) != fmt.Sprint(after) {
			w.fail("late news of life %d changed %+v to %+v", dead, before, after)
		}
	case n < 88:
		w.newest++
		w.step(Reload{w.newest})
	case n < 93:
		slot := w.random.IntN(5)
		w.restarts[slot]++
		w.step(Restart{slot})
	case n < 95:
		w.scaling = true
		w.step(Scale{1 + w.random.IntN(4)})
	case n == 95 && life != nil:
		life.stuck = !life.stuck
	case n == 96: // heartbeats for a while, or the master stands still for as long
		for range w.random.IntN(150) {
			w.wait(100 * time.Millisecond)
			w.beats()
		}
	case n == 97 && w.random.IntN(3) == 0:
		w.stopping = true
		w.step(Stop{})
	case n == 98 && w.random.IntN(6) == 0:
		w.stopping = true
		w.step(StopNow{})
	}
}

// calmDown lets the world behave, and expects all wishes to come true.
func (w *world) calmDown() {
	w.calm = true
	for round := range 400 {
		if w.finished != nil {
			break
		}
		if round < 20 { // those that hang come to, and are seen to
			for _, l := range w.all() {
				l.stuck = false
			}
			w.beats()
		}
		for _, l := range w.all() {
			switch l.state {
			case Starting:
				l.state = Ready
				w.everReady = true
				w.step(Said{l.id, SaysReady})
			case Draining:
				if w.stopping {
					w.step(Said{l.id, SaysClosed})
				}
				w.exit(l, Exit{})
			case Killed:
				w.exit(l, Exit{Signal: 9})
			}
			if w.t.Failed() {
				return
			}
		}
		d := w.fleet.Deadline()
		if d.IsZero() {
			break
		}
		w.wait(d.Sub(w.now))
	}
	if w.finished == nil && w.stopping {
		w.fail("the stop never ended: %+v", w.fleet.Snapshot())
	}
	if w.finished == nil {
		s := w.fleet.Snapshot()
		if len(s.Lives) != s.Want.Workers {
			w.fail("%d lives for %d workers: %+v", len(s.Lives), s.Want.Workers, s.Lives)
		}
		for _, l := range s.Lives {
			if len(w.fosters[l.Slot]) != 0 {
				w.fail("after all, slot %d is fostered by %v", l.Slot, w.fosters[l.Slot])
			}
			if l.State != Ready || l.Late || l.Generation != s.Want.Generation {
				w.fail("after all, life %d of slot %d is %s with generation %d, want ready with %d", l.ID, l.Slot, l.State, l.Generation, s.Want.Generation)
			}
		}
	}
	if w.finished == nil && len(w.steered) != w.fleet.want.Workers {
		w.fail("after all, new connections go to %v only", w.steered)
	}
	if w.answered < w.newest && !(w.finished != nil && w.finished.Code == 3) {
		w.fail("generation %d was asked for, the last verdict is on %d", w.newest, w.answered)
	}
	if w.scaling && !(w.finished != nil && w.finished.Code == 3) {
		w.fail("the wish for %d workers is unanswered", w.fleet.want.Workers)
	}
	for slot, n := range w.restarts {
		if n > 0 && !(w.finished != nil && w.finished.Code == 3) {
			w.fail("%d wishes to restart slot %d are unanswered", n, slot)
		}
	}
}

// beats reports every heartbeat.
func (w *world) beats() {
	var list []Beat
	for _, l := range w.all() {
		if !l.stuck || l.foreign || l.beat.IsZero() {
			l.beat = w.now
		}
		list = append(list, Beat{Life: l.id, Age: w.now.Sub(l.beat), Connections: w.random.IntN(100)})
	}
	w.step(Beats{List: list})
	w.lastBeats = w.now
}

// all are the living, oldest first.
func (w *world) all() []*simulated {
	var all []*simulated
	for id := LifeID(1); id <= w.given; id++ {
		if l := w.lives[id]; l != nil {
			all = append(all, l)
		}
	}
	return all
}

func (w *world) any() *simulated {
	all := w.all()
	if len(all) == 0 {
		return nil
	}
	return all[w.random.IntN(len(all))]
}

// wait lets time pass, stopping at each deadline.
func (w *world) wait(d time.Duration) {
	until := w.now.Add(d)
	for steps := 0; w.finished == nil; steps++ {
		next := w.fleet.Deadline()
		if next.IsZero() || next.After(until) {
			break
		}
		if steps > 3000 {
			w.fail("%d deadlines within %v", steps, d)
			return
		}
		w.now = next
		w.step(Tick{})
	}
	w.now = until
}

func (w *world) exit(l *simulated, e Exit) {
	delete(w.lives, l.id)
	w.step(Exited{Life: l.id, Exit: e})
}

// step steps the fleet, plays the world's part of the actions, and checks the
// invariants.
func (w *world) step(ev Event) []Action {
	if w.finished != nil {
		return nil
	}
	w.log = append(w.log, fmt.Sprintf("%8.3f  %T%+v", w.now.Sub(time.Unix(1_000_000, 0)).Seconds(), ev, ev))
	acts := w.fleet.Step(w.now, ev)
	var answers []Event
	for _, act := range acts {
		w.log = append(w.log, fmt.Sprintf("             → %T%+v", act, act))
		if w.finished != nil {
			w.fail("%T after Finish", act)
		}
		switch a := act.(type) {
		case Start:
			if a.Life != w.given+1 {
				w.fail("life %d was started after life %d", a.Life, w.given)
			}
			w.given = a.Life
			if w.failed[a.Generation] {
				w.fail("generation %d was started after its verdict", a.Generation)
			}
			if w.stopping {
				w.fail("a start while stopping")
			}
			if !w.calm && w.random.IntN(8) == 0 {
				answers = append(answers, Exited{Life: a.Life, Exit: Exit{Err: "fork: resource temporarily unavailable"}})
				break
			}
			l := &simulated{id: a.Life, slot: a.Slot, generation: a.Generation, state: Starting, foreign: w.mixed && w.random.IntN(2) == 0}
			w.lives[a.Life] = l
			answers = append(answers, Started{a.Life, 1000 + int(a.Life), l.foreign, l.foreign && w.random.IntN(2) == 0})
		case BecameReady:
			l := w.lives[a.Life]
			if a.Taken && !l.foreign {
				w.fail("%+v, which is not foreign", a)
			}
			l.state = Ready
			w.everReady = true
		case Retire:
			l := w.lives[a.Life]
			if l == nil {
				w.fail("a dead life is retired: %+v", a)
				break
			}
			if a.Final != w.stopping {
				w.fail("%+v while stopping is %v", a, w.stopping)
			}
			if a.Final && !w.muted {
				w.fail("retired for good before Mute: %+v", a)
			}
			if l.state == Ready && !a.Final && l.slot < w.fleet.want.Workers && !w.hasReadySuccessor(l) {
				w.fail("life %d was retired before its successor was ready", l.id)
			}
			l.state = Draining
			w.expectDeath[l.id] = true
		case Kill:
			l := w.lives[a.Life]
			if l == nil {
				w.fail("a dead life is killed: %+v", a)
				break
			}
			if a.Dump && l.state != Draining && (l.state != Ready || w.now.Sub(l.beat) <= 10*time.Second) {
				w.fail("%+v, which is %s and has beaten %v ago", a, l.state, w.now.Sub(l.beat))
			}
			l.state = Killed
		case Foster:
			l := w.lives[a.Life]
			if l == nil || l.state != Ready || l.slot == a.Of || l.slot != a.Slot || l.foreign {
				w.fail("%+v, by %+v", a, l)
			}
			if w.fosters[a.Of] == nil {
				w.fosters[a.Of] = map[LifeID]bool{}
			}
			if w.fosters[a.Of][a.Life] == a.On {
				w.fail("%+v is told twice", a)
			}
			if w.fosters[a.Of][a.Life] = a.On; !a.On {
				delete(w.fosters[a.Of], a.Life)
			}
		case Steer:
			w.steered = a.Slots
			if len(a.Slots) == 0 || !slices.IsSorted(a.Slots) {
				w.fail("%+v", a)
			}
		case Mute:
			w.muted = true
		case Release:
			w.released = true
			for _, l := range w.all() {
				if l.state == Draining && !w.saidClosed(l) {
					w.fail("the sockets were released while life %d accepts", l.id)
				}
			}
		case Verdict:
			if a.Generation <= w.answered {
				w.fail("a second verdict on generation %d", a.Generation)
			}
			w.answered = a.Generation
			if a.Err != "" {
				w.failed[a.Generation] = true
			}
		case Replaced:
			if w.restarts[a.Slot] == 0 {
				w.fail("nobody asked for %+v", a)
			}
			w.restarts[a.Slot] = 0
		case Scaled:
			if !w.scaling {
				w.fail("nobody asked for %+v", a)
			}
			w.scaling = false
		case Death:
			if w.expectDeath[a.Life] && !a.Planned {
				w.fail("a planned exit is told as a death: %+v", a)
			}
		case Finish:
			w.finished = &a
			if a.Code == 3 && w.everReady {
				w.fail("it gave up although a life was ready once")
			}
			if len(w.lives) > 0 {
				w.fail("it finished before %d lives had", len(w.lives))
			}
		}
	}
	for _, answer := range answers {
		w.step(answer)
	}
	w.check()
	return acts
}

func (w *world) saidClosed(l *simulated) bool {
	f := w.fleet.find(l.id)
	return f == nil || f.closed
}

func (w *world) hasReadySuccessor(old *simulated) bool {
	for _, l := range w.lives {
		if l.slot == old.slot && l.id > old.id && l.state == Ready {
			return true
		}
	}
	return false
}

// check holds what must be true after each step.
func (w *world) check() {
	if w.finished != nil || w.t.Failed() {
		return
	}
	d := w.fleet.Deadline()
	if !d.IsZero() && !d.After(w.now) {
		w.fail("the deadline is %v ago: the loop would spin", w.now.Sub(d))
	}
	s := w.fleet.Snapshot()
	if s.State == "stopping" {
		return
	}
	serving := 0
	for _, l := range s.Lives {
		if l.State <= Ready && l.Slot < s.Want.Workers {
			serving++
		}
	}
	if serving > s.Want.Workers+1 {
		w.fail("%d lives serve or come for %d workers", serving, s.Want.Workers)
	}
	for n, ids := range w.fosters {
		for id := range ids {
			if l := w.lives[id]; l == nil || l.state != Ready {
				delete(ids, id) // it has closed its listeners
			}
		}
		if len(ids) > fosters {
			w.fail("slot %d has %d fosters", n, len(ids))
		}
	}
	for n := range w.fleet.slots {
		served, sibling := false, false
		for _, l := range s.Lives {
			if l.State == Ready && !l.Late {
				served = served || l.Slot == n
				sibling = sibling || l.Slot != n && !w.lives[l.ID].foreign
			}
		}
		if !served && sibling && len(w.fosters[n]) == 0 && !w.fleet.slots[n].vacated.IsZero() {
			w.fail("nobody accepts on the sockets of slot %d", n)
		}
	}
	if len(w.steered) == 0 || w.steered[len(w.steered)-1] >= s.Want.Workers {
		w.fail("new connections go to %v of %d slots", w.steered, s.Want.Workers)
	}
	for n := range s.Want.Workers {
		has := slices.ContainsFunc(s.Lives, func(l Life) bool { return l.Slot == n && l.State <= Ready })
		planned := false
		for _, slot := range s.Slots {
			planned = planned || slot.Slot == n && slot.NextStart.After(w.now)
		}
		if !has && (!planned || d.IsZero()) {
			w.fail("slot %d has no plan", n)
		}
	}
}
