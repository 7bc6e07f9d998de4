// Package node is a Node.js cluster's primary, for workers that are unmodified
// Node programs: what they ask for, what they are answered, and which worker gets
// which connection. It is pure: events go in, actions come out. Who is started
// and who is to leave is decided elsewhere.
//
// The master's loop owns a Primary: it calls Step with each event and carries out
// the actions, in order.
package node

import (
	"encoding/json"
	"time"

	wire "drover/ipc/node"
)

// WorkerID names a worker for ever: its life's number.
type WorkerID uint64

// Policy is what the operator has a say in.
type Policy struct {
	// RoundRobin has the primary accept, and deal the connections out. False gives
	// each worker a socket of its own, so that no traffic passes the primary. Unix
	// sockets, which cannot be bound twice, are dealt out in either case.
	RoundRobin bool
	// WaitReady takes a worker for ready when it says process.send('ready'),
	// instead of when it listens.
	WaitReady bool
	// ReadyAfter takes a worker for ready that has run for so long and asked for no
	// socket. 0 is never.
	ReadyAfter time.Duration
	// Listen is how many addresses the operator gave: the first servers of a
	// worker get those, whatever they ask for.
	Listen int
}

// Event is something that has happened.
type Event interface{ event() }

type (
	// Joined says that a worker's process was started, in a slot.
	Joined struct {
		Worker     WorkerID
		Slot       int
		Generation int
	}
	// Heard is a message of a worker's, with the descriptor that came with it, or
	// -1. The descriptor is the primary's from here on.
	Heard struct {
		Worker  WorkerID
		Message wire.Message
		FD      int
	}
	// Opened answers an Open: the socket, which stays the opener's and is kept
	// open, and its address; or an error number, positive.
	Opened struct {
		Server, Seat int
		FD           int
		Host         string // without brackets; empty of a unix socket
		Port         int
		Errno        int
	}
	// Connected answers an Accept, or brings a connection that another worker left
	// waiting: Rescued. The descriptor is the primary's from here on.
	Connected struct {
		Server  int
		FD      int
		Rescued bool
		From    WorkerID // of a rescued one: who left it
	}
	// Dismiss has a worker leave.
	Dismiss struct{ Worker WorkerID }
	// Retired says that a worker is about to leave: it shall get no connection any
	// more but those it has.
	Retired struct{ Worker WorkerID }
	// Tell has a worker told a user's message, a JSON value.
	Tell struct {
		Worker WorkerID
		Value  json.RawMessage
	}
	// Renew has session tickets of tls servers be made with new keys, of a secret that
	// is to be random, and forgotten then.
	Renew struct{ Secret []byte }
	// Gone says that a worker's channel has ended.
	Gone struct{ Worker WorkerID }
	// Tick says that time has passed.
	Tick struct{}
)

func (Joined) event()    {}
func (Heard) event()     {}
func (Opened) event()    {}
func (Connected) event() {}
func (Dismiss) event()   {}
func (Retired) event()   {}
func (Tell) event()      {}
func (Renew) event()     {}
func (Gone) event()      {}
func (Tick) event()      {}

// Action is something to be done.
type Action interface{ action() }

type (
	// Send writes a line to a worker, with a descriptor unless that is -1.
	Send struct {
		Worker WorkerID
		Line   []byte
		FD     int
	}
	// Open makes a server's socket for a seat; answered by Opened. Given is the
	// operator's address that takes the place of Want's, or -1. Only a TCP server
	// that is not dealt out has other seats than 0.
	Open struct {
		Server, Seat int
		Want         wire.Server
		Given        int
		Readable     bool // by everybody: of a path
		Writable     bool
		Reuse        bool // of UDP: SO_REUSEADDR
	}
	// Accept takes N more connections off the queue of a server's socket as they
	// come; each is answered by Connected.
	Accept struct{ Server, N int }
	// CloseFD closes a descriptor that was the primary's.
	CloseFD struct{ FD int }
	// Release closes a server's sockets: no worker wants it any more.
	Release struct{ Server int }
	// Says is a worker's word about itself.
	Says struct {
		Worker WorkerID
		Word   Word
	}
	// Told is a user's message to the primary.
	Told struct {
		Worker WorkerID
		Value  json.RawMessage
	}
	// Serves says that a worker has the socket of a server, or has it no more.
	Serves struct {
		Worker   WorkerID
		Server   int
		Asked    wire.Server
		Address  string // where it is
		On       bool
		Remapped bool // the operator's address took the place of the one it asked for
	}
	// Refused says that a worker did not get the socket that it asked for.
	Refused struct {
		Worker WorkerID
		Asked  wire.Server
		Errno  int
		Why    string // empty: opening it failed
	}
	// Objection is what is wrong with a worker's words.
	Objection struct {
		Worker WorkerID
		Why    string
	}
	// Quiet says that a worker has run for a while and asked for no socket.
	Quiet struct{ Worker WorkerID }
)

