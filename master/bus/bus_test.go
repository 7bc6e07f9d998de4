package bus

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"drover/ipc"
)

// herd is a bus and the workers' ends of its members' channels.
type herd struct {
	t    *testing.T
	bus  *Bus
	ends map[uint64]*ipc.Conn
	full []uint64
}

func newHerd(t *testing.T) *herd {
	h := &herd{t: t, ends: map[uint64]*ipc.Conn{}}
	h.bus = New(func(_ int, life uint64) { h.full = append(h.full, life) })
	return h
}

func (h *herd) join(slot int, life uint64) {
	h.t.Helper()
	ours, fd, err := ipc.Pair()
	if err != nil {
		h.t.Fatal(err)
	}
	theirs, err := ipc.Open(fd)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { ours.Close(); theirs.Close() })
	h.ends[life] = theirs
	h.bus.Join(slot, life, ours)
}

// mail is the mail of a message with these frames.
func mail(t *testing.T, frames ...ipc.Frame) []byte {
	t.Helper()
	ours, fd, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := ipc.Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	var out ipc.Outbox
	for _, f := range frames {
		if !out.Add(f) {
			t.Fatal("no room")
		}
	}
	if err := out.Flush(ours); err != nil {
		t.Fatal(err)
	}
	m, _, err := theirs.Receive()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(m.Mail)
}

func (h *herd) say(life uint64, frames ...ipc.Frame) {
	h.t.Helper()
	if err := h.bus.Take(life, mail(h.t, frames...)); err != nil {
		h.t.Fatal(err)
	}
}

// hear is what has come to a life, as "slot/life topic:data".
func (h *herd) hear(life uint64) []string {
	h.t.Helper()
	var heard []string
	h.ends[life].Hurry()
	for {
		m, _, err := h.ends[life].Receive()
		if err != nil {
			return heard
		}
		for rest := m.Mail; len(rest) > 0; {
			var f ipc.Frame
			if f, rest, err = ipc.NextFrame(rest); err != nil {
				h.t.Fatal(err)
			}
			heard = append(heard, fmt.Sprintf("%d/%d %s:%s", f.Slot, f.Life, f.Topic, f.Data))
		}
	}
}

func (h *herd) expect(life uint64, want ...string) {
	h.t.Helper()
	if got := h.hear(life); !slices.Equal(got, want) {
		h.t.Errorf("life %d hears %q, want %q", life, got, want)
	}
}

func direct(slot int, life uint64, data string) ipc.Frame {
	return ipc.Frame{Kind: ipc.Direct, Slot: slot, Life: life, Data: []byte(data)}
}
func published(topic, data string) ipc.Frame {
	return ipc.Frame{Kind: ipc.Published, Topic: []byte(topic), Data: []byte(data)}
}
func on(topic string) ipc.Frame  { return ipc.Frame{Kind: ipc.Subscribe, Topic: []byte(topic)} }
func off(topic string) ipc.Frame { return ipc.Frame{Kind: ipc.Unsubscribe, Topic: []byte(topic)} }

func TestASlotsMessagesGoToWhoServesIt(t *testing.T) {
	h := newHerd(t)
	h.join(0, 1)
	h.join(1, 2)
	h.say(1, direct(1, 0, "before it is ready"))
	h.expect(2, "0/1 :before it is ready")
	h.bus.Ready(2)
	h.join(1, 3) // its successor comes
	h.say(1, direct(1, 0, "a"), direct(1, 0, "b"), direct(0, 3, "to the successor"))
	h.expect(2, "0/1 :a", "0/1 :b")
	h.expect(3, "0/1 :to the successor")
	h.bus.Ready(3)
	h.say(1, direct(1, 0, "c"))
	h.expect(2)
	h.expect(3, "0/1 :c")
	h.bus.Leave(3)
	h.say(1, direct(1, 0, "d"), direct(0, 3, "to the dead"), direct(5, 0, "to nobody"))
	h.expect(2, "0/1 :d")
	if n := h.bus.Dropped(1); n != 2 {
		t.Errorf("%d dropped, want 2", n)
	}
	h.bus.Leave(1)
	if n, past := h.bus.Dropped(1), h.bus.DroppedByThePast(); n != 0 || past != 2 {
		t.Errorf("after its end: %d dropped, and %d by the past, want 0 and 2", n, past)
	}
	if err := h.bus.Take(1, mail(t, direct(1, 0, "late"))); err == nil || !strings.Contains(err.Error(), "before a hello") {
		t.Errorf("mail of no member: %v", err)
	}
}

