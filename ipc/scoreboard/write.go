package scoreboard

import (
	"bytes"
	"time"
)

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

// Dropped counts a message that another worker sent and that found no room.
func (b *Board) Dropped() { b.mem.dropped.Add(1) }

// NoteSchedWait notes for how long goroutines wait for a processor.
func (b *Board) NoteSchedWait(d time.Duration) { b.mem.schedWait.Store(int64(d)) }

// Token is a request between Begin and End.
type Token struct {
	start int64
	entry int32 // index in the table, or -1
}

// Begin counts a request as being in flight, until End or Upgraded is called
// with the Token. It began at the given time, or now where that is zero. What
// follows a '?' in the path is not kept. When the table is full the request is
// counted without an entry.
func (b *Board) Begin(at time.Time, method, path []byte) Token {
	m := b.mem
	t := Token{entry: -1}
	if at.IsZero() {
		t.start = b.now()
	} else {
		t.start = b.offset + int64(at.Sub(b.base))
	}
	first := uint32(m.begun.Add(1))
	for i := range uint32(8) { // a full table is not searched to its end
		n := i // the first are nearest to the processor, and mostly free
		if i >= 4 {
			n = (first + i) % TableSize
		}
		e := &m.table[n]
		state := e.state.Load()
		if state&mask != unused || !e.state.CompareAndSwap(state, state+writing) {
			continue
		}
		if i := bytes.IndexByte(path[:min(len(path), MaxPath+1)], '?'); i >= 0 {
			path = path[:i]
		}
		e.start = t.start
		e.methodLen = uint8(copy(e.method[:], method))
		e.pathLen = uint8(copy(e.path[:], path))
		e.state.Store(state + inFlight)
		t.entry = int32(n)
		break
	}
	return t
}

// End counts an answered request: its status, and the bytes of its request and
// response.
func (b *Board) End(t Token, status int, in, out int64) {
	m := b.mem
	b.free(t)
	class := status / 100
	if class < 0 || class > 5 {
		class = 0
	}
	m.status[class].Add(1)
	m.bytesIn.Add(uint64(max(0, in)))
	m.bytesOut.Add(uint64(max(0, out)))
	m.latency[bucket(b.now()-t.start)].Add(1)
}

// Upgraded ends a request that became something else, such as a WebSocket, whose
// length says nothing about requests. It is not among those answered.
func (b *Board) Upgraded(t Token) {
	b.free(t)
	b.mem.upgraded.Add(1)
}

// SocketOpened counts a connection that became something else, until SocketClosed is
// called for it. It stays among the connections.
func (b *Board) SocketOpened() { b.mem.sockets.Add(1) }

// SocketClosed ends it.
func (b *Board) SocketClosed() { b.mem.sockets.Add(-1) }

// free gives a request's entry back. Whoever reads it now throws it away.
func (b *Board) free(t Token) {
	if t.entry >= 0 {
		b.mem.table[t.entry].state.Add(mask + 1 - inFlight)
	}
}
