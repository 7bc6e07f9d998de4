// Package fleet decides which workers are started, retired and killed, and
// when. It is pure: events and the present instant go in, actions come out, and
// the only thing that it keeps is what it knows. testdata holds its manual: one
// script for each thing that can happen.
//
// The master's loop owns a Fleet: it calls Step with each event, carries out
// the actions, and calls Step with a Tick at Deadline.
package fleet

import (
	"fmt"
	"syscall"
	"time"
)

// LifeID names a life, from 1; no number is ever used again.
type LifeID uint64

// State is how far a life has come. It may skip forward, never back, and exits
// from any state.
type State int

const (
	Starting  State = iota // its process runs; leaves by its own words, its exit, or Killed after ReadyTimeout
	Online                 // it has said hello; as Starting
	Listening              // it has its sockets; as Starting
	Ready                  // it serves; leaves by Draining or its exit
	Draining               // it accepts nothing new and finishes what it has; leaves by its exit, or Killed after Drain
	Killed                 // it was sent SIGKILL, which is repeated each second; leaves by its exit
	Gone                   // it has exited; the end
)

var stateNames = [...]string{"starting", "online", "listening", "ready", "draining", "killed", "exited"}

func (s State) String() string { return stateNames[s] }

// coming reports whether the life may yet become ready.
func (s State) coming() bool { return s < Ready }

// Policy bounds what the fleet waits for. A zero field takes its default.
type Policy struct {
	MinUptime    time.Duration // a life that dies before it was ready for so long has died early; 1 s
	ReadyTimeout time.Duration // from start to ready; 30 s
	Drain        time.Duration // from the word to leave to the exit; 30 s
	HangTimeout  time.Duration // without a heartbeat a life that serves is killed; 10 s
	// Limits at which a life gets a successor and then drains; 0 is none.
	MaxMemory      int64 // bytes
	MaxRequests    int64
	MaxAge         time.Duration
	RequestTimeout time.Duration // of its oldest request in flight

	Sticky bool // clients belong to a slot: it is fostered only when it is vacant for a second, or late
}

// WithDefaults returns p with every zero replaced by its default.
func (p Policy) WithDefaults() Policy {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&p.MinUptime, time.Second}, {&p.ReadyTimeout, 30 * time.Second},
		{&p.Drain, 30 * time.Second}, {&p.HangTimeout, 10 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return p
}

const (
	backoffFirst = 25 * time.Millisecond // answer to the second early death within earlyWindow; backoffTimes as long after each more
	backoffTimes = 4
	backoffMost  = 5 * time.Second
	earlyWindow  = time.Minute
	herdFloor    = 500 * time.Millisecond // while nobody serves or comes, so long after a start there is another
	drainGrace   = time.Second            // what a life gets beyond Drain to exit by itself
	unreadyGrace = 2 * time.Second        // what a life gets in Drain's place that was never ready, and so has nothing to finish
	killAgain    = time.Second
	giveUpAfter  = 3 // early deaths of every slot, none ever ready
	keptExits    = 32
)

// Want is all that is wished for.
type Want struct {
	Workers    int
	Generation int      // what new lives run; during a reload still the old one
	Replace    []LifeID // lives that shall have a successor of the same generation
	Stop       bool
}

// Event is something that has happened. Events about lives that are gone
// change nothing.
type Event interface{ event() }

type (
	// Tick says that time has passed.
	Tick struct{}
	// Started answers a Start: the process runs. Exited with Err is the other
	// answer; one of them comes before any other news of the life. A Foreign one
	// does not know of us: it cannot foster, and leaves by TERM. One that does not
	// tell when it is ready is so once it has lived for MinUptime. What says
	// SaysOnline is foreign no more.
	Started struct {
		Life       LifeID
		PID        int
		Foreign    bool
		TellsReady bool
	}
	// Said is a word of the life's own.
	Said struct {
		Life LifeID
		Word Word
	}
	// Exited is the end of a life. Of one that tells when it leaves exit code 0 means
	// nothing: it was told to leave, or said that it would, or it has died.
	Exited struct {
		Life         LifeID
		Exit         Exit
		TellsLeaving bool
	}
	// Reload wishes for a generation that was never used before, with a number
	// above all others.
	Reload struct{ Generation int }
	// Restart wishes for a new life in a slot.
	Restart struct{ Slot int }
	// Scale wishes for a number of workers, at least 1.
	Scale struct{ Workers int }
	// Beats is what the scoreboards say, ten times a second. Slept is for how long
	// the host did since the last, while its clock stood still.
	Beats struct {
		List  []Beat
		Slept time.Duration
	}
	// PolicyChanged brings other bounds; deadlines that run are not moved.
	PolicyChanged struct{ Policy Policy }
	// Stop wishes for the end, with everything answered first.
	Stop struct{}
	// StopNow wishes for the end at once.
	StopNow struct{}
)

func (Tick) event()          {}
func (Started) event()       {}
func (Said) event()          {}
func (Exited) event()        {}
func (Reload) event()        {}
func (Restart) event()       {}
func (Scale) event()         {}
func (Beats) event()         {}
func (PolicyChanged) event() {}
func (Stop) event()          {}
func (StopNow) event()       {}

