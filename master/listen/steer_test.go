package listen

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"drover/config"
	"drover/internal/sys"
)

// run is the kernel's interpreter, as far as steering needs one: what a program
// returns for the SYN of a source.
func run(t *testing.T, program []sys.Instruction, source netip.Addr, given map[uint32]uint32) uint32 {
	t.Helper()
	if len(program) > 4096 {
		t.Fatalf("%d instructions: the kernel takes 4096", len(program))
	}
	ip := make([]byte, 40)
	if source.Is4() {
		ip[0] = 4<<4 | 5
		copy(ip[12:], source.AsSlice())
	} else {
		ip[0] = 6 << 4
		copy(ip[8:], source.AsSlice())
	}
	var a, x uint32
	var memory [16]uint32
	for pc := 0; pc < len(program); pc++ {
		in := program[pc]
		skip := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case loadWord:
			if v, ok := given[in.K]; ok {
				a = v
			} else {
				a = binary.BigEndian.Uint32(ip[in.K-network:])
			}
		case loadByte:
			a = uint32(ip[in.K-network])
		case loadConst:
			a = in.K
		case loadMem:
			a = memory[in.K]
		case ldxConst:
			x = in.K
		case ldxMem:
			x = memory[in.K]
		case store:
			memory[in.K] = a
		case mulConst:
			a *= in.K
		case modConst:
			a %= in.K
		case shrConst:
			a >>= in.K
		case xorConst:
			a ^= in.K
		case xorX:
			a ^= x
		case jumpEq:
			skip(a == in.K)
		case jumpMoreX:
			skip(a > x)
		case tax:
			x = a
		case returnK:
			return in.K
		case returnA:
			return a
		default:
			t.Fatalf("instruction %d: unknown code %#x", pc, in.Code)
		}
	}
	t.Fatal("the program ends without a return")
	return 0
}

func placesOf(slots ...int) (p []place) {
	for i, slot := range slots {
		p = append(p, place{slot, i})
	}
	return p
}

// Each slot has its share of 4,000 neighbouring addresses, of both families.
func TestStickyIsFair(t *testing.T) {
	for _, n := range []int{2, 3, 8, 64} {
		for _, family := range []string{"10.1.%d.%d", "2001:db8:%x:%x::1"} {
			got := make([]int, n)
			for i := range 4000 {
				source := netip.MustParseAddr(fmt.Sprintf(family, i/250, i%250))
				slots := make([]int, n)
				for s := range slots {
					slots[s] = s
				}
				got[run(t, sticky(placesOf(slots...)), source, nil)]++
			}
			mean := 4000 / n
			if slices.Max(got) > mean*3/2+10 || slices.Min(got) < mean/2-10 {
				t.Errorf("%d slots, %s: %v", n, family, got)
			}
		}
	}
}

// Of IPv6 only the upper half counts, and a slot's clients are its own wherever
// the kernel has its socket.
func TestStickyIsByPrefixAndSlot(t *testing.T) {
	program := sticky(placesOf(0, 1, 2, 3))
	moved := sticky([]place{{2, 0}, {0, 3}, {3, 1}, {1, 2}})
	where := map[uint32]uint32{0: 3, 1: 2, 2: 0, 3: 1}
	random := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		var raw [16]byte
		for i := range raw {
			raw[i] = byte(random.Uint32())
		}
		a := netip.AddrFrom16(raw)
		raw[12]++
		b := netip.AddrFrom16(raw)
		if run(t, program, a, nil) != run(t, program, b, nil) {
			t.Fatalf("%v and %v, of one /64, are two clients", a, b)
		}
		if slot, at := run(t, program, a, nil), run(t, moved, a, nil); where[slot] != at {
			t.Fatalf("%v belongs to slot %d, which is at %d, and goes to %d", a, slot, where[slot], at)
		}
	}
}

// The largest programs fit.
func TestLargestPrograms(t *testing.T) {
	many := func(n int) (p []place) {
		for i := range n {
			p = append(p, place{i, n - 1 - i})
		}
		return p
	}
	if n := len(sticky(many(config.MaxSticky))); n > 4096 || len(sticky(many(config.MaxSticky+20))) <= 4096 {
		t.Errorf("%d instructions for %d workers", n, config.MaxSticky)
	}
	if n := len(spread(many(config.MaxWorkers))); n > 4096 {
		t.Errorf("spread: %d instructions for %d workers", n, config.MaxWorkers)
	}
}

