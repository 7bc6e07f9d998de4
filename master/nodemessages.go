package master

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"drover/config"
	wire "drover/ipc/node"
	"drover/master/admin"
	"drover/master/fleet"
	"drover/master/node"
)

// This file is about what the programs of Node workers say to their primary, where
// no code of theirs runs: what libraries expect of it is done here, what is for other
// workers is passed on, and the rest is for those who ask for it.

const (
	// nodeMessages is how many messages may wait for a Node worker, and nodeWaiting of
	// how many bytes; what comes beyond is dropped.
	nodeMessages = 1024
	nodeWaiting  = wire.MaxLine

	// listenerMessages is how many messages may wait for one who reads what workers
	// tell the primary.
	listenerMessages = 1024
)

// toldByNode takes a message that a worker's program sent with process.send.
func (m *Master) toldByNode(a node.Told) {
	l := m.lives[fleet.LifeID(a.Worker)]
	if l == nil {
		return
	}
	var s socketIO
	if bytes.Contains(a.Value, []byte(`"prom-client:`)) {
		if answer, ok := node.ParseMetrics(a.Value); ok {
			m.metricsOf(l, answer)
			return
		}
	}
	if bytes.Contains(a.Value, []byte(`"_sio_adapter"`)) && json.Unmarshal(a.Value, &s) == nil && s.Source == "_sio_adapter" {
		m.relaySocketIO(l, s, a.Value)
		return
	}
	switch post, is, err := node.ParsePost(a.Value); {
	case err != nil:
		m.actNode(node.Objection{Worker: a.Worker, Why: err.Error()})
	case is:
		m.passOn(l, post)
	case string(a.Value) != `"ready"`:
		m.publish(l, a.Value)
	}
}

// passOn sends a worker's message to those whom it is for.
func (m *Master) passOn(from *life, p node.Post) {
	if p.To >= 0 {
		if l := m.servesSlot(p.To); l != nil {
			m.tellNode(l, p.Value)
		} else {
			from.node.dropped++
		}
		return
	}
	for _, l := range m.lives {
		if l != from || p.To == node.ToAll {
			m.tellNode(l, p.Value)
		}
	}
}

// servesSlot is the life that serves a slot, or nil.
func (m *Master) servesSlot(slot int) *life {
	for _, life := range m.fleet.Snapshot().Lives {
		if life.Slot == slot && life.State == fleet.Ready {
			return m.lives[life.ID]
		}
	}
	return nil
}

// publish tells all who read them of a message that is for the primary.
func (m *Master) publish(from *life, value json.RawMessage) {
	if !from.node.sends {
		from.node.sends = true
		m.log.Info(fmt.Sprintf("worker %d sends messages to the cluster's primary, where no code of the app's runs: drover messages prints them", from.slot), "event", "sends", "slot", from.slot, "life", from.id)
	}
	for to := range m.node.listeners {
		select {
		case to <- admin.Message{Slot: from.slot, ID: uint64(from.id), PID: from.process.PID, Message: value}:
		default: // who reads too slowly misses some
		}
	}
}

// Send sends a message to the Node worker that serves a slot, or to all with a
// negative one. It may be called from any goroutine.
func (m *Master) Send(ctx context.Context, slot int, value json.RawMessage) error {
	return m.ask(ctx, func(answer chan<- error) { answer <- m.send(slot, value) })
}

func (m *Master) send(slot int, value json.RawMessage) error {
	if m.node == nil {
		return errors.New("send: the app's workers are no Node programs: those on drover have Worker.Send")
	}
	if slot >= 0 {
		l := m.servesSlot(slot)
		switch {
		case l == nil:
			return fmt.Errorf("send to slot %d: no worker serves it (drover status lists them)", slot)
		case !m.tellNode(l, value):
			return fmt.Errorf("send to slot %d: the worker does not take its messages: too many wait for it", slot)
		}
		return nil
	}
	var missed []int
	for _, l := range m.lives {
		if !m.tellNode(l, value) {
			missed = append(missed, l.slot)
		}
	}
	if len(missed) > 0 {
		slices.Sort(missed)
		return fmt.Errorf("send: the workers of slots %v do not take their messages: too many wait for them; the others got it", missed)
	}
	return nil
}

// Messages calls each with what Node workers tell their primary, from now on, until
// ctx ends, the app has stopped, or each returns an error, which it returns. It
// blocks as long, and may be called from any goroutine.
func (m *Master) Messages(ctx context.Context, each func(admin.Message) error) error {
	told := make(chan admin.Message, listenerMessages)
	err := m.ask(ctx, func(answer chan<- error) {
		if m.node == nil {
			answer <- errors.New("messages: the app's workers are no Node programs: what those on drover send goes from worker to worker")
			return
		}
		m.node.listeners[told] = true
		answer <- nil
	})
	if err != nil {
		return err
	}
	defer m.post(func() { delete(m.node.listeners, told) })
	for {
		select {
		case msg := <-told:
			if err := each(msg); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		case <-m.done:
			return nil
		}
	}
}

// socketIO is what @socket.io/cluster-adapter writes around its messages.
type socketIO struct {
	Source       string `json:"source"`
	UID          string `json:"uid"`          // of the adapter that sends it
	RequesterUID string `json:"requesterUid"` // of an answer: whom it is for
}

// relaySocketIO does what the adapter's own primary does: an answer goes to whom it
// is for, all else to every other worker.
func (m *Master) relaySocketIO(from *life, s socketIO, value json.RawMessage) {
	if s.UID != "" && len(from.node.adapters) < 1000 { // one for each namespace
		if from.node.adapters == nil {
			from.node.adapters = map[string]bool{}
		}
		from.node.adapters[s.UID] = true
	}
	for _, l := range m.lives {
		if s.RequesterUID != "" && l != from && l.node.adapters[s.RequesterUID] {
			m.tellNode(l, value)
			return
		}
	}
	for _, l := range m.lives {
		if l != from {
			m.tellNode(l, value)
		}
	}
}

// tellNode sends a user's message to a Node life, unless too much waits for it, and
// reports whether it did.
func (m *Master) tellNode(l *life, value json.RawMessage) bool {
	lines, bytes := m.node.primary.Waiting(l.worker())
	bytes += int(l.node.waiting.Load())
	if len(l.node.out)+lines < nodeMessages && (bytes == 0 || bytes+len(value) <= nodeWaiting) {
		m.primaryStep(node.Tell{Worker: l.worker(), Value: value})
		return true
	}
	l.node.dropped++
	if !l.node.full {
		l.node.full = true
		m.log.Warn(fmt.Sprintf("worker %d does not take its messages: %d wait, of %d KiB, and what comes beyond is dropped", l.slot, len(l.node.out)+lines, bytes>>10), "event", "messages_dropped", "slot", l.slot, "life", l.id)
	}
	return false
}

// askClientsToClose has the responses of a Node life that is about to leave end
// their connections, where its program was started so.
func (m *Master) askClientsToClose(l *life) {
	if l.config.Node.DrainHeader {
		m.primaryStep(node.Tell{Worker: l.worker(), Value: wire.Word(wire.Drain, "")})
	}
}

// lameDuck is how long a Node life that is about to leave serves on.
func lameDuck(c config.Config) time.Duration {
	if c.Node.DrainHeader {
		return max(steered, c.LameDuck)
	}
	return steered
}
