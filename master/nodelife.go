package master

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"drover/config"
	"drover/internal/sys"
	wire "drover/ipc/node"
	"drover/master/admin"
	"drover/master/fleet"
	"drover/master/node"
)

// This file is about Node.js programs: each life is a worker of Node's cluster,
// and the master is their primary. What is said when is decided by master/node;
// here are the channels by which it is said, and what it means to the fleet. The
// sockets are in nodesockets.go.

// nodeApp is what the loop knows of an app of Node programs.
type nodeApp struct {
	primary *node.Primary
	given   int                 // operator's addresses: the first groups
	servers map[int]*nodeServer // by their numbers in the primary
	acting  bool                // on an event; others wait meanwhile
	pending []node.Event
	stuck   map[socketAt]time.Time // since when connections wait for a worker

	renewed time.Time // when its servers' keys of session tickets were, last

	requests  int // for metrics, so far
	gathering map[int]*gathering

	listeners map[chan<- admin.Message]bool // who reads what is told to the primary
	dropped   uint64                        // messages of lives that are gone
	quiet     bool                          // some life has asked for no socket for long
}

// nodeLife is what the loop knows of a Node life.
type nodeLife struct {
	channel  *wire.Conn
	out      chan node.Send // to its writer
	deaf     bool           // its channel is full
	leave    time.Time      // since when it is to leave; zero: it is not
	final    bool           // the whole app stops
	told     bool           // it has been told to
	lost     time.Time      // when its channel ended
	ended    bool
	heard    time.Time       // when it said something last
	silent   time.Time       // since when it leaves a line unread, with connections in its queue; zero: it does not
	rescued  bool            // its queue is given to others, which was told
	said     int             // objections that were logged
	sends    bool            // it sends messages to its primary, which was told
	full     bool            // messages to it were dropped, which was told
	dropped  uint64          // messages to it, or of it to nobody
	waiting  atomic.Int64    // bytes in out; its writer takes them off
	adapters map[string]bool // of Socket.IO's, by their names
}

const (
	// channelLines is how many lines may wait for a worker that does not read. Node
	// reads whenever its event loop turns.
	channelLines = 8192

	// nodeAllowance is how many messages a Node worker may send in a second: where
	// connections are dealt out it answers each with two.
	nodeAllowance = 100_000

	// steered is how long connections that were on their way to a socket when it was
	// steered away from may take to come in. Node destroys what it has just accepted
	// when its server closes.
	steered = 150 * time.Millisecond

	// lostPatience is how long a worker may outlive its channel: Node itself exits at
	// once.
	lostPatience = 2 * time.Second
)

// newNodeApp makes the primary of an app whose operator gave so many addresses.
func newNodeApp(c config.Config, given int) *nodeApp {
	policy := node.Policy{RoundRobin: c.Node.Scheduling == config.SchedulingRR, WaitReady: c.Node.WaitReady, Listen: given}
	if c.Node.NeverListens {
		policy.ReadyAfter = c.MinUptime
	}
	return &nodeApp{
		primary: node.New(policy),
		given:   given,
		servers: map[int]*nodeServer{},
		stuck:   map[socketAt]time.Time{},

		renewed:   time.Now(),
		gathering: map[int]*gathering{},
		listeners: map[chan<- admin.Message]bool{},
	}
}

// worker is a life's name in the primary.
func (l *life) worker() node.WorkerID { return node.WorkerID(l.id) }

// channelNode makes a Node life's channel, and returns the worker's end, which the
// caller closes, and what is set in its environment.
func (m *Master) channelNode(l *life) (int, []string, error) {
	channel, end, err := wire.Pair()
	if err != nil {
		return -1, nil, err
	}
	l.node = &nodeLife{channel: channel, out: make(chan node.Send, channelLines)}
	slot := strconv.Itoa(l.slot)
	env := []string{
		wire.EnvFormat + "=" + wire.Format,
		wire.EnvID + "=" + strconv.FormatUint(uint64(l.id), 10),
		"NODE_APP_INSTANCE=" + slot, // as PM2 has them
		"pm_id=" + slot,
	}
	for name, value := range m.addressOfNode() {
		if _, own := l.config.Env[name]; !own {
			env = append(env, name+"="+value)
		}
	}
	return end, env, nil
}

