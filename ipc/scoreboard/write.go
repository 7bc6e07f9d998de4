package scoreboard

import "bytes"

// Beat says that the worker is alive now.
func (b *Board) Beat() { b.mem.heartbeat.Store(b.now()) }

// Count says that the worker's engine counts here: zeros are counts then, not
// silence.
func (b *Board) Count() { b.mem.counting.Store(1) }

// Accepted counts a connection, until Closed is called for it.
func (b *Board) Accepted() {
	b.mem.accepted.Add(1)
	b.mem.connections.Add(1)
}

// Closed ends a connection.
func (b *Board) Closed() { b.mem.connections.Add(-1) }

// Panicked counts a panic of a handler.
func (b *Board) Panicked() { b.mem.panics.Add(1) }

// Token is a request between Begin and End.
type Token struct {
	start int64
	entry int32 // index in the table, or -1
}

// Start is when the request began, in ns of CLOCK_MONOTONIC.
func (t Token) Start() int64 { return t.start }

// Begin counts a request as being in flight, until End or Upgraded is called
// with the Token. What follows a '?' in the path is not kept. When the table is
// full the request is counted without an entry.
func (b *Board) Begin(method, path []byte) Token {
	m := b.mem
	t := Token{start: b.now(), entry: -1}
	m.inFlight.Add(1)
	first := b.next.Add(1)
	for i := range uint32(8) { // a full table is not searched to its end
		n := (first + i) % TableSize
		e := &m.table[n]
		if e.busy.Load() != 0 || !e.busy.CompareAndSwap(0, 1) {
			continue
		}
		if i := bytes.IndexByte(path[:min(len(path), MaxPath+1)], '?'); i >= 0 {
			path = path[:i]
		}
		e.seq.Add(1)
		e.start = t.start
		e.methodLen = uint8(copy(e.method[:], method))
		e.pathLen = uint8(copy(e.path[:], path))
		e.seq.Add(1)
		t.entry = int32(n)
		break
	}
	return t
}

// End counts an answered request: its status, and the bytes of its request and
// response.
func (b *Board) End(t Token, status int, in, out int64) {
	m := b.mem
	b.Upgraded(t)
	m.requests.Add(1)
	class := status / 100
	if class < 0 || class > 5 {
		class = 0
	}
	m.status[class].Add(1)
	m.bytesIn.Add(uint64(max(0, in)))
	m.bytesOut.Add(uint64(max(0, out)))
	m.latency[bucket(b.now()-t.start)].Add(1)
}

// Upgraded ends a request that became something else, such as a WebSocket,
// whose length says nothing about requests. Unless End is called instead, it is
// not among those answered.
func (b *Board) Upgraded(t Token) {
	b.mem.inFlight.Add(-1)
	if t.entry >= 0 {
		e := &b.mem.table[t.entry]
		e.seq.Add(2) // whoever reads it now throws it away
		e.busy.Store(0)
	}
}
