package ipc

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/internal/sys"

	"github.com/google/go-cmp/cmp"
)

func pair(t *testing.T) (ours, theirs *Conn) {
	t.Helper()
	ours, fd, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func TestMessagesAndDescriptorsArriveAsSent(t *testing.T) {
	ours, theirs := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sent := Message{
		Kind:    Welcome,
		Life:    &Life{App: "api", Slot: 1, ID: 7, Generation: 2, Procs: 1, Drain: 30 * time.Second},
		Listen:  []Listen{{Name: "web", Address: "[::]:3000"}},
		Sockets: []Socket{{Listen: 0, Slot: 1}},
	}
	if err := ours.Send(sent, int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	w.Close()
	got, fds, err := theirs.Receive()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sent, got); diff != "" {
		t.Errorf("message changed on its way (-sent +got):\n%s", diff)
	}
	if len(fds) != 1 {
		t.Fatalf("%d descriptors arrived, sent 1", len(fds))
	}
	f := os.NewFile(uintptr(fds[0]), "pipe")
	if _, err := f.WriteString("through"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if data, err := io.ReadAll(r); string(data) != "through" || err != nil {
		t.Errorf("read %q, %v from the pipe whose end was sent", data, err)
	}
}

func TestBadPacketsAreProtocolErrorsAndTheChannelWorksOn(t *testing.T) {
	for name, packet := range map[string]string{
		"empty packet":         "",
		"mail of no frame":     "\x01",
		"no credit":            "\x02\x00",
		"much credit":          "\x02\xff\xff\xff\xff\x0f",
		"half a credit":        "\x02\x80",
		"mail as JSON":         `{"kind":"mail"}`,
		"no JSON":              "hello",
		"unknown kind":         `{"kind":"bye"}`,
		"unknown field":        `{"kind":"ready","wages":1}`,
		"two objects":          `{"kind":"ready"}{"kind":"ready"}`,
		"welcome to nobody":    `{"kind":"welcome"}`,
		"socket of no address": `{"kind":"welcome","life":{"id":1},"sockets":[{"listen":3}]}`,
		"hello of no address":  `{"kind":"hello","listen":[{"name":"web"}]}`,
		"oversize packet":      strings.Repeat(" ", MaxPacket) + `{"kind":"ready"}`,
	} {
		t.Run(name, func(t *testing.T) {
			a, b, err := sys.SeqpacketPair()
			if err != nil {
				t.Fatal(err)
			}
			defer sys.Close(a)
			conn, err := Open(b)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			before := descriptorsOf(t, r)
			if err := sys.SendPacket(a, []byte(packet), []int{int(r.Fd())}[:min(1, len(packet))]); err != nil {
				t.Fatal(err)
			}
			_, _, err = conn.Receive()
			if !errors.As(err, new(ProtocolError)) {
				t.Fatalf("Receive: %v, want a ProtocolError", err)
			}
			if after := descriptorsOf(t, r); after != before {
				t.Errorf("%d descriptors of the pipe are open, %d before the bad packet brought one", after, before)
			}
			if err := sys.SendPacket(a, []byte(`{"kind":"ready"}`), nil); err != nil {
				t.Fatal(err)
			}
			if m, _, err := conn.Receive(); m.Kind != Ready || err != nil {
				t.Errorf("after it Receive gives %+v, %v, want ready", m, err)
			}
		})
	}
}

// descriptorsOf counts this process' descriptors of what f is one of. Others
// come and go meanwhile: the garbage collector closes forgotten files.
func descriptorsOf(t *testing.T, f *os.File) int {
	t.Helper()
	wanted, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, link := range links {
		if found, err := os.Stat(link); err == nil && os.SameFile(wanted, found) {
			n++
		}
	}
	return n
}

func TestEndIsEOFAfterWhatWasQueued(t *testing.T) {
	ours, theirs := pair(t)
	if err := theirs.Send(Message{Kind: Closed}); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if m, _, err := ours.Receive(); m.Kind != Closed || err != nil {
		t.Fatalf("first Receive: %+v, %v", m, err)
	}
	if _, _, err := ours.Receive(); err != io.EOF {
		t.Fatalf("Receive at the end: %v, want io.EOF", err)
	}
}

func TestUnreadIsWhatThePeerHasNotRead(t *testing.T) {
	ours, theirs := pair(t)
	if ours.Unread() {
		t.Error("nothing was sent")
	}
	if err := ours.Send(Message{Kind: Drain}); err != nil {
		t.Fatal(err)
	}
	if !ours.Unread() {
		t.Error("what was sent was read by nobody")
	}
	if _, _, err := theirs.Receive(); err != nil {
		t.Fatal(err)
	}
	if ours.Unread() {
		t.Error("all was read")
	}
}

func TestHurryGivesWhatIsQueuedThenFails(t *testing.T) {
	ours, theirs := pair(t)
	for range 3 {
		if err := theirs.Send(Message{Kind: Ready}); err != nil {
			t.Fatal(err)
		}
	}
	ours.Hurry()
	for i := range 3 {
		if _, _, err := ours.Receive(); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	if _, _, err := ours.Receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Receive from an empty queue: %v, want os.ErrDeadlineExceeded", err)
	}
}

func TestSendNeverWaitsForAPeerThatDoesNotRead(t *testing.T) {
	ours, _ := pair(t)
	for i := range 100_000 {
		if err := ours.Send(Message{Kind: Drain, Final: true}); err != nil {
			if !errors.Is(err, ErrNotReading) {
				t.Fatalf("message %d: %v, want ErrNotReading", i, err)
			}
			return
		}
	}
	t.Fatal("100,000 messages were taken by a peer that reads none")
}

func TestOpenRefusesWhatIsNoChannel(t *testing.T) {
	r, w, _ := os.Pipe()
	defer r.Close()
	defer w.Close()
	if _, err := Open(int(r.Fd())); err == nil || !strings.Contains(err.Error(), "SOCK_SEQPACKET") {
		t.Errorf("Open of a pipe: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"kind":"hello","version":1,"listen":[{"name":"a","address":":1"}]}`))
	f.Add([]byte(`{"kind":"welcome","life":{"id":1},"listen":[{"name":"a","address":":1"}],"sockets":[{"listen":0,"slot":1}]}`))
	f.Add([]byte(`{"kind":"drain","final":true}`))
	f.Add([]byte{})
	f.Add([]byte("\x02\x80\x80\x01"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		m, err := Decode(packet)
		if err != nil || m.Kind == Mail {
			return // FuzzNextFrame reads that
		}
		if m.Kind == Credit {
			if m.Credit < 1 || m.Credit > window {
				t.Fatalf("a credit of %d", m.Credit)
			}
			return
		}
		again, err := Encode(m)
		if err != nil {
			return // its JSON may be longer than what it came as
		}
		back, err := Decode(again)
		if err != nil {
			t.Fatalf("%q decodes, but what it encodes to, %q, does not: %v", packet, again, err)
		}
		if diff := cmp.Diff(m, back, cmp.Transformer("len", func(l []Listen) []Listen { return append([]Listen{}, l...) }),
			cmp.Transformer("len", func(s []Socket) []Socket { return append([]Socket{}, s...) })); diff != "" {
			t.Fatalf("decode, encode, decode changed it:\n%s", diff)
		}
	})
}