// attendNode starts a Node life's writer, which ends when the life's out is closed.
func (m *Master) attendNode(l *life) {
	n := l.node
	go func() {
		var broken error
		for s := range n.out {
			if broken == nil { // else the worker is gone: its reader notices
				broken = n.channel.Write(s.Line, s.FD)
			}
			n.waiting.Add(-int64(len(s.Line)))
		}
		n.channel.Close()
	}()
}

// hearNode reads a Node life's channel to its end.
func (m *Master) hearNode(l *life) {
	window, heard, bad := time.Now(), 0, false
	for {
		msg, fd, err := l.node.channel.Read()
		if heard++; heard > nodeAllowance {
			select {
			case <-time.After(time.Until(window.Add(time.Second))):
			case <-l.over:
			}
			window, heard = time.Now(), 0
		}
		var broken wire.ProtocolError
		switch {
		case errors.As(err, &broken):
			if !bad { // one line is enough to know it by
				m.log.Warn(fmt.Sprintf("worker %d sent a bad message: %v", l.slot, broken), "event", "bad_message", "slot", l.slot, "life", l.id, "error", broken.Error())
			}
			bad = true
			continue
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
			m.post(func() { m.lostNode(l) })
			return
		case err != nil:
			m.log.Error(fmt.Sprintf("worker %d cannot be heard: %v", l.slot, err), "event", "bad_channel", "slot", l.slot, "life", l.id, "error", err.Error())
			m.post(func() { m.lostNode(l) })
			return
		}
		if !m.post(func() {
			l.node.heard = time.Now()
			m.primaryStep(node.Heard{Worker: l.worker(), Message: msg, FD: fd})
		}) {
			if fd >= 0 {
				sys.Close(fd)
			}
			return
		}
	}
}

// lostNode takes the end of a life's channel.
func (m *Master) lostNode(l *life) {
	l.node.lost = time.Now()
	m.primaryStep(node.Gone{Worker: l.worker()})
	m.steerNode()
}

// endedNode gives back what belonged to a Node life.
func (m *Master) endedNode(l *life) {
	m.primaryStep(node.Gone{Worker: l.worker()})
	l.node.ended = true
	m.node.dropped += l.node.dropped
	l.node.channel.Close() // its writer may wait there
	close(l.node.out)
}

// primaryStep lets the primary decide on an event, acts, and then tells the fleet
// what workers said.
func (m *Master) primaryStep(ev node.Event) {
	a := m.node
	a.pending = append(a.pending, ev)
	if a.acting {
		return
	}
	a.acting = true
	for len(a.pending) > 0 {
		ev, a.pending = a.pending[0], a.pending[1:]
		for _, act := range a.primary.Step(time.Now(), ev) {
			m.actNode(act)
		}
	}
	a.acting = false
	if len(m.pending) > 0 && !m.stepping {
		m.step(fleet.Tick{})
	}
}

// actNode carries out one of the primary's actions.
func (m *Master) actNode(action node.Action) {
	switch a := action.(type) {
	case node.Send:
		m.writeNode(a)
	case node.Open:
		m.openNode(a)
	case node.Accept:
		m.acceptNode(a.Server, a.N)
	case node.CloseFD:
		sys.Close(a.FD)
	case node.Release:
		m.releaseNode(a.Server)
	case node.Says:
		m.saysNode(a)
	case node.Told:
		m.toldByNode(a)
	case node.Serves:
		m.servesNode(a)
	case node.Refused:
		m.refusedNode(a)
	case node.Objection:
		if l := m.lives[fleet.LifeID(a.Worker)]; l != nil && l.node.said < 10 {
			l.node.said++
			m.log.Warn(fmt.Sprintf("worker %d: %s", l.slot, a.Why), "event", "objection", "slot", l.slot, "life", l.id, "why", a.Why)
		}
	case node.Quiet:
		m.node.quiet = true
		if l := m.lives[fleet.LifeID(a.Worker)]; l != nil {
			m.log.Warn(fmt.Sprintf("worker %d runs, and has not asked for a socket yet: npm and the like start the program where drover cannot reach it (give its file instead), listen with exclusive or reusePort goes by drover, and a program that listens on nothing needs never_listens of node", l.slot),
				"event", "quiet", "slot", l.slot, "life", l.id)
		}
	default:
		panic(fmt.Sprintf("master: the Node primary asks for %T, which nobody carries out", action))
	}
}

