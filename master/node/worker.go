package node

import (
	"fmt"
	"slices"
	"time"

	wire "drover/ipc/node"
)

// worker is one process that speaks to the primary.
type worker struct {
	id         WorkerID
	slot       int
	seat       int
	generation int
	online     time.Time // zero: not yet
	asked      bool      // for a socket, ever
	listening  bool      // it said so, ever
	ready      bool
	quiet      bool
	leaving    bool // it was told, or said, that it leaves
	gaveSocket bool // it sent a descriptor, which was remarked upon

	seq   int64           // of our next message
	open  []grant         // servers that it has, or asks for
	given map[int64]given // connections that it has not taken yet, by the message that brought them

	// A descriptor is on its way. Until its arrival is acknowledged all else
	// waits: a second one could be taken for the first.
	flying *flight
	queue  []flight
	queued int // bytes of the queue's lines
}

// grant is a server that a worker has, under a key that is its own.
type grant struct {
	key    string
	server *server
	want   wire.Server
	had    bool // it was answered
}

// flight is a line for a worker.
type flight struct {
	send  Send
	tries int
	back  func() // it will never arrive; nil: so be it
}

func (w *worker) has(s *server) bool {
	return s != nil && slices.ContainsFunc(w.open, func(g grant) bool { return g.server == s && g.had })
}

// key of a server that the worker has.
func (w *worker) key(s *server) string {
	for _, g := range w.open {
		if g.server == s && g.had {
			return g.key
		}
	}
	return ""
}

// join takes in a worker. It gets the seat that its slot had, so that what is
// queued there is served, or a spare one while another still sits there.
func (p *Primary) join(ev Joined) {
	w := &worker{id: ev.Worker, slot: ev.Slot, generation: ev.Generation, given: map[int64]given{}}
	seat, had := p.seats[ev.Slot]
	if !had || p.taken(seat) {
		seat = p.spare()
	}
	w.seat = seat
	p.seats[ev.Slot] = seat
	p.workers[w.id] = w
}

// taken reports whether somebody sits on a seat.
func (p *Primary) taken(seat int) bool {
	for _, w := range p.workers {
		if w.seat == seat {
			return true
		}
	}
	return false
}

// spare is the first seat that nobody sits on and no slot will come back to.
func (p *Primary) spare() int {
	for seat := 0; ; seat++ {
		kept := false
		for _, s := range p.seats {
			kept = kept || s == seat
		}
		if !kept && !p.taken(seat) {
			return seat
		}
	}
}

// write sends a line when no descriptor is on its way. back is called when it
// can never arrive.
func (p *Primary) write(w *worker, s Send, back func()) {
	f := flight{send: s, back: back}
	if w.flying != nil {
		w.queue = append(w.queue, f)
		w.queued += len(s.Line)
		return
	}
	p.fly(w, f)
}

func (p *Primary) fly(w *worker, f flight) {
	f.tries++
	if f.send.FD >= 0 {
		w.flying = &f
	}
	p.do(f.send)
}

// send writes one of the cluster's messages, and returns its number.
func (p *Primary) send(w *worker, r wire.Reply, handle string, fd int) int64 {
	return p.sendBack(w, r, handle, fd, nil)
}

func (p *Primary) sendBack(w *worker, r wire.Reply, handle string, fd int, back func()) int64 {
	r.Seq = w.seq
	w.seq++
	p.write(w, Send{w.id, r.Encode(handle), fd}, back)
	return r.Seq
}

// arrived takes the worker's word that a descriptor did, or did not, arrive.
func (p *Primary) arrived(w *worker, yes bool) {
	f := w.flying
	if f == nil {
		p.object(w, "it acknowledges a descriptor that was never sent")
		return
	}
	w.flying = nil
	switch {
	case yes:
	case f.tries <= resendMost:
		p.fly(w, *f)
	default:
		p.object(w, fmt.Sprintf("a descriptor did not arrive after %d attempts", f.tries))
		if f.back != nil {
			f.back()
		}
	}
	for w.flying == nil && len(w.queue) > 0 {
		next := w.queue[0]
		w.queue = w.queue[1:]
		w.queued -= len(next.send.Line)
		p.fly(w, next)
	}
}

func (p *Primary) object(w *worker, why string) { p.do(Objection{w.id, why}) }

// says passes a worker's word on.
func (p *Primary) says(w *worker, word Word) { p.do(Says{w.id, word}) }

