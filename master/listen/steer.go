package listen

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"drover/config"
	"drover/internal/sys"
)

// Steering programs are classic BPF, which needs no privilege. The kernel runs
// the one of a SO_REUSEPORT group for each new connection, with its SYN, and
// takes what it returns as the socket's place in the group. What is out of
// range is answered by the kernel's own hash.

// Steer has new connections go to these slots' sockets only. What is queued at
// others stays there.
func (g *Group) Steer(slots []int) error {
	g.slots = slices.Clone(slots)
	return g.apply()
}

// SteerSockets is Steer where sockets do not belong to their slots for ever: new
// connections go to these sockets, as if each were that of the slot it stands for.
func (g *Group) SteerSockets(slots map[int]int) error {
	g.stands = maps.Clone(slots)
	g.slots = slices.Sorted(maps.Keys(slots))
	return g.apply()
}

// Undo gives up the steering that was asked for, and spreads.
func (g *Group) Undo(why string) error {
	g.undone = why
	return g.apply()
}

// Steering is how new connections are steered now: as config.Listen names it;
// over which slots, nil being all; and, where that is not what was asked for,
// why.
func (g *Group) Steering() (steering string, slots []int, why string) {
	switch {
	case g.kept:
		return config.Shared, nil, "the socket came from the service manager"
	case g.network == "unix":
		return config.Shared, nil, ""
	case g.asked == config.Shared:
		return config.Shared, nil, ""
	case g.order == nil:
		return config.Spread, nil, g.lost
	}
	places := g.places()
	switch {
	case g.stands != nil: // sockets without a slot are spare ones
		for _, p := range places {
			slots = append(slots, p.slot)
		}
		slices.Sort(slots)
		slots = slices.Compact(slots)
	case len(places) < len(g.order):
		var out []string
		for slot := range g.sockets {
			if !slices.ContainsFunc(places, func(p place) bool { return p.slot == slot }) {
				out = append(out, fmt.Sprint(slot))
			}
		}
		for _, p := range places {
			slots = append(slots, p.slot)
		}
		slices.Sort(slots)
		why = "nobody accepts in slot " + strings.Join(out, ", ")
	}
	switch {
	case g.undone != "" && why != "":
		return config.Spread, slots, g.undone + "; " + why
	case g.undone != "":
		return config.Spread, slots, g.undone
	}
	return g.asked, slots, why
}

// places are the sockets that get new connections, in the kernel's order; all
// where none of the slots asked for has one.
func (g *Group) places() []place {
	var all, some []place
	for index, slot := range g.order {
		p := place{slot, index}
		if as, ok := g.stands[slot]; ok {
			p.slot = as
		}
		all = append(all, p)
		if slices.Contains(g.slots, slot) {
			some = append(some, p)
		}
	}
	if len(some) == 0 {
		return all
	}
	return some
}

// program is what steers now; nil leaves it to the kernel. A first socket that
// nobody has joined is no group yet, and the kernel refuses a program of it.
func (g *Group) program() []sys.Instruction {
	if g.Shared() || len(g.order) < 2 {
		return nil
	}
	places := g.places()
	switch {
	case g.asked == config.Sticky:
		return sticky(places)
	case g.asked == config.CPU && g.undone == "":
		return byCPU(places)
	case len(places) < len(g.order):
		return spread(places)
	}
	return nil
}

// apply attaches the program, or takes whatever is attached away. It finds out
// who else did so, as far as the kernel tells: not what a program of ours takes
// the place of.
func (g *Group) apply() error {
	if g.network == "unix" || g.kept || len(g.sockets) == 0 || g.full != nil {
		return nil
	}
	program := g.program()
	if program == nil {
		had, err := sys.DetachReuseport(g.sockets[0])
		switch {
		case had && !g.attached:
			g.find(-1, "a worker had attached a steering program: it is taken away")
		case err == nil && !had && g.attached && g.order != nil:
			g.find(-1, "a worker had taken the steering program away")
		}
		g.attached = false
		if err != nil {
			return fmt.Errorf("take the steering program of %s away: %w", g.Address, err)
		}
		return nil
	}
	var err error
	for _, fd := range g.sockets { // one may be locked (socket(7), SO_LOCK_FILTER), or shut down
		if err = sys.AttachReuseport(fd, program); err == nil {
			g.attached = true
			return nil
		}
	}
	if errors.Is(err, syscall.ENOMEM) {
		err = fmt.Errorf("%w: a program of %d instructions needs a larger net.core.optmem_max", err, len(program))
	}
	return fmt.Errorf("steer connections to %s: %w", g.Address, err)
}

