package worker

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"drover/ipc"
	"drover/ipc/scoreboard"
)

// Message is what a worker of the app has sent.
type Message struct {
	Slot  int    // the sender's
	ID    uint64 // the sender's life
	Topic string // it was published to; empty: it was sent to this worker
	Data  []byte // the receiver's; several subscriptions to one topic share it
}

// MaxMessage bounds the data of a message, in bytes.
const MaxMessage = ipc.MaxData

// ErrQueueFull says that a message was not sent, since 2 MiB already wait to be:
// the master has more to do than it can. Earlier messages are not lost.
var ErrQueueFull = errors.New("2 MiB of messages wait to be sent already")

var errNoMaster = errors.New("the master, which carries messages, is gone")

// Send sends data to the worker that serves a slot, which finds it in its
// Messages. It does not block, and data stays the caller's. Its error is
// ErrQueueFull, or says that data is larger than MaxMessage, or that there is no
// master any more; nil says that the message is on its way, not that it
// arrives: it is dropped, and counted in the status, when nobody serves the slot
// or when more than 2 MiB wait there. What two workers send each other keeps its
// order.
func (w *Worker) Send(slot int, data []byte) error {
	if slot < 0 {
		return fmt.Errorf("send to slot %d: there is none below 0", slot)
	}
	return w.mail.send(ipc.Frame{Kind: ipc.Direct, Slot: slot, Data: data})
}

// Reply sends data to the very life that m is from, as Send does. When that has
// ended it is dropped.
func (w *Worker) Reply(m Message, data []byte) error {
	if m.ID == 0 {
		return errors.New("reply to a message that nobody has sent")
	}
	return w.mail.send(ipc.Frame{Kind: ipc.Direct, Life: m.ID, Data: data})
}

// Messages is what other workers, or this one, have sent here by Send and Reply:
// the same channel at each call. It is closed when there is no master any more.
// 2 MiB may wait, from the start on; what comes beyond is dropped, and counted in
// the status.
func (w *Worker) Messages() <-chan Message {
	w.mail.start.Do(func() { go w.mail.direct.pass() })
	return w.mail.direct.out
}

// Publish sends data to all that have subscribed to a topic, this worker among
// them, as Send does.
func (w *Worker) Publish(topic string, data []byte) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	return w.mail.send(ipc.Frame{Kind: ipc.Published, Topic: []byte(topic), Data: data})
}

// Subscribe gives what is published to a topic after this call has reached the
// master, and before cancel, on a channel that holds 2 MiB as Messages does. It
// is closed by cancel, which may be called again, and when there is no master
// any more. A worker can subscribe to 1,024 topics; its error says that there
// are more, that the topic's name has not from 1 to 255 bytes, or Send's.
func (w *Worker) Subscribe(topic string) (messages <-chan Message, cancel func(), err error) {
	if err := checkTopic(topic); err != nil {
		return nil, nil, err
	}
	in := newInbox(topic)
	if err := w.mail.subscribe(topic, in); err != nil {
		return nil, nil, err
	}
	go in.pass()
	return in.out, sync.OnceFunc(func() { w.mail.unsubscribe(topic, in) }), nil
}

// FlushMessages waits until what was sent is with the master, at most so long.
func (w *Worker) FlushMessages(most time.Duration) {
	select {
	case <-w.mail.flushed():
	case <-time.After(most):
	}
}

// maxTopics is master/bus's MaxTopics; master and worker never meet.
const maxTopics = 1024

func checkTopic(topic string) error {
	if len(topic) == 0 || len(topic) > ipc.MaxTopic {
		return fmt.Errorf("topic %.40q has %d bytes: want from 1 to %d", topic, len(topic), ipc.MaxTopic)
	}
	return nil
}

// mail is the worker's end of the bus.
type mail struct {
	conn   *ipc.Conn
	board  *scoreboard.Board
	wake   chan struct{} // something is to be sent
	start  sync.Once     // of direct's pass
	direct *inbox
	debt   ipc.Debt // the reader's

	mu     sync.Mutex
	out    ipc.Outbox
	gone   bool // there is no master
	topics map[string][]*inbox
	idle   chan struct{} // closed when out is empty, or nobody takes it; nil: nobody asks
}

func newMail(conn *ipc.Conn, board *scoreboard.Board) *mail {
	m := &mail{conn: conn, board: board, wake: make(chan struct{}, 1), direct: newInbox(""), topics: map[string][]*inbox{}}
	go func() {
		for range m.wake {
			m.mu.Lock()
			m.flush()
			m.mu.Unlock()
		}
	}()
	return m
}

// batch is how much waits, in bytes, before the sender itself sends it. Less is
// sent by a goroutine, so that what is sent in a row is sent together.
const batch = 32 << 10

