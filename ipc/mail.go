package ipc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The users' messages are many and small, so they travel in packets of their
// own kind: a mark that no JSON object begins with, and then frame after frame,
// as many as were waiting. How many bytes of them may be on their way to a peer
// is its credit, which leaves room in the socket for the words of above: these
// are heard however much mail there is.
const (
	mailMark   = 1 // then frames
	creditMark = 2 // then a uvarint: so much is read, and may be sent again
)

const (
	// MaxData bounds the data of a user's message, in bytes.
	MaxData = 60 << 10
	// MaxTopic bounds a topic's name, in bytes.
	MaxTopic = 255

	// window is the credit to begin with. It and the socket's own words fit the
	// send buffer that sys.SeqpacketPair asks for.
	window = 192 << 10
	// MaxOutbox bounds what waits for credit, in bytes.
	MaxOutbox = 2 << 20
)

// FrameKind says what a frame is about.
type FrameKind byte

const (
	Direct      FrameKind = iota + 1 // Data for the newest life of Slot, or for Life, where that is not 0
	Published                        // Data for all who subscribed to Topic
	Subscribe                        // what is published to Topic shall come here
	Unsubscribe                      // no more
)

// Frame is a user's message. From a worker to its master Slot and Life are whom
// it is for; from a master to its worker they are whom it is from.
type Frame struct {
	Kind  FrameKind
	Slot  int
	Life  uint64
	Topic []byte
	Data  []byte
}

// check refuses what no peer of this version can mean.
func (f Frame) check() error {
	switch {
	case f.Kind < Direct || f.Kind > Unsubscribe:
		return fmt.Errorf("a frame of unknown kind %d", f.Kind)
	case f.Slot < 0 || f.Slot > math.MaxInt32:
		return fmt.Errorf("a frame of slot %d", uint(f.Slot))
	case (f.Kind == Direct) != (len(f.Topic) == 0), len(f.Topic) > MaxTopic:
		return fmt.Errorf("a frame of kind %d with a topic of %d bytes", f.Kind, len(f.Topic))
	case f.Kind > Published && len(f.Data) > 0, len(f.Data) > MaxData:
		return fmt.Errorf("a frame of kind %d with %d bytes of data", f.Kind, len(f.Data))
	}
	return nil
}

// appendFrame appends a frame to a packet, which it begins where that is empty.
func appendFrame(packet []byte, f Frame) []byte {
	if len(packet) == 0 {
		packet = append(packet, mailMark)
	}
	packet = append(packet, byte(f.Kind))
	packet = binary.AppendUvarint(packet, uint64(f.Slot))
	packet = binary.AppendUvarint(packet, f.Life)
	packet = binary.AppendUvarint(packet, uint64(len(f.Topic)))
	packet = append(packet, f.Topic...)
	packet = binary.AppendUvarint(packet, uint64(len(f.Data)))
	return append(packet, f.Data...)
}

// mostOf is what a frame takes of a packet at most.
func mostOf(f Frame) int { return len(f.Topic) + len(f.Data) + 25 }

// NextFrame cuts the first frame off a message's mail. The frame's topic and
// data lie in the mail's memory. After an error nothing of the rest can be read.
func NextFrame(mail []byte) (f Frame, rest []byte, err error) {
	if len(mail) == 0 {
		return Frame{}, nil, errors.New("a frame without a byte")
	}
	f.Kind, rest = FrameKind(mail[0]), mail[1:]
	ok := true
	number := func() uint64 {
		n, size := binary.Uvarint(rest)
		if size <= 0 {
			ok = false
			return 0
		}
		rest = rest[size:]
		return n
	}
	bytes := func() []byte {
		n := number()
		if !ok || n > uint64(len(rest)) {
			ok = false
			return nil
		}
		b := rest[:n:n]
		rest = rest[n:]
		return b
	}
	f.Slot = int(min(number(), math.MaxInt64))
	f.Life = number()
	f.Topic = bytes()
	f.Data = bytes()
	if !ok {
		return Frame{}, nil, fmt.Errorf("a frame that is cut short: %.80q", mail)
	}
	if err := f.check(); err != nil {
		return Frame{}, nil, err
	}
	return f, rest, nil
}