func TestPublishedGoesToSubscribersInOrder(t *testing.T) {
	h := newHerd(t)
	for life := range uint64(3) {
		h.join(int(life), life+1)
	}
	h.say(1, on("x"), on("x"), published("x", "1"))
	h.say(2, on("x"), on("y"), published("x", "2"), published("y", "3"), off("x"), published("x", "4"))
	h.say(3, published("x", "5"), published("z", "nobody's"))
	h.expect(1, "0/1 x:1", "1/2 x:2", "1/2 x:4", "2/3 x:5")
	h.expect(2, "1/2 x:2", "1/2 y:3")
	h.expect(3)
	for life := range uint64(3) {
		if n := h.bus.Dropped(life + 1); n != 0 {
			t.Errorf("%d dropped of life %d", n, life+1)
		}
		h.bus.Leave(life + 1)
	}
	if len(h.bus.topics) != 0 || len(h.bus.members) != 0 {
		t.Errorf("left behind: %v, %v", h.bus.topics, h.bus.members)
	}
}

func TestTopicsAreBounded(t *testing.T) {
	h := newHerd(t)
	h.join(0, 1)
	for i := range MaxTopics {
		h.say(1, on(fmt.Sprint(i)))
	}
	if err := h.bus.Take(1, mail(t, on("one more"))); err == nil {
		t.Error("one topic more than allowed was taken")
	}
	h.say(1, off("7"), on("one more"))
}

// A member that does not read costs its own messages, once its outbox is full:
// the newest. When it reads again, the older ones come, in order.
func TestWhoDoesNotReadLosesTheNewest(t *testing.T) {
	h := newHerd(t)
	h.join(0, 1)
	h.join(1, 2)
	h.join(2, 3)
	data := strings.Repeat("x", 10_000)
	sent := 0
	for h.bus.Dropped(2) < 3 {
		h.say(1, direct(1, 0, fmt.Sprintf("%06d%s", sent, data)), direct(2, 0, "others hear"))
		sent++
		if sent > 2000 {
			t.Fatal("20 MB were kept")
		}
	}
	if !slices.Equal(h.full, []uint64{2}) {
		t.Errorf("told of %v, want life 2, once", h.full)
	}
	if err := h.bus.Credit(2, 1<<20); err == nil {
		t.Error("credit that was not owed is taken")
	}
	if got := len(h.hear(3)); got == 0 {
		t.Error("the others heard nothing")
	}
	var debt ipc.Debt
	for next := 0; next < sent-3; {
		h.ends[2].Hurry()
		m, _, err := h.ends[2].Receive()
		if err != nil {
			t.Fatalf("%d of %d came: %v", next, sent-3, err)
		}
		for rest := m.Mail; len(rest) > 0; next++ {
			var f ipc.Frame
			if f, rest, err = ipc.NextFrame(rest); err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(string(f.Data), fmt.Sprintf("%06d", next)) {
				t.Fatalf("%.6s came, when %06d was due", f.Data, next)
			}
		}
		debt.Read(m, h.ends[2])
		ours := h.bus.members[2].conn
		ours.Hurry()
		for m, _, err := ours.Receive(); err == nil; m, _, err = ours.Receive() {
			if err := h.bus.Credit(2, m.Credit); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func BenchmarkTake(b *testing.B) {
	// One packet of 1,000 small messages, to a member that reads.
	h := &herd{ends: map[uint64]*ipc.Conn{}}
	h.bus = New(func(int, uint64) {})
	ours, fd, err := ipc.Pair()
	if err != nil {
		b.Fatal(err)
	}
	theirs, err := ipc.Open(fd)
	if err != nil {
		b.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	h.bus.Join(0, 1, ours)
	var packet []byte
	{
		var out ipc.Outbox
		for range 1000 {
			out.Add(direct(0, 1, "32 bytes of data, more or less.."))
		}
		if err := out.Flush(theirs); err != nil {
			b.Fatal(err)
		}
		m, _, err := ours.Receive()
		if err != nil {
			b.Fatal(err)
		}
		packet = slices.Clone(m.Mail)
	}
	var debt ipc.Debt
	for b.Loop() {
		if err := h.bus.Take(1, packet); err != nil {
			b.Fatal(err)
		}
		m, _, err := theirs.Receive()
		if err != nil {
			b.Fatal(err)
		}
		debt.Read(m, theirs)
		ours.Hurry()
		if m, _, err := ours.Receive(); err == nil {
			if err := h.bus.Credit(1, m.Credit); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/message")
}
