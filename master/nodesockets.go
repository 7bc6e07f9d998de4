package master

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"drover/config"
	"drover/internal/sys"
	wire "drover/ipc/node"
	"drover/master/fleet"
	"drover/master/listen"
	"drover/master/node"
)

// This file is about the sockets of Node programs. The program says where it wants
// to listen; where the operator has given addresses, it gets those instead. Each
// worker sits on a seat: the place of its sockets in their groups. A successor that
// comes while its predecessor serves sits on a spare one, so that what the one
// accepts the other does not close.

// nodeServer is the sockets of one address that Node workers listen on.
type nodeServer struct {
	group    *listen.Group  // of TCP and unix sockets
	packet   *listen.Packet // of UDP
	given    int            // of neither: a descriptor that drover was started with
	own      bool           // made since a program asked
	acceptor *acceptor      // where connections are dealt out
}

// openNode makes a socket that a worker asks for.
func (m *Master) openNode(a node.Open) {
	opened := node.Opened{Server: a.Server, Seat: a.Seat, FD: -1}
	fail := func(err error) {
		m.log.Error(err.Error(), "event", "listen", "error", err.Error())
		var errno syscall.Errno
		if !errors.As(err, &errno) {
			errno = syscall.EINVAL
		}
		opened.Errno = int(errno)
		m.primaryStep(opened)
	}
	s := m.node.servers[a.Server]
	if s == nil {
		var err error
		if s, err = m.serveNode(a); err != nil {
			fail(err)
			return
		}
		m.node.servers[a.Server] = s
	}
	switch {
	case s.packet != nil:
		opened.FD, opened.Host, opened.Port = s.packet.FD, s.packet.Host, s.packet.Port
		m.primaryStep(opened)
		return
	case s.group == nil:
		opened.FD = s.given
		m.primaryStep(opened)
		return
	}
	m.tellSteering(s.group, s.group.SteerSockets(m.nodeSockets()))
	fd, err := s.group.Socket(context.Background(), a.Seat)
	if err != nil {
		fail(err)
		return
	}
	opened.FD = fd
	if host, port, err := net.SplitHostPort(s.group.Address); err == nil && !strings.HasPrefix(s.group.Address, "unix:") {
		opened.Host = host
		opened.Port, _ = strconv.Atoi(port)
	}
	m.primaryStep(opened)
}

// serveNode finds or makes what a server listens on.
func (m *Master) serveNode(a node.Open) (*nodeServer, error) {
	if a.Given >= 0 {
		return &nodeServer{group: m.groups[a.Given]}, nil
	}
	want := a.Want
	l := config.Listen{Address: net.JoinHostPort(want.Host, strconv.Itoa(want.Port)), Steering: m.config.Node.Steering}
	switch want.Network {
	case "udp4", "udp6":
		network := want.Network
		if network == "udp6" && !want.IPv6Only {
			network = "udp" // udp6 is Go's for IPv6 alone
		}
		p, err := listen.OpenPacket(context.Background(), network, l.Address, a.Reuse)
		if err != nil {
			return nil, err
		}
		m.log.Info("listening on udp "+l.Address, "event", "listen", "name", l.Address, "address", l.Address)
		return &nodeServer{packet: p, own: true}, nil
	case "unix":
		l = config.Listen{Address: "unix:" + want.Host, Mode: 0o755}
		if a.Readable {
			l.Mode |= 0o444
		}
		if a.Writable {
			l.Mode |= 0o222
		}
	case "fd":
		if !slices.Contains(m.opts.Inherited, want.Port) {
			return nil, fmt.Errorf("listen on descriptor %d: drover was not started with a socket there: %w", want.Port, syscall.EBADF)
		}
		return &nodeServer{given: want.Port}, sys.SetNonblock(want.Port)
	}
	l.Name = l.Address
	if err := (config.Config{Listen: []config.Listen{l}}).Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, syscall.EINVAL)
	}
	g, err := openAsked(want, l)
	if err != nil {
		return nil, err
	}
	m.groups = append(m.groups, g)
	m.tellListening(g)
	return &nodeServer{group: g, own: true}, nil
}

// openAsked binds an address that a program asked for. Node's tcp4 without a host,
// and its tcp6 unless it says otherwise, are of both families.
func openAsked(want wire.Server, l config.Listen) (*listen.Group, error) {
	if want.IPv6Only || want.Network == "tcp4" && want.Host != "" {
		return listen.OpenFamily(context.Background(), want.Network, l)
	}
	return listen.Open(context.Background(), l, false)
}