func (Send) action()      {}
func (Open) action()      {}
func (Accept) action()    {}
func (CloseFD) action()   {}
func (Release) action()   {}
func (Says) action()      {}
func (Told) action()      {}
func (Serves) action()    {}
func (Refused) action()   {}
func (Objection) action() {}
func (Quiet) action()     {}

// Word is what a worker says of itself.
type Word int

const (
	Online    Word = iota // it runs, and has not yet served
	Listening             // a server of it listens
	Ready                 // it serves
	Leaving               // it leaves, though nobody asked
)

// Error numbers that the primary itself answers with (asm-generic/errno.h).
const (
	eINVAL     = 22
	eADDRINUSE = 98
)

const (
	quietAfter   = 5 * time.Second  // online without a wish for a socket
	releaseAfter = 10 * time.Second // wanted by nobody, while somebody is there who might
	resendMost   = 3                // as Node does, of what did not arrive
)

// Primary is the primary of one app's Node workers. It is owned by one
// goroutine.
type Primary struct {
	policy  Policy
	workers map[WorkerID]*worker
	servers []*server   // by number; released ones are nil
	seats   map[int]int // slot: the seat that it had last

	now time.Time // of the step under way
	out []Action
}

// New makes a primary without workers.
func New(p Policy) *Primary {
	return &Primary{policy: p, workers: map[WorkerID]*worker{}, seats: map[int]int{}}
}

// Step takes what has happened at the instant now, and returns what is to be
// done about it, in order. Events about workers that are gone change nothing,
// but that their descriptors are closed.
func (p *Primary) Step(now time.Time, ev Event) []Action {
	p.now = now
	switch ev := ev.(type) {
	case Joined:
		p.join(ev)
	case Heard:
		if w := p.workers[ev.Worker]; w != nil {
			p.heard(w, ev.Message, ev.FD)
		} else if ev.FD >= 0 {
			p.do(CloseFD{ev.FD})
		}
	case Opened:
		p.opened(ev)
	case Connected:
		p.connected(ev)
	case Retired:
		if w := p.workers[ev.Worker]; w != nil {
			p.retire(w)
		}
	case Dismiss:
		if w := p.workers[ev.Worker]; w != nil {
			p.retire(w)
			p.send(w, wire.Reply{Act: wire.Disconnect}, "", -1)
		}
	case Tell:
		if w := p.workers[ev.Worker]; w != nil {
			if line, err := wire.UserLine(ev.Value); err == nil {
				p.write(w, Send{w.id, line, -1}, nil)
			}
		}
	case Renew:
		p.renew(ev.Secret)
	case Gone:
		if w := p.workers[ev.Worker]; w != nil {
			p.gone(w)
		}
	case Tick:
		p.tick()
	}
	out := p.out
	p.out = nil
	return out
}

func (p *Primary) do(a Action) { p.out = append(p.out, a) }

// Seat is the place of a worker's sockets in their groups; -1 when it is gone.
func (p *Primary) Seat(id WorkerID) int {
	if w := p.workers[id]; w != nil {
		return w.seat
	}
	return -1
}

// Has reports whether a worker has a server's socket and may get connections.
func (p *Primary) Has(id WorkerID, server int) bool {
	w := p.workers[id]
	return w != nil && !w.leaving && w.has(p.servers[server])
}

// SlotSeat is the seat of a slot that no worker serves: its last one's, which
// its next one will get; -1 when it had none.
func (p *Primary) SlotSeat(slot int) int {
	if seat, ok := p.seats[slot]; ok {
		return seat
	}
	return -1
}

// Waiting is how many lines for a worker, of how many bytes, wait until it has
// acknowledged a descriptor.
func (p *Primary) Waiting(id WorkerID) (lines, bytes int) {
	if w := p.workers[id]; w != nil {
		return len(w.queue), w.queued
	}
	return 0, 0
}

// Owes reports whether a worker has yet to take a connection that it was sent.
func (p *Primary) Owes(id WorkerID) bool {
	w := p.workers[id]
	return w != nil && len(w.given) > 0
}

// Idle reports whether no connection waits here to be dealt out.
func (p *Primary) Idle() bool {
	for _, s := range p.servers {
		if s != nil && len(s.waiting) > 0 {
			return false
		}
	}
	for _, w := range p.workers {
		if len(w.given) > 0 {
			return false
		}
	}
	return true
}
