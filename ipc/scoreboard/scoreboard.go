// Package scoreboard is the memory that a worker and its master share: what the
// worker counts and the requests it is answering, written without a system call
// and read while it is written, or after the worker has died.
//
// Each life has one board, in memory that nobody can truncate. The worker's
// words are not trusted: a reader checks every length and index, and whatever is
// scribbled over the board gives wrong numbers, never a crash.
package scoreboard

import (
	"fmt"
	"sync/atomic"
	"time"

	"drover/internal/sys"
)

const (
	// Version is that of the layout, which both sides must share.
	Version = 4

	magic = 0x6472766f53423031 // "drvoSB01"

	// TableSize is how many requests in flight have an entry; further ones are
	// counted only.
	TableSize = 256
	// MaxPath is how many bytes of a request's path are kept, without its query.
	MaxPath = 96
	// MaxMethod is how many bytes of its method are kept.
	MaxMethod = 8
)

// layout is the shared memory. A test pins every offset; a change of any is a
// new Version.
type layout struct {
	magic   uint64
	version uint32
	size    uint32
	_       [48]byte

	// heartbeat has a cache line of its own: the master reads it often.
	heartbeat atomic.Int64 // CLOCK_MONOTONIC ns
	counting  atomic.Uint32
	_         [52]byte

	// What is in flight was begun, and neither answered, with a status, nor upgraded.
	begun       atomic.Uint64
	upgraded    atomic.Uint64
	status      [6]atomic.Uint64 // by status/100; 0 is none of 1 to 5
	bytesIn     atomic.Uint64
	bytesOut    atomic.Uint64
	accepted    atomic.Uint64
	panics      atomic.Uint64
	connections atomic.Int64
	dropped     atomic.Uint64
	schedWait   atomic.Int64 // ns
	sockets     atomic.Int64 // connections that were upgraded, now

	latency [Buckets]atomic.Uint64
	table   [TableSize]entry
}

// entry is one request in flight. The last two bits of its state say whether it is
// one; the others change with each.
type entry struct {
	state     atomic.Uint32
	methodLen uint8
	pathLen   uint8
	_         [2]byte
	start     int64 // CLOCK_MONOTONIC ns
	_         [8]byte
	method    [MaxMethod]byte
	path      [MaxPath]byte
}

// The last two bits of an entry's state.
const (
	unused   = iota // whoever makes it writing has it
	writing         // the rest of the entry is being written
	inFlight        // it is a request
	mask     = 3
)

// Board is one mapping of a life's board. All methods but Close may be called
// by many goroutines at once.
type Board struct {
	mem    *layout
	mapped []byte // nil for a private board

	base   time.Time
	offset int64 // CLOCK_MONOTONIC at base
}

func newBoard(mem *layout, mapped []byte) *Board {
	b := &Board{mem: mem, mapped: mapped, base: time.Now()}
	b.offset = sys.Monotonic()
	return b
}

// New makes a board in sealed memory, for a master. The descriptor is for the
// worker; the caller closes it, and the board.
func New() (*Board, int, error) {
	fd, mapped, err := sys.SealedMemory("drover-scoreboard", sys.SizeOf[layout]())
	if err != nil {
		return nil, -1, fmt.Errorf("make a scoreboard: %w", err)
	}
	mem, err := sys.At[layout](mapped)
	if err != nil {
		return nil, -1, fmt.Errorf("make a scoreboard: %w", err) // the kernel maps whole pages
	}
	mem.magic, mem.version, mem.size = magic, Version, uint32(sys.SizeOf[layout]())
	return newBoard(mem, mapped), fd, nil
}

// Open maps the board behind a descriptor that came from a master. It refuses
// memory that is not sealed, or not a board of this version. The descriptor
// stays the caller's and is not needed afterwards.
func Open(fd int) (*Board, error) {
	mapped, err := sys.MapSealed(fd, sys.SizeOf[layout]())
	if err != nil {
		return nil, fmt.Errorf("open the scoreboard: %w", err)
	}
	mem, err := view(mapped)
	if err != nil {
		_ = sys.Unmap(mapped)
		return nil, fmt.Errorf("open the scoreboard: %w", err)
	}
	return newBoard(mem, mapped), nil
}

// view checks that memory is a board.
func view(memory []byte) (*layout, error) {
	mem, err := sys.At[layout](memory)
	switch {
	case err != nil:
		return nil, err
	case mem.magic != magic:
		return nil, fmt.Errorf("it begins with %#x, not with %#x", mem.magic, uint64(magic))
	case mem.version != Version:
		return nil, fmt.Errorf("it has version %d, this program knows %d", mem.version, Version)
	case int(mem.size) != sys.SizeOf[layout]():
		return nil, fmt.Errorf("it says that it is %d bytes long, and is %d", mem.size, sys.SizeOf[layout]())
	}
	return mem, nil
}

// Intact reports whether the board still begins as it was made. Of one that does
// not, nothing can be believed: something in the worker has written over it.
func (b *Board) Intact() bool {
	return b.mem.magic == magic && b.mem.version == Version && int(b.mem.size) == sys.SizeOf[layout]()
}

// Private makes a board that nobody shares: for a program without a master, and
// for tests.
func Private() *Board { return newBoard(new(layout), nil) }

// Close unmaps the board. Nobody may use it afterwards.
func (b *Board) Close() error {
	if b.mapped == nil {
		return nil
	}
	b.mem = nil
	return sys.Unmap(b.mapped)
}

// now is CLOCK_MONOTONIC in ns, read through the runtime's clock, which needs
// no system call.
func (b *Board) now() int64 { return b.offset + int64(time.Since(b.base)) }