// releaseNode closes the sockets of a server that no worker wants any more. The
// operator's stay.
func (m *Master) releaseNode(server int) {
	s := m.node.servers[server]
	delete(m.node.servers, server)
	if s == nil {
		return // it could not be opened
	}
	s.acceptor.close()
	if !s.own {
		return
	}
	if s.packet != nil {
		s.packet.Close()
		return
	}
	m.log.Info(fmt.Sprintf("no worker listens on %s any more: it is closed", s.group.Address), "event", "unlisten", "address", s.group.Address)
	m.groups = slices.DeleteFunc(m.groups, func(g *listen.Group) bool { return g == s.group })
	s.group.Close()
}

// servesNode tells of an address that the operator's took the place of.
func (m *Master) servesNode(a node.Serves) {
	l := m.lives[fleet.LifeID(a.Worker)]
	if a.On && a.Remapped && l != nil {
		m.log.Info(fmt.Sprintf("worker %d asked for %s, and serves %s", l.slot, a.Asked, a.Address), "event", "remapped", "slot", l.slot, "life", l.id, "asked", a.Asked.String(), "address", a.Address)
	}
}

func (m *Master) refusedNode(a node.Refused) {
	l := m.lives[fleet.LifeID(a.Worker)]
	if l == nil {
		return
	}
	why := a.Why
	if why == "" {
		why = syscall.Errno(a.Errno).Error()
	}
	m.log.Warn(fmt.Sprintf("worker %d cannot listen on %s: %s", l.slot, a.Asked, why), "event", "refused", "slot", l.slot, "life", l.id, "asked", a.Asked.String(), "why", why)
}

// addressOfNode is what the environment of a Node program says of its first address.
func (m *Master) addressOfNode() map[string]string {
	env := map[string]string{}
	for _, g := range m.groups[:m.node.given] {
		host, port, err := net.SplitHostPort(g.Address)
		if err != nil || strings.HasPrefix(g.Address, "unix:") {
			continue
		}
		env["PORT"] = port
		if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
			env["HOST"] = host
		}
		break
	}
	return env
}

// nodeSockets says which seats' sockets get new connections, and for which slot
// each stands: those of the workers that serve, and where a slot has none the one
// that its next worker will have.
func (m *Master) nodeSockets() map[int]int {
	slots := m.steering.slots
	snap := m.fleet.Snapshot()
	if slots == nil {
		for slot := range snap.Want.Workers {
			slots = append(slots, slot)
		}
	}
	sockets := map[int]int{}
	for _, slot := range slots {
		served := false
		for _, life := range snap.Lives {
			l := m.lives[life.ID]
			if life.Slot != slot || life.State != fleet.Ready || l == nil || !l.node.leave.IsZero() {
				continue
			}
			if seat := m.node.primary.Seat(l.worker()); seat >= 0 {
				sockets[seat], served = slot, true
			}
		}
		if seat := m.node.primary.SlotSeat(slot); !served && seat >= 0 {
			sockets[seat] = slot
		}
	}
	return sockets
}

// steerNode has new connections go to the workers that serve.
func (m *Master) steerNode() {
	sockets := m.nodeSockets()
	for _, g := range m.groups {
		m.tellSteering(g, g.SteerSockets(sockets))
	}
}

// queuedForNode reports whether connections wait that only this life may take.
func (m *Master) queuedForNode(l *life) bool {
	seat := m.node.primary.Seat(l.worker())
	for number, s := range m.node.servers {
		switch {
		case s.group == nil || !m.node.primary.Has(l.worker(), number):
		case s.acceptor != nil:
			if l.node.final && (s.group.Queued(0) > 0 || !m.node.primary.Idle()) {
				return true
			}
		case seat >= 0 && s.group.Queued(seat) > 0:
			return true
		}
	}
	return false
}

// socketAt is a socket: a server's, at a seat.
type socketAt struct{ server, seat int }

const (
	// unseated is how long connections wait at a socket on which nobody accepts,
	// before another worker gets them.
	unseated = 100 * time.Millisecond
	// unheard is for how long a worker with connections in its queue may not read its
	// channel, which Node does between any two of a program's own doings.
	unheard = 500 * time.Millisecond
)

// rescue takes connections off the queues of sockets on which nobody accepts, or
// whose worker computes without a pause, and gives them to others. Whether it does
// is found out by a message that means nothing: it is read, or not.
func (m *Master) rescue(now time.Time) {
	m.hasRead()
	sitting := map[int]*life{}
	for _, l := range m.lives {
		if seat := m.node.primary.Seat(l.worker()); seat >= 0 && !l.node.told {
			sitting[seat] = l
		}
	}
	for _, l := range sitting {
		if m.node.primary.Owes(l.worker()) { // where connections are dealt out: it gets no other
			m.unheard(l, now)
		}
	}
	for _, number := range slices.Sorted(maps.Keys(m.node.servers)) {
		s := m.node.servers[number]
		if s.group == nil || s.acceptor != nil || s.group.Shared() {
			continue
		}
		for seat := range s.group.Sockets() {
			at := socketAt{number, seat}
			if s.group.Queued(seat) == 0 {
				delete(m.node.stuck, at)
				continue
			}
			if m.node.stuck[at].IsZero() {
				m.node.stuck[at] = now
			}
			l := sitting[seat]
			if l != nil && !m.node.primary.Has(l.worker(), number) {
				l = nil
			}
			if l == nil && now.Sub(m.node.stuck[at]) >= unseated || l != nil && m.unheard(l, now) {
				m.takeOver(s, number, seat, l)
			}
		}
	}
}