// cost is what a packet takes of the credit: more than the kernel charges the
// sender's buffer for it, whose allocations round up (net/core/skbuff.c,
// alloc_skb_with_frags: up to 16 KiB in one piece, then pages).
func cost(packet int) int { return packet + min(packet, 16<<10) + 1<<10 }

// Outbox is the mail that waits to be sent to a peer. Its zero value is empty,
// with all credit. Its owner sees to it that one goroutine at a time uses it.
type Outbox struct {
	packets [][]byte // each of at most MaxPacket, none empty
	bytes   int      // in them
	spent   int      // of the credit
	spare   []byte   // memory of a packet that was sent
}

// Waiting is how many bytes wait.
func (o *Outbox) Waiting() int { return o.bytes }

// Add puts a frame behind those that wait. It reports false, and does nothing,
// when MaxOutbox would be exceeded. The frame's memory stays the caller's. A
// frame that no peer would take is a bug of the caller's, and panics.
func (o *Outbox) Add(f Frame) bool {
	if err := f.check(); err != nil {
		panic("ipc: " + err.Error())
	}
	most := mostOf(f)
	if o.bytes+most > MaxOutbox {
		return false
	}
	last := len(o.packets) - 1
	if last < 0 || len(o.packets[last])+most > MaxPacket {
		o.packets = append(o.packets, o.spare[:0])
		o.spare = nil
		last++
	}
	before := len(o.packets[last])
	o.packets[last] = appendFrame(o.packets[last], f)
	o.bytes += len(o.packets[last]) - before
	return true
}

// Flush sends what the credit allows, without waiting. When its error is
// ErrNotReading what was not sent still waits, for the next Flush.
func (o *Outbox) Flush(c *Conn) error {
	for len(o.packets) > 0 {
		packet := o.packets[0]
		if o.spent+cost(len(packet)) > window {
			return nil
		}
		if err := c.send(packet, nil); err != nil {
			return fmt.Errorf("send mail: %w", err)
		}
		o.spent += cost(len(packet))
		o.bytes -= len(packet)
		o.packets[0], o.packets = nil, o.packets[1:]
		o.spare = packet
	}
	o.packets = nil
	return nil
}

// Credited takes credit back from the peer. Its error says that the peer gives
// what it was not owed.
func (o *Outbox) Credited(n int) error {
	if n > o.spent {
		return fmt.Errorf("a credit of %d bytes, but only %d were sent", n, o.spent)
	}
	o.spent -= n
	return nil
}

// Debt is the credit that a peer is owed for mail that was read. Its zero value
// is none. One goroutine uses it.
type Debt struct{ owed int }

// Read notes a message's mail, and gives credit back when there is a good part
// of it. A peer that does not read gets it the next time; that one is gone is
// seen by whoever receives.
func (d *Debt) Read(m Message, c *Conn) {
	d.owed += cost(1 + len(m.Mail))
	if d.owed < window/4 {
		return
	}
	if c.send(binary.AppendUvarint([]byte{creditMark}, uint64(d.owed)), nil) == nil {
		d.owed = 0
	}
}

// decodeMail reads a packet that begins with one of the marks of above.
func decodeMail(packet []byte) (Message, error) {
	if packet[0] == mailMark {
		if len(packet) == 1 {
			return Message{}, errors.New("decode packet: mail without a frame")
		}
		return Message{Kind: Mail, Mail: packet[1:]}, nil
	}
	n, size := binary.Uvarint(packet[1:])
	if size != len(packet)-1 || n == 0 || n > window {
		return Message{}, fmt.Errorf("decode packet %.80q: no credit from 1 to %d", packet, window)
	}
	return Message{Kind: Credit, Credit: int(n)}, nil
}