// writeNode gives a line to a life's writer. A worker that has not read for so long
// that its channel is full is killed: a line left out would wedge it.
func (m *Master) writeNode(s node.Send) {
	l := m.lives[fleet.LifeID(s.Worker)]
	if l == nil || l.node.ended || l.node.deaf {
		return
	}
	l.node.waiting.Add(int64(len(s.Line)))
	select {
	case l.node.out <- s:
	default:
		l.node.deaf = true
		m.log.Error(fmt.Sprintf("worker %d does not read its channel: %d messages wait for it: it is killed (pid %d)", l.slot, channelLines, l.process.PID),
			"event", "deaf", "slot", l.slot, "life", l.id, "pid", l.process.PID)
		_ = l.process.Kill() // it has ended, else
	}
}

// saysNode tells the fleet what a worker says of itself.
func (m *Master) saysNode(a node.Says) {
	l := m.lives[fleet.LifeID(a.Worker)]
	if l == nil {
		return
	}
	switch a.Word {
	case node.Online: // to the fleet that would be a program on drover
	case node.Listening:
		m.pending = append(m.pending, fleet.Said{Life: l.id, Word: fleet.SaysListening})
	case node.Ready:
		m.pending = append(m.pending, fleet.Said{Life: l.id, Word: fleet.SaysReady})
	case node.Leaving:
		if l.node.leave.IsZero() {
			l.node.leave, l.node.told = time.Now(), true
			m.log.Info(fmt.Sprintf("worker %d leaves: it disconnects from the cluster", l.slot), "event", "leaving", "slot", l.slot, "life", l.id, "why", "disconnect")
			m.pending = append(m.pending, fleet.Said{Life: l.id, Word: fleet.SaysLeaving})
		}
	}
}

// retireNode begins to end a Node life. New connections are steered to others, or
// refused in a stop; what was on its way comes in; then it is told.
func (m *Master) retireNode(l *life, final bool) {
	n := l.node
	n.final = n.final || final
	if n.leave.IsZero() {
		n.leave = time.Now()
		m.askClientsToClose(l)
	}
	if !n.final {
		m.primaryStep(node.Retired{Worker: l.worker()})
		m.steerNode()
	}
}

// urgeNode tells Node lives to leave once nothing is queued for them any more, or
// half of the drain is over; and ends one that has outlived its channel.
func (m *Master) urgeNode(now time.Time) {
	if m.node == nil {
		return
	}
	m.primaryStep(node.Tick{})
	for _, l := range m.lives {
		n := l.node
		switch waited := now.Sub(n.leave); {
		case n.leave.IsZero() && !n.lost.IsZero() && now.Sub(n.lost) > lostPatience && !n.deaf:
			n.deaf = true
			m.log.Warn(fmt.Sprintf("worker %d is killed: it has closed its channel, and nothing can be said to it (pid %d)", l.slot, l.process.PID),
				"event", "kill", "slot", l.slot, "life", l.id, "pid", l.process.PID, "why", "it has closed its channel")
			_ = l.process.Kill() // it has ended, else
		case n.leave.IsZero(), n.told, waited < lameDuck(l.config):
		case waited < l.config.Drain/2 && m.queuedForNode(l):
		default:
			n.told = true
			m.tellNodeToLeave(l)
		}
	}
	m.rescue(now)
}

// tellNodeToLeave says it the way the program wants to hear it.
func (m *Master) tellNodeToLeave(l *life) {
	m.primaryStep(node.Retired{Worker: l.worker()})
	signal := syscall.Signal(0)
	switch l.config.Node.StopBy {
	case config.StopINT:
		signal = syscall.SIGINT
	case config.StopTERM:
		signal = syscall.SIGTERM
	case config.StopShutdown:
		m.primaryStep(node.Tell{Worker: l.worker(), Value: []byte(`"shutdown"`)})
		return
	default:
		m.primaryStep(node.Dismiss{Worker: l.worker()})
		return
	}
	if err := l.process.Signal(signal); err != nil {
		m.log.Error(fmt.Sprintf("worker %d: %v", l.slot, err), "event", "deaf", "slot", l.slot, "life", l.id, "error", err.Error())
	}
}
