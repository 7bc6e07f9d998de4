package master

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"drover/config"
	wire "drover/ipc/node"
	"drover/master/fleet"
	"drover/master/node"
)

// This file is about what the programs of Node workers say to their primary, where
// no code of theirs runs: what libraries expect of it is done here.

// nodeMessages is how many messages may wait for a Node worker; what comes beyond
// is dropped.
const nodeMessages = 1024

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
	switch {
	case bytes.Contains(a.Value, []byte(`"_sio_adapter"`)) && json.Unmarshal(a.Value, &s) == nil && s.Source == "_sio_adapter":
		m.relaySocketIO(l, s, a.Value)
	case !l.node.sends && string(a.Value) != `"ready"`:
		l.node.sends = true
		m.log.Info(fmt.Sprintf("worker %d sends messages to the cluster's primary, where no code of the app's runs: they go nowhere", l.slot), "event", "sends", "slot", l.slot, "life", l.id)
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

// tellNode sends a user's message to a Node life, unless too many wait for it.
func (m *Master) tellNode(l *life, value json.RawMessage) {
	if len(l.node.out)+m.node.primary.Waiting(l.worker()) < nodeMessages {
		m.primaryStep(node.Tell{Worker: l.worker(), Value: value})
		return
	}
	if !l.node.full {
		l.node.full = true
		m.log.Warn(fmt.Sprintf("worker %d does not take its messages: %d wait, and what comes beyond is dropped", l.slot, nodeMessages), "event", "messages_dropped", "slot", l.slot, "life", l.id)
	}
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