// Instructions of linux/bpf_common.h, as they are used here. A is the
// accumulator, X the index register, M the 16 words of scratch memory.
const (
	loadWord  = 0x20 // A = packet[K], 4 bytes (BPF_LD | BPF_W | BPF_ABS)
	loadHalf  = 0x28 // A = packet[K], 2 bytes
	loadByte  = 0x30 // A = packet[K]
	loadConst = 0x00 // A = K
	loadMem   = 0x60 // A = M[K]
	ldxConst  = 0x01 // X = K
	ldxMem    = 0x61 // X = M[K]
	store     = 0x02 // M[K] = A
	mulConst  = 0x24 // A *= K
	modConst  = 0x94 // A %= K
	shrConst  = 0x74 // A >>= K
	xorConst  = 0xa4 // A ^= K
	xorX      = 0xac // A ^= X
	jumpEq    = 0x15 // if A == K skip Jt else Jf
	jumpMoreX = 0x2d // if A > X skip Jt else Jf
	returnK   = 0x06
	returnA   = 0x16
	tax       = 0x07 // X = A
)

// Where the kernel gives more than the packet's bytes, which begin behind the
// TCP header (linux/filter.h).
const (
	network = 0xfff00000 // SKF_NET_OFF: from the IP header on
	random  = 0xfffff038 // SKF_AD_OFF + SKF_AD_RANDOM
	cpu     = 0xfffff024 // SKF_AD_OFF + SKF_AD_CPU
)

// place is a socket that gets connections: whose it is, and where in the group
// the kernel has it.
type place struct{ slot, index int }

// spread is a program that chooses by chance among places. It never goes by
// SKF_AD_RXHASH, which is 0 on devices that supply no hash.
func spread(places []place) []sys.Instruction { return divide(random, places) }

// byCPU is a program that goes by the CPU that received the packet.
func byCPU(places []place) []sys.Instruction { return divide(cpu, places) }

// divide shares the values of what the kernel gives out among places.
func divide(what uint32, places []place) []sys.Instruction {
	program := []sys.Instruction{
		{Code: loadWord, K: what},
		{Code: modConst, K: uint32(len(places))},
	}
	inOrder := true
	for n, p := range places {
		inOrder = inOrder && p.index == n
	}
	if inOrder {
		return append(program, sys.Instruction{Code: returnA})
	}
	for n, p := range places[1:] {
		program = append(program,
			sys.Instruction{Code: jumpEq, K: uint32(n + 1), Jf: 1},
			sys.Instruction{Code: returnK, K: uint32(p.index)})
	}
	return append(program, sys.Instruction{Code: returnK, K: uint32(places[0].index)})
}

// Multipliers of Chris Wellons's lowbias32 (github.com/skeeto/hash-prospector),
// whose rounds are used here one by one.
const mul1, mul2 = 0x7feb352d, 0x846ca68b

// sticky is a program that gives each source address a place of its own, by
// rendezvous: each place draws a number from the address and its slot, and the
// highest wins. So the clients of a place that is gone move, and no others; and
// where the kernel has a place does not matter. The address is all of IPv4, also
// on a socket of both families, and the upper half of IPv6: the lower is the
// client's to choose.
func sticky(places []place) []sys.Instruction {
	const key, best, chosen = 0, 1, 2 // in scratch memory
	program := []sys.Instruction{
		{Code: ldxConst, K: 0},
		{Code: loadByte, K: network}, // version, header length: RFC 791, RFC 8200
		{Code: shrConst, K: 4},
		{Code: jumpEq, K: 6, Jf: 3},
		{Code: loadWord, K: network + 8}, // source, bytes 0 to 3
		{Code: mulConst, K: mul1},
		{Code: tax},
		{Code: loadWord, K: network + 12}, // bytes 4 to 7; of IPv4 the source
		{Code: xorX},
		{Code: store, K: key},
		{Code: loadConst, K: 0},
		{Code: store, K: best},
		{Code: loadConst, K: uint32(places[0].index)},
		{Code: store, K: chosen},
	}
	for _, p := range places {
		program = append(program, // config.MaxSticky counts these
			sys.Instruction{Code: loadMem, K: key},
			sys.Instruction{Code: xorConst, K: seed(p.slot)},
			sys.Instruction{Code: mulConst, K: mul1},
			sys.Instruction{Code: tax},
			sys.Instruction{Code: shrConst, K: 15},
			sys.Instruction{Code: xorX},
			sys.Instruction{Code: mulConst, K: mul2},
			sys.Instruction{Code: ldxMem, K: best},
			sys.Instruction{Code: jumpMoreX, Jf: 3},
			sys.Instruction{Code: store, K: best},
			sys.Instruction{Code: loadConst, K: uint32(p.index)},
			sys.Instruction{Code: store, K: chosen})
	}
	return append(program,
		sys.Instruction{Code: loadMem, K: chosen},
		sys.Instruction{Code: returnA})
}

// seed is what makes a slot's numbers its own.
func seed(slot int) uint32 {
	x := uint32(slot) + 0x9e3779b9 // not 0, which the rounds would leave 0
	x ^= x >> 16
	x *= mul1
	x ^= x >> 15
	x *= mul2
	return x ^ x>>16
}