// Whatever the slots, their places and the source: a program gives one of the
// places, and when one other goes nobody of this one moves.
func FuzzSteering(f *testing.F) {
	f.Add([]byte{0, 1, 2}, []byte{10, 0, 0, 1}, uint32(7))
	f.Add([]byte{5, 200, 3}, []byte("0123456789abcdef"), uint32(1<<31))
	f.Fuzz(func(t *testing.T, order, from []byte, given uint32) {
		source, ok := netip.AddrFromSlice(from)
		var all, some []place
		for i, b := range order {
			p := place{int(b), i}
			if slices.ContainsFunc(all, func(o place) bool { return o.slot == p.slot }) || len(all) == config.MaxSticky {
				return
			}
			all = append(all, p)
			if given>>(i%32)&1 == 0 {
				some = append(some, p)
			}
		}
		if !ok || len(all) == 0 {
			return
		}
		kernel := map[uint32]uint32{random: given, cpu: given}
		for _, program := range [][]sys.Instruction{spread(all), byCPU(all), sticky(all)} {
			if got := run(t, program, source, kernel); int(got) >= len(all) {
				t.Fatalf("it chooses %d of %d sockets", got, len(all))
			}
		}
		if len(some) == 0 {
			return
		}
		for _, program := range [][]sys.Instruction{spread(some), byCPU(some), sticky(some)} {
			got := run(t, program, source, kernel)
			if !slices.ContainsFunc(some, func(p place) bool { return p.index == int(got) }) {
				t.Fatalf("it chooses %d, which is none of %v", got, some)
			}
		}
		chosen := all[run(t, sticky(all), source, nil)]
		if now := run(t, sticky(some), source, nil); slices.Contains(some, chosen) && int(now) != chosen.index {
			t.Fatalf("its slot %d is still there, but it went from %d to %d", chosen.slot, chosen.index, now)
		}
	})
}

