// Package bus carries the users' messages from worker to worker: to the life
// that serves a slot, to one life, or to all that subscribed to a topic. It
// reads them where the master hears a worker, and passes by the master's loop.
//
// Nobody is ever waited for. What a member's credit does not allow waits in its
// own outbox, of ipc.MaxOutbox bytes; a message that does not fit there is
// dropped, the older ones stay, and the drop is counted. Messages of one sender
// to one receiver keep their order.
package bus

import (
	"errors"
	"fmt"
	"sync"

	"drover/ipc"
)

// MaxTopics is how many topics one life can subscribe to.
const MaxTopics = 1024

// Bus knows the lives that have joined. Its methods may be called from any
// goroutine. Its mutex is held for work in memory and for sends that do not
// wait: the lives' readers meet here, each with a whole packet of messages.
type Bus struct {
	full func(slot int, life uint64)

	mu      sync.Mutex
	members map[uint64]*member
	slots   map[int][]*member // oldest first
	topics  map[string][]*member
	dirty   []*member // have mail since the lock was taken
	past    uint64    // messages dropped of lives that are gone
}

// member is a life that has joined.
type member struct {
	slot    int
	life    uint64
	conn    *ipc.Conn
	ready   bool
	topics  map[string]bool
	out     ipc.Outbox
	dropped uint64 // messages
	dirty   bool   // it is in the bus's dirty

	dropping, told bool // until half of its outbox is free: messages to it are dropped, and that was told
}

// New makes a bus without members. full is told when a member's messages begin
// to be dropped, since it does not take them. It may be told from several
// goroutines at once.
func New(full func(slot int, life uint64)) *Bus {
	return &Bus{full: full, members: map[uint64]*member{}, slots: map[int][]*member{}, topics: map[string][]*member{}}
}

// Join makes a life a member, above all of its slot in ID. The connection stays
// the caller's, and must be open until Leave.
func (b *Bus) Join(slot int, life uint64, conn *ipc.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := &member{slot: slot, life: life, conn: conn, topics: map[string]bool{}}
	b.members[life] = m
	b.slots[slot] = append(b.slots[slot], m)
}

// Ready has what is sent to the life's slot go to the life from now on.
func (b *Bus) Ready(life uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.members[life]; m != nil {
		m.ready = true
	}
}

// Leave ends a membership. What waits for the life is dropped.
func (b *Bus) Leave(life uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.members[life]
	if m == nil {
		return
	}
	for topic := range m.topics {
		b.topics[topic] = without(b.topics[topic], m)
		if len(b.topics[topic]) == 0 {
			delete(b.topics, topic)
		}
	}
	b.slots[m.slot] = without(b.slots[m.slot], m)
	delete(b.members, life)
	b.past += m.dropped
}

// Dropped is how many messages to a life, or of it to nobody, were dropped.
func (b *Bus) Dropped(life uint64) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.members[life]; m != nil {
		return m.dropped
	}
	return 0
}

// DroppedByThePast is the same of all lives that have left.
func (b *Bus) DroppedByThePast() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.past
}

// Take delivers the mail of a message that a life has sent. Its error says what
// is wrong with the mail, of which what came before is delivered.
func (b *Bus) Take(life uint64, mail []byte) error {
	return b.locked(life, func(from *member) error {
		for len(mail) > 0 {
			f, rest, err := ipc.NextFrame(mail)
			if err != nil {
				return err
			}
			mail = rest
			if err := b.deliver(from, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// Credit takes credit that a life gives back. Its error says that it was not
// owed.
func (b *Bus) Credit(life uint64, n int) error {
	return b.locked(life, func(m *member) error {
		b.touch(m)
		return m.out.Credited(n)
	})
}

// locked does something for a member, and then sends what that put into
// members' outboxes.
func (b *Bus) locked(life uint64, do func(m *member) error) error {
	var full []*member
	defer func() {
		for _, m := range full {
			b.full(m.slot, m.life)
		}
	}()
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.members[life]
	if m == nil {
		return errors.New("mail before a hello")
	}
	err := do(m)
	for _, d := range b.dirty {
		d.dirty = false
		if d.dropping && !d.told {
			d.told = true
			full = append(full, d)
		}
		// What cannot be sent now waits. One that is gone will leave.
		_ = d.out.Flush(d.conn)
		if d.out.Waiting() < ipc.MaxOutbox/2 {
			d.dropping, d.told = false, false
		}
	}
	b.dirty = b.dirty[:0]
	return err
}

// deliver does what a frame says.
func (b *Bus) deliver(from *member, f ipc.Frame) error {
	switch f.Kind {
	case ipc.Direct:
		to := b.members[f.Life]
		if f.Life == 0 {
			to = b.serving(f.Slot)
		}
		if to == nil {
			from.dropped++
			return nil
		}
		b.put(to, from, f)
	case ipc.Published:
		for _, to := range b.topics[string(f.Topic)] {
			b.put(to, from, f)
		}
	case ipc.Subscribe:
		topic := string(f.Topic)
		if from.topics[topic] {
			return nil
		}
		if len(from.topics) == MaxTopics {
			return fmt.Errorf("it subscribes to more than %d topics", MaxTopics)
		}
		from.topics[topic] = true
		b.topics[topic] = append(b.topics[topic], from)
	case ipc.Unsubscribe:
		topic := string(f.Topic)
		if !from.topics[topic] {
			return nil
		}
		delete(from.topics, topic)
		if b.topics[topic] = without(b.topics[topic], from); len(b.topics[topic]) == 0 {
			delete(b.topics, topic)
		}
	}
	return nil
}

// put puts a message into a member's outbox, or drops it.
func (b *Bus) put(to, from *member, f ipc.Frame) {
	f.Slot, f.Life = from.slot, from.life
	if !to.out.Add(f) {
		to.dropped++
		to.dropping = true
	}
	b.touch(to)
}

func (b *Bus) touch(m *member) {
	if !m.dirty {
		m.dirty = true
		b.dirty = append(b.dirty, m)
	}
}

// serving is the newest life of a slot that has said that it is ready, or the
// newest of all when none has; nil when there is none.
func (b *Bus) serving(slot int) *member {
	var newest *member
	for _, m := range b.slots[slot] {
		if newest == nil || m.ready || !newest.ready {
			newest = m
		}
	}
	return newest
}

func without(members []*member, m *member) []*member {
	kept := members[:0]
	for _, o := range members {
		if o != m {
			kept = append(kept, o)
		}
	}
	if len(kept) < len(members) {
		members[len(kept)] = nil // so that it can be collected
	}
	return kept
}
