package scoreboard

import (
	"time"
)

// Snapshot is what a board says. Each number is right by itself; since the
// worker writes on meanwhile, two of them may be a request apart.
type Snapshot struct {
	Heartbeat   int64 // CLOCK_MONOTONIC ns of the last Beat; 0 before the first
	Counted     bool  // false: no engine counts, and all below is 0
	Requests    uint64
	Status      [6]uint64 // by status/100; 0 is none of 1 to 5
	BytesIn     uint64
	BytesOut    uint64
	Accepted    uint64 // connections, ever
	Panics      uint64
	Connections int64         // now
	InFlight    int64         // now
	Sockets     int64         // connections that were upgraded, such as WebSockets, now
	Dropped     uint64        // messages of other workers
	SchedWait   time.Duration // see SchedWait
	Latency     Histogram
}

// Snapshot reads the board.
func (b *Board) Snapshot() Snapshot {
	m := b.mem
	s := Snapshot{
		Heartbeat:   m.heartbeat.Load(),
		Counted:     m.counting.Load() != 0,
		BytesIn:     m.bytesIn.Load(),
		BytesOut:    m.bytesOut.Load(),
		Accepted:    m.accepted.Load(),
		Panics:      m.panics.Load(),
		Connections: m.connections.Load(),
		Sockets:     m.sockets.Load(),
		Dropped:     m.dropped.Load(),
		SchedWait:   b.SchedWait(),
	}
	ended := m.upgraded.Load()
	for i := range s.Status {
		s.Status[i] = m.status[i].Load()
		s.Requests += s.Status[i]
	}
	s.InFlight = max(0, int64(m.begun.Load()-ended-s.Requests)) // read last: none is missing
	for i := range s.Latency {
		s.Latency[i] = m.latency[i].Load()
	}
	return s
}

// Connections is how many connections are open now, and whether anybody counts
// them.
func (b *Board) Connections() (open int64, counted bool) {
	return b.mem.connections.Load(), b.mem.counting.Load() != 0
}

// Heartbeat is the word that each Beat changes; 0 before the first.
func (b *Board) Heartbeat() int64 { return b.mem.heartbeat.Load() }

// SchedWait is for how long the worker's goroutines wait for a processor, as the
// worker noted last.
func (b *Board) SchedWait() time.Duration { return time.Duration(max(0, b.mem.schedWait.Load())) }

// Requests is how many have been answered.
func (b *Board) Requests() (n uint64) {
	for i := range b.mem.status {
		n += b.mem.status[i].Load()
	}
	return n
}

// Request is one request in flight.
type Request struct {
	Age    time.Duration
	Method string
	Path   string // without the query
}

// InFlight appends the requests in flight to dst, in no order. One that is
// written at that moment is left out.
func (b *Board) InFlight(dst []Request) []Request {
	now := b.now()
	for i := range b.mem.table {
		e := &b.mem.table[i]
		state := e.state.Load()
		if state&mask != inFlight {
			continue
		}
		methodLen, pathLen := min(int(e.methodLen), MaxMethod), min(int(e.pathLen), MaxPath)
		r := Request{Age: time.Duration(max(0, now-e.start)), Method: string(e.method[:methodLen]), Path: string(e.path[:pathLen])}
		if e.state.Load() == state {
			dst = append(dst, r)
		}
	}
	return dst
}

// Oldest is the oldest request in flight, the zero Request when there is none.
func (b *Board) Oldest() Request {
	var oldest Request
	for _, r := range b.InFlight(nil) {
		if r.Age > oldest.Age {
			oldest = r
		}
	}
	return oldest
}

// Totals are the counts of many lives. They only grow.
type Totals struct {
	Requests, BytesIn, BytesOut, Accepted, Panics, Dropped uint64
	Status                                                 [6]uint64
	Latency                                                Histogram
}

// Add adds what a life has counted.
func (t *Totals) Add(s Snapshot) {
	t.Merge(Totals{
		Requests: s.Requests, BytesIn: s.BytesIn, BytesOut: s.BytesOut,
		Accepted: s.Accepted, Panics: s.Panics, Dropped: s.Dropped, Status: s.Status, Latency: s.Latency,
	})
}

// Merge adds other totals.
func (t *Totals) Merge(o Totals) {
	t.Requests += o.Requests
	t.BytesIn += o.BytesIn
	t.BytesOut += o.BytesOut
	t.Accepted += o.Accepted
	t.Panics += o.Panics
	t.Dropped += o.Dropped
	for i, n := range o.Status {
		t.Status[i] += n
	}
	for i, n := range o.Latency {
		t.Latency[i] += n
	}
}