// unheard reports whether a worker with connections in its queue has been silent for
// so long that others are to have them.
func (m *Master) unheard(l *life, now time.Time) bool {
	if l.node.silent.IsZero() {
		m.writeNode(node.Send{Worker: l.worker(), Line: wire.Word(wire.Ping, ""), FD: -1})
		l.node.silent = now
	}
	return now.Sub(l.node.silent) >= unheard
}

// hasRead notes which workers have read their channel, or said something, since they
// were sent a line that means nothing.
func (m *Master) hasRead() {
	for _, l := range m.lives {
		if n := l.node; n.heard.After(n.silent) || !n.channel.Unread() {
			n.silent, n.rescued = time.Time{}, false
		}
	}
}

// takeOver gives what is queued at a socket to others than the life that sits
// there, if there are any.
func (m *Master) takeOver(s *nodeServer, number, seat int, l *life) {
	from, others := node.WorkerID(0), false
	if l != nil {
		from = l.worker()
	}
	for _, o := range m.lives {
		others = others || o != l && m.node.primary.Has(o.worker(), number)
	}
	if !others {
		return
	}
	taken := 0
	for fd := s.group.Sockets()[seat]; taken < 128; taken++ {
		conn, err := sys.Accept(fd)
		if err != nil {
			break // none is left
		}
		m.primaryStep(node.Connected{Server: number, FD: conn, Rescued: true, From: from})
	}
	if taken == 0 || l != nil && l.node.rescued {
		return // or told before
	}
	slot, why := -1, "nobody accepts there any more"
	if l != nil {
		slot, why = l.slot, fmt.Sprintf("worker %d does not get to it (pid %d)", l.slot, l.process.PID)
		l.node.rescued = true
	}
	m.log.Warn(fmt.Sprintf("what waits at socket %d of %s, %s now, is given to others: %s", seat, s.group.Address, count(taken, "connection"), why),
		"event", "rescued", "slot", slot, "connections", taken, "address", s.group.Address)
}

// acceptor accepts connections that are to be dealt out, as many as were asked for.
// Its goroutine ends soon after close.
type acceptor struct {
	file   *os.File // a number of its own for the socket, in the runtime's poller
	wanted atomic.Int64
	wake   chan struct{}
}

// acceptNode has n more connections accepted.
func (m *Master) acceptNode(server, n int) {
	s := m.node.servers[server]
	if s == nil {
		return // released meanwhile
	}
	if s.acceptor == nil {
		fd, err := sys.Dup(s.group.Sockets()[0])
		if err != nil {
			m.log.Error(fmt.Sprintf("accept on %s: %v", s.group.Address, err), "event", "accept", "address", s.group.Address, "error", err.Error())
			return
		}
		s.acceptor = &acceptor{file: os.NewFile(uintptr(fd), s.group.Address), wake: make(chan struct{}, 1)}
		go m.deal(server, s.acceptor)
	}
	s.acceptor.wanted.Add(int64(n))
	select {
	case s.acceptor.wake <- struct{}{}:
	default: // it is awake
	}
}

// deal accepts for a server until its acceptor is closed.
func (m *Master) deal(server int, a *acceptor) {
	raw, err := a.file.SyscallConn()
	if err != nil {
		return // it is closed
	}
	for range a.wake {
		for a.wanted.Load() > 0 {
			fd, acceptErr := -1, error(nil)
			err := raw.Read(func(socket uintptr) bool {
				fd, acceptErr = sys.Accept(int(socket))
				return !sys.IsAgain(acceptErr)
			})
			if err != nil {
				return
			}
			if acceptErr != nil { // too many open files, mostly: others wait in the queue
				m.log.Error(fmt.Sprintf("accept on %s: %v", a.file.Name(), acceptErr), "event", "accept", "address", a.file.Name(), "error", acceptErr.Error())
				time.Sleep(100 * time.Millisecond)
				continue
			}
			a.wanted.Add(-1)
			if !m.post(func() { m.primaryStep(node.Connected{Server: server, FD: fd}) }) {
				sys.Close(fd)
				return
			}
		}
	}
}

func (a *acceptor) close() {
	if a != nil {
		close(a.wake)
		a.file.Close()
	}
}

// close closes what is not among the master's groups.
func (a *nodeApp) close() {
	if a == nil {
		return
	}
	for _, s := range a.servers {
		s.acceptor.close()
		if s.packet != nil {
			s.packet.Close()
		}
	}
}