// heard takes a worker's message.
func (p *Primary) heard(w *worker, m wire.Message, fd int) {
	switch m.Cmd {
	case wire.User:
		p.told(w, m.Raw)
	case wire.Handle:
		p.handle(w, m, fd)
		return
	case wire.HandleAck, wire.HandleNack:
		p.arrived(w, m.Cmd == wire.HandleAck)
	case wire.NotifyClose:
		p.write(w, Send{w.id, wire.Word(wire.AllClosed, m.Key), -1}, nil)
	case wire.GetCount:
		p.write(w, Send{w.id, wire.Word(wire.Count, m.Key), -1}, nil)
	case wire.Cluster:
		p.cluster(w, m)
	} // others are not ours to know
	if fd >= 0 {
		p.do(CloseFD{fd})
	}
}

// told passes a user's message on.
func (p *Primary) told(w *worker, value []byte) {
	if p.policy.WaitReady && !w.ready && string(value) == `"ready"` {
		p.ready(w)
		return
	}
	p.do(Told{w.id, value})
}

func (p *Primary) ready(w *worker) {
	if w.ready || w.leaving {
		return
	}
	w.ready = true
	p.says(w, Ready)
}

// handle takes a descriptor that a worker's user sent to the primary. It must be
// acknowledged at once, or the worker's channel stands still; there is no user's
// code here that it could be for, so it is closed.
func (p *Primary) handle(w *worker, m wire.Message, fd int) {
	if fd < 0 {
		p.do(Send{w.id, wire.Word(wire.HandleNack, ""), -1})
		return
	}
	p.do(Send{w.id, wire.Word(wire.HandleAck, ""), -1})
	p.do(CloseFD{fd})
	if !w.gaveSocket {
		w.gaveSocket = true
		p.object(w, fmt.Sprintf("it sent a %.20s to the primary, where no code of its app runs: it is closed", m.Type))
	}
	if inner, err := wire.Decode(m.Msg); err == nil && inner.Cmd == wire.User && len(m.Msg) > 0 {
		p.told(w, m.Msg)
	}
}

// cluster takes a message of the cluster's own.
func (p *Primary) cluster(w *worker, m wire.Message) {
	switch {
	case m.Ack != nil:
		p.answered(w, *m.Ack, m.Accepted)
	case m.Act == wire.Online:
		if w.online.IsZero() {
			w.online = p.now
			p.says(w, Online)
		}
	case m.Act == wire.QueryServer:
		p.query(w, m)
	case m.Act == wire.Listening:
		if !w.listening && !w.leaving {
			w.listening = true
			p.says(w, Listening)
		}
		if !p.policy.WaitReady {
			p.ready(w)
		}
	case m.Act == wire.Close:
		p.closed(w, m.Key)
	case m.Act == wire.Leaving:
		unasked := !w.leaving
		p.retire(w)
		p.send(w, wire.Reply{Ack: m.Seq}, "", -1)
		if unasked {
			p.says(w, Leaving)
		}
	default:
		p.object(w, fmt.Sprintf("it asks the cluster's primary for %.40q", string(m.Act)))
	}
}

// retire lets a worker have no new connection.
func (p *Primary) retire(w *worker) {
	w.leaving = true
	for _, s := range p.servers {
		if s != nil {
			s.free = slices.DeleteFunc(s.free, func(o *worker) bool { return o == w })
		}
	}
}

// gone forgets a worker. Connections that it was sent and has not taken are
// given to others.
func (p *Primary) gone(w *worker) {
	delete(p.workers, w.id)
	p.retire(w)
	open := w.open
	w.open = nil
	for _, g := range open {
		if g.had {
			p.do(Serves{w.id, g.server.id, g.want, g.server.address(), false, false})
		}
	}
	// Its slot goes back to whoever is there, if anybody is: a successor that
	// never served took a spare seat.
	last := WorkerID(0)
	for id, o := range p.workers {
		if o.slot == w.slot && id > last {
			last = id
			p.seats[w.slot] = o.seat
		}
	}
	for _, seq := range slices.Backward(sortedKeys(w.given)) {
		p.again(w.given[seq])
	}
	for _, s := range p.servers {
		if s != nil {
			p.deal(s) // what only this one would not take
		}
	}
}

// tick looks at what time alone changes.
func (p *Primary) tick() {
	anybody := false
	for _, id := range sortedKeys(p.workers) {
		w := p.workers[id]
		if !w.online.IsZero() && !w.asked && !w.ready && !w.leaving {
			switch ran := p.now.Sub(w.online); {
			case p.policy.ReadyAfter > 0 && ran >= p.policy.ReadyAfter:
				p.ready(w)
			case !w.quiet && ran >= quietAfter:
				w.quiet = true
				p.do(Quiet{w.id})
			}
		}
		anybody = anybody || w.listening && !w.leaving
	}
	for _, s := range p.servers {
		if s == nil {
			continue
		}
		switch {
		case !anybody, p.wanted(s):
			s.idle = time.Time{}
		case s.idle.IsZero():
			s.idle = p.now
		case p.now.Sub(s.idle) >= releaseAfter:
			p.release(s)
		}
	}
}