func (m *mail) send(f ipc.Frame) error {
	if len(f.Data) > MaxMessage {
		return fmt.Errorf("a message of %d bytes: at most %d can be sent: send where it can be found", len(f.Data), MaxMessage)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.add(f)
}

// add is send, with the lock held.
func (m *mail) add(f ipc.Frame) error {
	if m.gone {
		return errNoMaster
	}
	if !m.out.Add(f) {
		return ErrQueueFull
	}
	if m.out.Waiting() >= batch {
		m.flush()
		return nil
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return nil
}

// flush sends what credit allows; the lock is held. What the socket does not
// take now is sent with the next message or credit.
func (m *mail) flush() {
	_ = m.out.Flush(m.conn)
	if m.idle != nil && (m.out.Waiting() == 0 || m.gone) {
		close(m.idle)
		m.idle = nil
	}
}

func (m *mail) flushed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.idle == nil {
		m.idle = make(chan struct{})
	}
	idle := m.idle
	m.flush()
	return idle
}

func (m *mail) subscribe(topic string, in *inbox) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.topics[topic]) == 0 {
		if len(m.topics) == maxTopics {
			return fmt.Errorf("subscribe to %.40q: this worker has %d topics, and may not have more", topic, maxTopics)
		}
		if err := m.add(ipc.Frame{Kind: ipc.Subscribe, Topic: []byte(topic)}); err != nil {
			return err
		}
	} else if m.gone {
		return errNoMaster
	}
	m.topics[topic] = append(m.topics[topic], in)
	return nil
}

func (m *mail) unsubscribe(topic string, in *inbox) {
	close(in.quit)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.topics[topic] = slices.DeleteFunc(m.topics[topic], func(o *inbox) bool { return o == in })
	if len(m.topics[topic]) == 0 {
		delete(m.topics, topic)
		// Should it not be sent, what is published for nothing is thrown away here.
		_ = m.add(ipc.Frame{Kind: ipc.Unsubscribe, Topic: []byte(topic)})
	}
}

// take distributes what the master has brought. The reader's goroutine calls it.
func (m *mail) take(msg ipc.Message) error {
	for rest := msg.Mail; len(rest) > 0; {
		var f ipc.Frame
		var err error
		if f, rest, err = ipc.NextFrame(rest); err != nil {
			return err
		}
		got := Message{Slot: f.Slot, ID: f.Life, Data: slices.Clone(f.Data)}
		if f.Kind == ipc.Direct {
			m.put(m.direct, got)
			continue
		}
		m.mu.Lock()
		for _, in := range m.topics[string(f.Topic)] {
			got.Topic = in.topic
			m.put(in, got)
		}
		m.mu.Unlock()
	}
	m.debt.Read(msg, m.conn)
	runtime.Gosched() // whom the messages are for is to run on this one processor too
	return nil
}

func (m *mail) put(in *inbox, got Message) {
	if !in.put(got) {
		m.board.Dropped()
	}
}

// credited takes credit that the master gives back, and uses it.
func (m *mail) credited(n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.out.Credited(n)
	m.flush()
	return err
}

// end tells all who wait for messages that none will come.
func (m *mail) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = true
	m.flush()
	m.direct.end()
	for _, inboxes := range m.topics {
		for _, in := range inboxes {
			in.end()
		}
	}
}

// inbox is where messages wait for whoever receives from out.
type inbox struct {
	out  chan Message
	wake chan struct{} // there is something in queue, or no more will be
	quit chan struct{} // closed when nobody receives any more

	bytes atomic.Int64 // that wait

	topic string

	mu    sync.Mutex
	queue []Message
	ended bool
}

func newInbox(topic string) *inbox {
	return &inbox{topic: topic, out: make(chan Message, 64), wake: make(chan struct{}, 1), quit: make(chan struct{})}
}

// size is what a message takes while it waits.
func size(m Message) int64 { return int64(len(m.Data)) + 64 }

// put reports false when there is no room.
func (in *inbox) put(m Message) bool {
	if in.bytes.Add(size(m)) > ipc.MaxOutbox {
		in.bytes.Add(-size(m))
		return false
	}
	in.mu.Lock()
	in.queue = append(in.queue, m)
	in.mu.Unlock()
	in.rouse()
	return true
}

func (in *inbox) rouse() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

func (in *inbox) end() {
	in.mu.Lock()
	in.ended = true
	in.mu.Unlock()
	in.rouse()
}

// pass passes messages on to out until none can come, or nobody receives.
func (in *inbox) pass() {
	defer close(in.out)
	var messages []Message
	for {
		in.mu.Lock()
		messages, in.queue = in.queue, messages[:0]
		ended := in.ended
		in.mu.Unlock()
		for i, m := range messages {
			select {
			case in.out <- m:
			default:
				select {
				case in.out <- m:
				case <-in.quit:
					return
				}
			}
			in.bytes.Add(-size(m))
			messages[i] = Message{}
		}
		if len(messages) > 0 {
			continue
		}
		if ended {
			return
		}
		select {
		case <-in.wake:
		case <-in.quit:
			return
		}
	}
}
