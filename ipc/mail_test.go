package ipc

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every frame arrives as it was sent, in order, many in a packet; and what was
// not read is not sent beyond the credit, which leaves room for words.
func TestMailArrivesInOrderWithinCredit(t *testing.T) {
	ours, theirs := pair(t)
	var out Outbox
	var sent []Frame
	for i := 0; ; i++ {
		f := Frame{Kind: Published, Slot: i, Life: uint64(i) << 40, Topic: []byte("topic"), Data: bytes.Repeat([]byte{byte(i)}, i*37%MaxData)}
		if !out.Add(f) {
			break
		}
		sent = append(sent, f)
	}
	if w := out.Waiting(); w > MaxOutbox || w < MaxOutbox-2*MaxPacket {
		t.Errorf("%d bytes wait in a full outbox of %d", w, MaxOutbox)
	}
	if err := out.Flush(ours); err != nil {
		t.Fatal(err)
	}
	if w := out.Waiting(); w < MaxOutbox-window {
		t.Errorf("%d bytes wait after the first flush: more than the credit was sent", w)
	}
	for range 100 {
		if err := ours.Send(Message{Kind: Foster, Slot: 1, On: true}); err != nil {
			t.Fatalf("no room for words beside mail: %v", err)
		}
	}
	var debt Debt
	packets, words := 0, 0
	for next := 0; next < len(sent); {
		m, _, err := theirs.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == Foster {
			words++
			continue
		}
		packets++
		for rest := m.Mail; len(rest) > 0; next++ {
			var f Frame
			if f, rest, err = NextFrame(rest); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(sent[next], f, cmp.Transformer("bytes", func(b []byte) string { return string(b) })); diff != "" {
				t.Fatalf("frame %d changed on its way:\n%s", next, diff)
			}
		}
		debt.Read(m, theirs)
		ours.Hurry()
		for m, _, err := ours.Receive(); err == nil; m, _, err = ours.Receive() {
			if err := out.Credited(m.Credit); err != nil {
				t.Fatal(err)
			}
		}
		if err := out.Flush(ours); err != nil {
			t.Fatal(err)
		}
	}
	if words != 100 || out.Waiting() != 0 {
		t.Errorf("%d words came, %d bytes still wait", words, out.Waiting())
	}
	if most := 2 * MaxOutbox / MaxPacket; packets > most {
		t.Errorf("%d packets, want at most %d", packets, most)
	}
}

// The worst that credit allows, packets of any one size: there is room for words
// always.
func TestCreditFitsTheSocket(t *testing.T) {
	for _, size := range []int{1, 100, 300, 1000, 3000, 5000, 9000, 17_000, 33_000, MaxData} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			ours, _ := pair(t)
			var out Outbox
			packets := 0
			for waiting := 0; waiting == 0; packets++ {
				out.Add(Frame{Kind: Direct, Data: make([]byte, size)})
				if err := out.Flush(ours); err != nil {
					t.Fatal(err)
				}
				waiting = out.Waiting()
			}
			for word := range 100 {
				if err := ours.Send(Message{Kind: Drain}); err != nil {
					t.Fatalf("after %d packets, word %d: %v", packets-1, word, err)
				}
			}
		})
	}
}

func TestCreditThatIsNotOwedIsRefused(t *testing.T) {
	var out Outbox
	if err := out.Credited(1); err == nil {
		t.Error("credit for nothing was taken")
	}
}

func TestSendOfMailToNobodyKeepsIt(t *testing.T) {
	ours, theirs := pair(t)
	theirs.Close()
	var out Outbox
	out.Add(Frame{Kind: Direct, Data: []byte("x")})
	if err := out.Flush(ours); err == nil || errors.Is(err, ErrNotReading) {
		t.Errorf("Flush: %v", err)
	}
	if out.Waiting() == 0 {
		t.Error("what was not sent does not wait")
	}
}

func TestFrameThatNobodyTakesPanics(t *testing.T) {
	for _, f := range []Frame{
		{}, {Kind: Direct, Topic: []byte("x")}, {Kind: Published}, {Kind: Direct, Slot: -1},
		{Kind: Direct, Data: make([]byte, MaxData+1)}, {Kind: Subscribe, Topic: make([]byte, MaxTopic+1)},
		{Kind: Unsubscribe, Topic: []byte("x"), Data: []byte("y")}, {Kind: 9, Topic: []byte("x")},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+.40v was taken", f)
				}
			}()
			new(Outbox).Add(f)
		}()
	}
}

func FuzzNextFrame(f *testing.F) {
	f.Add(appendFrame(nil, Frame{Kind: Direct, Slot: 3, Life: 1 << 40, Data: []byte("data")})[1:])
	f.Add(appendFrame(appendFrame(nil, Frame{Kind: Subscribe, Topic: []byte("t")}), Frame{Kind: Published, Topic: []byte("t"), Data: []byte("x")})[1:])
	f.Add([]byte{byte(Direct), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	f.Add([]byte{byte(Direct), 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, mail []byte) {
		for rest := mail; len(rest) > 0; {
			frame, after, err := NextFrame(rest)
			if err != nil {
				return
			}
			if len(after) >= len(rest) {
				t.Fatal("a frame of no length")
			}
			again, none, err := NextFrame(appendFrame(nil, frame)[1:])
			if err != nil || len(none) != 0 {
				t.Fatalf("%+v does not come back: %v, %q", frame, err, none)
			}
			if diff := cmp.Diff(frame, again, cmp.Transformer("bytes", func(b []byte) string { return string(b) })); diff != "" {
				t.Fatalf("it changes:\n%s", diff)
			}
			rest = after
		}
	})
}