// group opens sockets for so many slots.
func group(t *testing.T, l config.Listen, slots int) *Group {
	t.Helper()
	g, err := Open(context.Background(), l, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	if _, err := g.Socket(context.Background(), slots-1); err != nil {
		t.Fatal(err)
	}
	return g
}

// dial connects from a source and says which slot got it.
func dial(t *testing.T, g *Group, from, to string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(g.Address)
	if err != nil {
		t.Fatal(err)
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.Dial("tcp", net.JoinHostPort(to, port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return accept(t, g.Sockets()...)
}

// The kernel runs the programs as the interpreter above does, also on a socket
// of both families; a slot taken out moves its own clients only; and sockets
// that changed places keep theirs.
func TestStickyInTheKernel(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", ":0"} {
		g := group(t, config.Listen{Address: address, Steering: config.Sticky}, 4)
		sources := make([]string, 100)
		before := map[string]int{}
		for i := range sources {
			sources[i] = fmt.Sprintf("127.%d.0.%d", i/10, i%10+1)
			before[sources[i]] = dial(t, g, sources[i], "127.0.0.1")
			want := run(t, g.program(), netip.MustParseAddr(sources[i]), nil)
			if before[sources[i]] != int(want) {
				t.Fatalf("%s: %s goes to slot %d, the interpreter says %d", address, sources[i], before[sources[i]], want)
			}
		}
		if err := g.Steer([]int{0, 2, 3}); err != nil {
			t.Fatal(err)
		}
		moved := 0
		for _, from := range sources {
			switch now := dial(t, g, from, "127.0.0.1"); {
			case now == 1 || before[from] != 1 && now != before[from]:
				t.Fatalf("%s: without slot 1, %s goes from slot %d to %d", address, from, before[from], now)
			case now != before[from]:
				moved++
			}
		}
		if moved == 0 {
			t.Errorf("%s: nobody was slot 1's", address)
		}
		if _, slots, why := g.Steering(); !slices.Equal(slots, []int{0, 2, 3}) || why != "nobody accepts in slot 1" {
			t.Errorf("told: %v, %q", slots, why)
		}
		// Slot 0's socket is shut down: the last takes its place, and it is the last.
		if err := g.Steer([]int{0, 1, 2, 3}); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Shutdown(g.Sockets()[0], syscall.SHUT_RDWR); err != nil {
			t.Fatal(err)
		}
		if found := g.Mend(); len(found) != 1 || found[0].Slot != 0 || !strings.Contains(found[0].What, "shut it down") {
			t.Errorf("found %+v", found)
		}
		if want := []int{3, 1, 2, 0}; !slices.Equal(g.order, want) {
			t.Errorf("order %v, want %v", g.order, want)
		}
		for _, from := range sources {
			if now := dial(t, g, from, "127.0.0.1"); now != before[from] {
				t.Fatalf("%s: after a shutdown %s goes to slot %d instead of %d", address, from, now, before[from])
			}
		}
	}
}

// The main thread is the tests' main goroutine's: /proc/net shows its namespace,
// and no test may leave it in another.
func init() { runtime.LockOSThread() }

// isolated moves the test into a network namespace of its own, where this user
// may make one. Only the test's own goroutine is in it.
func isolated(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the test's goroutine
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		t.Skipf("needs a network namespace of its own: unshare: %v (run as root)", err)
	}
	ip(t, "link", "set", "lo", "up")
}

// ip configures the namespace's network.
func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Skipf("needs ip (iproute2): ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// IPv6 clients are told apart by their /64, beside IPv4 ones on the same sockets.
func TestStickyIPv6InTheKernel(t *testing.T) {
	isolated(t)
	ip(t, "-6", "route", "add", "local", "2001:db8::/32", "dev", "lo")
	if err := os.WriteFile("/proc/sys/net/ipv6/ip_nonlocal_bind", []byte("1"), 0); err != nil {
		t.Skipf("needs to bind addresses that are routed here: %v", err)
	}
	g := group(t, config.Listen{Address: ":0", Steering: config.Sticky}, 4)
	reached := map[int]bool{}
	for i := range 100 {
		from := fmt.Sprintf("2001:db8:%x::1", i)
		want := int(run(t, g.program(), netip.MustParseAddr(from), nil))
		reached[want] = true
		if got := dial(t, g, from, "2001:db8::1"); got != want {
			t.Fatalf("%s goes to slot %d, the interpreter says %d", from, got, want)
		}
		if other := from[:len(from)-1] + "2:3"; dial(t, g, other, "2001:db8::1") != want {
			t.Fatalf("%s and %s, of one /64, go to two slots", from, other)
		}
		from = fmt.Sprintf("127.0.1.%d", i+1)
		if got := dial(t, g, from, "127.0.0.1"); got != int(run(t, g.program(), netip.MustParseAddr(from), nil)) {
			t.Fatalf("%s goes to slot %d", from, got)
		}
	}
	if len(reached) != 4 {
		t.Errorf("100 clients reached slots %v", reached)
	}
}

// A worker's doings are found and undone: a program where there is none, one of
// ours that is gone, a filter on a socket.
func TestMend(t *testing.T) {
	g := group(t, config.Listen{Address: "127.0.0.1:0"}, 3)
	finds := func(slot int, what string) {
		t.Helper()
		if found := g.Mend(); len(found) != 1 || found[0].Slot != slot || !strings.Contains(found[0].What, what) || found[0].Err != nil {
			t.Errorf("found %+v, want %q of slot %d", found, what, slot)
		}
		if found := g.Mend(); len(found) != 0 {
			t.Errorf("found again: %+v", found)
		}
	}
	if found := g.Mend(); len(found) != 0 {
		t.Errorf("found %+v, where nothing was done", found)
	}
	toFirst := []sys.Instruction{{Code: returnK}}
	if err := sys.AttachReuseport(g.Sockets()[2], toFirst); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if slot := dial(t, g, fmt.Sprintf("127.0.0.%d", i+1), "127.0.0.1"); slot != 0 {
			t.Fatalf("the control does not steer: slot %d", slot)
		}
	}
	finds(-1, "attached a steering program")
	reached := map[int]bool{}
	for i := 0; len(reached) < 3; i++ {
		if i == 500 {
			t.Fatalf("500 connections reached %v only", reached)
		}
		reached[dial(t, g, "127.0.0.1", "127.0.0.1")] = true
	}
	if err := sys.RefuseNew(g.Sockets()[1]); err != nil {
		t.Fatal(err)
	}
	finds(1, "attached a filter")

	// A program of ours that is gone is back, and is found out when it is due to go.
	if err := g.Steer([]int{1}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if i == 10 {
			if had, err := sys.DetachReuseport(g.Sockets()[0]); !had || err != nil {
				t.Fatal(had, err)
			}
			g.Mend()
		}
		if slot := dial(t, g, "127.0.0.1", "127.0.0.1"); slot != 1 {
			t.Fatalf("steered to slot 1, but got slot %d", slot)
		}
	}

	// After a full stop has begun, nothing is mended: the filter is ours.
	if err := g.RefuseNew(); err != nil {
		t.Fatal(err)
	}
	if found := g.Mend(); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
}

// Sockets that end together, unseen, leave the places of the others unknown; who
// can be known, is.
func TestReopened(t *testing.T) {
	for _, c := range []struct{ order, dead, want []int }{
		{[]int{0, 1, 2, 3}, []int{1}, []int{0, 3, 2, 1}},
		{[]int{0, 1, 2, 3}, []int{3}, []int{0, 1, 2, 3}},
		{[]int{2, 0, 1}, []int{2}, []int{1, 0, 2}},
		{[]int{0}, []int{0}, []int{0}},
		{[]int{0, 1}, []int{0, 1}, []int{0, 1}},
		{[]int{0, 1, 2}, []int{0, 1}, []int{2, 0, 1}},
		{[]int{0, 1, 2, 3}, []int{0, 1}, nil},
	} {
		if got := reopened(c.order, c.dead); !slices.Equal(got, c.want) {
			t.Errorf("%v without %v: %v, want %v", c.order, c.dead, got, c.want)
		}
	}
}

// One socket for all has no group to be steered, and is as exclusive.
func TestSharedAddress(t *testing.T) {
	g := group(t, config.Listen{Address: "127.0.0.1:0", Steering: config.Shared}, 3)
	first, _ := g.Socket(t.Context(), 0)
	if last, _ := g.Socket(t.Context(), 9); last != first || len(g.Sockets()) != 1 || !g.Shared() {
		t.Errorf("%d and %d of %v: want one socket", first, last, g.Sockets())
	}
	if _, err := Open(t.Context(), config.Listen{Address: g.Address, Steering: config.Shared}, false); err == nil {
		t.Error("a second owner was let in")
	}
	if steering, slots, why := g.Steering(); steering != config.Shared || slots != nil || why != "" {
		t.Errorf("told: %s, %v, %q", steering, slots, why)
	}
}

// Who joins a dead master's sockets does not know their places, and says so.
func TestJoinedIsSpread(t *testing.T) {
	old := group(t, config.Listen{Address: "127.0.0.1:0", Steering: config.Sticky}, 2)
	g, err := Open(t.Context(), config.Listen{Address: old.Address, Steering: config.Sticky}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	steering, _, why := g.Steering()
	if steering != config.Spread || !strings.Contains(why, "a killed master left") {
		t.Errorf("told: %s, %q", steering, why)
	}
	if had, _ := sys.DetachReuseport(old.Sockets()[0]); had {
		t.Error("the dead master's program steers on")
	}
	if found := g.Mend(); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
}

func TestBusiest(t *testing.T) {
	g := group(t, config.Listen{Address: "127.0.0.1:0", Steering: config.Sticky}, 1)
	for _, from := range []string{"127.0.0.5", "127.0.0.6", "127.0.0.5"} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.Dial("tcp", g.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fd, err := sys.Accept(g.Sockets()[0])
		if err != nil {
			t.Fatal(err)
		}
		defer sys.Close(fd)
	}
	source, n, of, err := Busiest(g.Address)
	if err != nil || source.String() != "127.0.0.5/32" || n != 2 || of != 3 {
		t.Errorf("%v has %d of %d, %v; want 127.0.0.5/32 with 2 of 3", source, n, of, err)
	}
}

// A locked filter cannot be taken off, which is told once; steering goes on.
func TestLockedFilterIsTold(t *testing.T) {
	g := group(t, config.Listen{Address: "127.0.0.1:0", Steering: config.Sticky}, 2)
	const lockFilter = 44 // SO_LOCK_FILTER of asm-generic/socket.h
	if err := sys.RefuseNew(g.Sockets()[0]); err != nil {
		t.Fatal(err)
	}
	if err := syscall.SetsockoptInt(g.Sockets()[0], syscall.SOL_SOCKET, lockFilter, 1); err != nil {
		t.Fatal(err)
	}
	if found := g.Mend(); len(found) != 1 || found[0].Slot != 0 || found[0].Err == nil {
		t.Errorf("found %+v", found)
	}
	if found := g.Mend(); len(found) != 0 {
		t.Errorf("found again %+v", found)
	}
	if err := g.Steer([]int{1}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if slot := dial(t, g, fmt.Sprintf("127.0.0.%d", i+1), "127.0.0.1"); slot != 1 {
			t.Errorf("slot %d", slot)
		}
	}
}

// Sockets that stand for slots: each slot's clients go to the socket that stands for
// it, and to no spare one.
func TestSteerSockets(t *testing.T) {
	g := &Group{network: "tcp", asked: config.Sticky, order: []int{0, 1, 2}}
	place := func(slots map[int]int, source string) uint32 {
		t.Helper()
		_ = g.SteerSockets(slots) // it has no socket that a program could be attached to
		return run(t, g.program(), netip.MustParseAddr(source), nil)
	}
	moved, seen := 0, map[uint32]bool{}
	for n := range 200 {
		source := fmt.Sprintf("10.0.0.%d", n)
		before := place(map[int]int{0: 0, 1: 1}, source)
		after := place(map[int]int{2: 0, 1: 1}, source)
		seen[after] = true
		if before == 0 && after != 2 || before == 1 && after != 1 {
			moved++
		}
	}
	if moved > 0 || seen[0] || !seen[1] || !seen[2] {
		t.Errorf("%d clients of 200 lost their slot; sockets %v are used", moved, seen)
	}
	if steering, slots, why := g.Steering(); steering != config.Sticky || !slices.Equal(slots, []int{0, 1}) || why != "" {
		t.Errorf("%s over %v: %q", steering, slots, why)
	}
}