// Word is what a life says.
type Word int

const (
	SaysOnline    Word = iota // hello
	SaysListening             // it has its sockets
	SaysReady                 // it serves
	SaysLeaving               // it drains though we did not ask
	SaysClosed                // in a full stop: it accepts nothing more
	SaysComing                // a foreign one: it will say when it serves
)

// Exit is how a process ended.
type Exit struct {
	Code       int
	Signal     int // 0, or what killed it
	CoreDumped bool
	Err        string // not "": it could not be started
}

func (e Exit) String() string {
	switch {
	case e.Err != "":
		return "could not start: " + e.Err
	case e.Signal != 0 && e.CoreDumped:
		return "signal: " + syscall.Signal(e.Signal).String() + " (core dumped)"
	case e.Signal != 0:
		return "signal: " + syscall.Signal(e.Signal).String()
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// Action is something to be done or told. An action is begun, never awaited.
type Action interface{ action() }

type (
	// Start starts a life; answered by Started, or by Exited with Err.
	Start struct {
		Life       LifeID
		Slot       int
		Generation int
	}
	// Retire tells a life to drain; answered by Exited. Final says that the
	// whole app stops: the life empties every socket's queue, and says SaysClosed
	// when it has.
	Retire struct {
		Life  LifeID
		Slot  int
		Final bool
	}
	// Kill sends SIGKILL to a life's process group; answered by Exited. With Dump
	// it asks the life to print its goroutines and exit first (SIGQUIT); one that
	// does not is killed a second later.
	Kill struct {
		Life LifeID
		Slot int
		Why  string
		Dump bool
	}
	// Foster has a life accept on the sockets of another slot, or no more.
	Foster struct {
		Life LifeID
		Slot int // the life's own
		Of   int // whose sockets
		On   bool
	}
	// Steer has new connections go to these slots' sockets only, in ascending
	// order. A fleet begins with all that are wanted.
	Steer struct{ Slots []int }
	// Mute makes the sockets refuse new connections, for good.
	Mute struct{}
	// Release closes the sockets: no life accepts any more.
	Release struct{}
	// Finish is the last action: the fleet is done.
	Finish struct {
		Code int // 0 after a stop, 3 when no life was ever ready
		Why  string
	}

	// BecameReady tells that a life serves. Taken says that it did not say so, but
	// has lived for long enough.
	BecameReady struct {
		Life                  LifeID
		Slot, PID, Generation int
		Took                  time.Duration
		Taken                 bool
	}
	// Death tells that a life is gone.
	Death struct {
		Life                  LifeID
		Slot, PID, Generation int
		Exit                  Exit
		Why                   string        // it was killed for; empty: it was not, or for no fault of its
		Planned               bool          // it was told to leave, said that it would, or exited with code 0 where that counts
		Early                 bool          // never ready, or not for MinUptime
		Uptime                time.Duration // since its start
		Next                  time.Duration // until its successor is started; negative: no need of one
	}
	// Recycle tells that a life has reached a limit and is to be replaced.
	Recycle struct {
		Life LifeID
		Slot int
		Why  string
	}
	// Late tells that a life that serves misses its heartbeat; Recovered that it
	// beats again.
	Late struct {
		Life LifeID
		Slot int
		Age  time.Duration
	}
	Recovered struct {
		Life LifeID
		Slot int
	}
	// Suspect tells that the master itself, or the host, stood still for so long:
	// every heartbeat counts anew.
	Suspect struct{ Gap time.Duration }
	// RolledBack tells that a reload goes back.
	RolledBack struct {
		From, To int
		Why      string
	}
	// Verdict tells how a reload ended, and answers every wish for this
	// generation or an older one. Err is "" when the generation serves.
	Verdict struct {
		Generation int
		Err        string
		Life       LifeID // that failed; 0: none
	}
	// Replaced tells how all wishes to restart a slot ended.
	Replaced struct {
		Slot int
		Err  string
	}
	// Scaled answers every wish for a number of workers up to now. With Err the
	// wish stands, and the slots that failed are started again by their backoff.
	Scaled struct {
		Workers int
		Err     string
	}
	// Objection tells of a word that a life had no right to.
	Objection struct {
		Life LifeID
		Slot int
		Why  string
	}
)

func (Start) action()       {}
func (Retire) action()      {}
func (Kill) action()        {}
func (Mute) action()        {}
func (Release) action()     {}
func (Finish) action()      {}
func (BecameReady) action() {}
func (Death) action()       {}
func (RolledBack) action()  {}
func (Foster) action()      {}
func (Steer) action()       {}
func (Recycle) action()     {}
func (Late) action()        {}
func (Recovered) action()   {}
func (Suspect) action()     {}
func (Verdict) action()     {}
func (Replaced) action()    {}
func (Scaled) action()      {}
func (Objection) action()   {}

// Fleet is what is known and wished. It is owned by one goroutine.
type Fleet struct {
	policy Policy
	want   Want
	phase  phase
	roll   *roll // the reload under way
	queued int   // newest generation wished for during a roll; 0: none

	slots    []*slot
	lives    []*life // living ones, oldest first
	exits    []PastExit
	restarts []restart
	scaling  bool   // somebody waits for the number of workers that is wished for
	given    LifeID // newest ID

	steered   []int     // slots whose sockets get new connections
	lastBeats time.Time // when heartbeats were last read; at first, when the fleet began

	firstStart, lastStart time.Time
	everReady             bool

	now time.Time // of the step under way
	out []Action
}

// phase is what the fleet as a whole is up to.
type phase int

const (
	serving  phase = iota // keeps workers serving; leaves by Stop, StopNow, or giving up
	stopping              // everybody empties the sockets' queues; leaves when nobody accepts any more
	released              // the sockets are closed, everybody finishes; leaves when all are gone
	givingUp              // no life was ever ready: everybody is killed; leaves when all are gone
	finished              // the end
)

// roll is a reload: slots below next run the new generation, next is being
// moved, the others run the old one.
type roll struct {
	to   int
	next int
}

// restart is a wish for a new life in a slot: one with an ID above after.
type restart struct {
	slot  int
	after LifeID
}

type slot struct {
	n         int
	early     []time.Time // early ends within earlyWindow, oldest first
	never     int         // early ends while no life was ever ready
	notBefore time.Time   // when the next life may start
	restarts  int
	vacated   time.Time // when its last life stopped serving, or ended; zero while it is served, or was never filled
	fosters   []LifeID  // who accepts on its sockets
	off       bool      // new connections go elsewhere
}

type life struct {
	id         LifeID
	slot       int
	generation int
	pid        int
	state      State
	started    time.Time
	readyAt    time.Time
	left       time.Time // when it was told, or said, that it leaves; zero: neither
	deadline   time.Time // when its state is overdue; zero: never
	closed     bool      // it has said SaysClosed
	why        string    // it is killed for; empty: it is not, or for no fault of its
	foreign    bool      // it cannot foster
	takeReady  time.Time // when it is taken for ready; zero: it says so itself

	connections        int
	beat               time.Time // its last heartbeat
	lateFrom, hungFrom time.Time // heartbeats missed before do not count
	late               bool      // it misses its heartbeat
	steady             time.Time // since when it does not
}

// New makes a fleet with no life. The first Step, with a Tick, starts them.
func New(p Policy, w Want) *Fleet {
	w.Workers = max(1, w.Workers)
	f := &Fleet{policy: p.WithDefaults(), want: w}
	for n := range w.Workers {
		f.steered = append(f.steered, n) // as the kernel has it without us
	}
	return f
}

// Snapshot is what a reader may know of a fleet, all of it copied.
type Snapshot struct {
	State      string // starting, running, reloading, stopping, stopped
	Want       Want
	Generation int
	Lives      []Life
	Slots      []Slot
	Exits      []PastExit // the last 32, newest last
}

// Life is a living life.
type Life struct {
	ID                    LifeID
	Slot, PID, Generation int
	State                 State
	Started, ReadyAt      time.Time
	Late                  bool      // it misses its heartbeat
	Until                 time.Time // it is killed unless it has left its state; zero: it may stay
}

// Slot is a place for a worker.
type Slot struct {
	Slot        int
	Restarts    int       // unplanned deaths
	NextStart   time.Time // while it waits to be filled; zero otherwise
	EarlyDeaths int       // within the last minute
	Fosters     []int     // slots whose lives accept on its sockets
}

// PastExit is the end of a life.
type PastExit struct {
	Slot            int
	Life            LifeID
	PID, Generation int
	Exit            Exit
	Planned         bool
	Why             string // it was killed for; empty: it was not, or for no fault of its
	At              time.Time
}

// Snapshot copies what the fleet knows.
func (f *Fleet) Snapshot() Snapshot {
	s := Snapshot{Want: f.want, Generation: f.want.Generation, Exits: append([]PastExit(nil), f.exits...)}
	s.Want.Replace = nil
	for _, r := range f.restarts {
		if l := f.servingIn(r.slot); l != nil && l.id <= r.after {
			s.Want.Replace = append(s.Want.Replace, l.id)
		}
	}
	switch {
	case f.phase == finished:
		s.State = "stopped"
	case f.phase != serving:
		s.State = "stopping"
	case f.roll != nil:
		s.State = "reloading"
	case !f.everReady:
		s.State = "starting"
	default:
		s.State = "running"
	}
	for _, l := range f.lives {
		s.Lives = append(s.Lives, Life{l.id, l.slot, l.pid, l.generation, l.state, l.started, l.readyAt, l.late, l.deadline})
	}
	for _, sl := range f.slots {
		if sl.n >= f.want.Workers {
			continue
		}
		v := Slot{Slot: sl.n, Restarts: sl.restarts, EarlyDeaths: len(sl.early)}
		if f.phase == serving && f.vacant(sl.n) {
			v.NextStart = f.nextStart(sl)
		}
		for _, id := range sl.fosters {
			if l := f.find(id); l != nil {
				v.Fosters = append(v.Fosters, l.slot)
			}
		}
		s.Slots = append(s.Slots, v)
	}
	return s
}
