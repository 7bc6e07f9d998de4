package master

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"drover/config"
	"drover/internal/sys"
	"drover/ipc"
	wire "drover/ipc/node"
	"drover/ipc/scoreboard"
	"drover/master/fleet"
	"drover/master/keyring"
	"drover/master/launch"
	"drover/master/output"
)

// life is a started process and what ties it to the master. The loop's
// goroutine owns it; its own goroutines, which attend starts, only post.
type life struct {
	id         fleet.LifeID
	slot       int
	config     config.Config // of its generation
	generation *generation
	process    *launch.Process
	conn       *ipc.Conn
	board      *scoreboard.Board
	boardFD    int
	given      map[ipc.Socket]bool // sockets that it was started with
	foreign    *foreigner          // nil of a program on drover, or Node's
	node       *nodeLife           // nil of others than Node's, who have a conn
	welcome    bool                // it has joined, and has the sockets of all slots
	over       chan struct{}       // closed when the process has ended
	// The heartbeat that was read last, and when it changed.
	heartbeat int64
	beaten    time.Time
	memory    int64 // bytes resident, where they are bounded

	overwritten bool // its scoreboard is not to be believed
	hoards      bool // it holds many descriptors, which was told
	tail        output.Tail
	printed     [2]chan struct{} // closed when stdout, stderr have been read to their end
}

// spawn starts a life's process, with the slot's own socket of each address.
func (m *Master) spawn(a fleet.Start) (_ *life, err error) {
	gen := m.generations[a.Generation]
	l := &life{id: a.Life, slot: a.Slot, config: gen.config, generation: gen, given: map[ipc.Socket]bool{}, over: make(chan struct{})}
	m.mend() // it would not take a socket that was shut down
	var listeners []launch.Listener
	groups := m.groups
	if m.node != nil {
		groups = nil // it asks for them
	}
	for i, g := range groups {
		appended := len(g.Sockets())
		fd, err := g.Socket(context.Background(), a.Slot)
		if err != nil {
			return nil, err
		}
		for slot := appended; slot < len(g.Sockets()); slot++ {
			m.announce(i, slot)
		}
		listeners = append(listeners, launch.Listener{Name: g.Name, FD: fd})
		l.given[ipc.Socket{Listen: i, Slot: a.Slot}] = true
	}
	if l.board, l.boardFD, err = scoreboard.New(); err != nil {
		return nil, err
	}
	undo := []func(){func() { l.board.Close(); sys.Close(l.boardFD) }}
	defer func() {
		if err != nil {
			for _, f := range undo {
				f()
			}
		}
	}()
	start := launch.Start{Program: m.generations[a.Generation].program, Listeners: listeners}
	if m.node != nil {
		start.Told = wire.EnvChannel
		start.Argv = start.Program.Inspected(l.slot)
		start.Channel, start.Env, err = m.channelNode(l)
		undo = append(undo, func() { l.node.channel.Close() })
	} else {
		l.conn, start.Channel, err = ipc.Pair()
		undo = append(undo, func() { l.conn.Close() })
	}
	if err != nil {
		undo = undo[:1]
		return nil, err
	}
	defer sys.Close(start.Channel)
	var streams [2]*output.Stream
	var ends [2]*os.File
	for i := range streams {
		if streams[i], ends[i], err = output.Pipe(); err != nil {
			return nil, err
		}
		defer ends[i].Close()
		undo = append(undo, func() { streams[i].Close() })
	}
	if uid := start.Program.Owner(); uid >= 0 {
		for _, end := range ends { // so that /dev/stderr can be opened (proc(5), /proc/PID/fd)
			if err := end.Chown(uid, -1); err != nil {
				return nil, err
			}
		}
	}
	if start.Program.Foreign {
		if start.Env, err = l.welcomeForeign(); err != nil {
			return nil, err
		}
		undo = append(undo, func() { l.foreign.notices.Close() })
	}
	start.Stdout, start.Stderr = int(ends[0].Fd()), int(ends[1].Fd())
	l.process, err = launch.Launch(start)
	if err != nil {
		return nil, err
	}
	m.attend(l, a.Generation, streams)
	return l, nil
}

// attend starts the life's goroutines: one reads its channel, two read what it
// prints, one waits for its end, and then for the others but the printing,
// which a process that it forked may go on with.
func (m *Master) attend(l *life, generation int, streams [2]*output.Stream) {
	for i, name := range []string{"stdout", "stderr"} {
		l.printed[i] = make(chan struct{})
		go func() {
			defer close(l.printed[i])
			defer streams[i].Close()
			var habits output.Habits
			streams[i].Lines(func(line []byte, cut bool) {
				if name == "stderr" && !l.config.NoSchedTrace && output.IsSchedTrace(line) {
					return // the runtime's, since we have asked for it
				}
				now := time.Now()
				if what := habits.See(line, cut, now); what != "" {
					m.log.Warn(fmt.Sprintf("worker %d %s (pid %d, %s)", l.slot, what, l.process.PID, name), "event", "prints", "slot", l.slot, "life", l.id, "stream", name, "what", what)
				}
				l.tail.Add(line)
				m.printed.line(i, name, now, l.slot, line)
			})
		}()
	}
	var hears sync.WaitGroup
	begun := make(chan struct{}) // closed when the fleet knows that it has started
	hear, hurry := func() { m.hear(l, generation) }, func() { _ = l.conn.Hurry() }
	if l.node != nil {
		m.attendNode(l)
		hear, hurry = func() { m.hearNode(l) }, func() { _ = l.node.channel.Hurry() }
	}
	hears.Go(func() { <-begun; hear() })
	if f := l.foreign; f != nil {
		hears.Go(func() { <-begun; m.heed(l, f.notices) })
		hears.Go(func() {
			defer close(begun)
			l.process.AwaitExec()
			m.post(func() { m.step(l.started()) })
		})
		hurry = func() { _ = l.conn.Hurry(); _ = f.notices.Hurry() }
	} else {
		close(begun)
	}
	go func() {
		exit, err := l.process.Wait()
		// What it said before its end is heard before its end is.
		close(l.over)
		hurry()
		hears.Wait()
		m.post(func() { m.ended(l, exit, err) })
	}()
}

// allowance is how many messages a worker may send in a second. One that sends
// more waits, and nobody else does.
const allowance = 1000

// hear reads a life's channel to its end.
func (m *Master) hear(l *life, generation int) {
	window, heard, bad := time.Now(), 0, 0
	var debt ipc.Debt
	for {
		msg, fds, err := l.conn.Receive()
		for _, fd := range fds { // a Go worker has none to give
			sys.Close(fd)
		}
		if msg.Kind == ipc.Mail || msg.Kind == ipc.Credit {
			if err = m.mail(l, &debt, msg); err == nil {
				continue // bounded by credit
			}
			err = ipc.ProtocolError{Err: err}
		}
		if heard++; heard > allowance {
			select {
			case <-time.After(time.Until(window.Add(time.Second))):
			case <-l.over:
			}
			window, heard = time.Now(), 0
		}
		var broken ipc.ProtocolError
		switch {
		case errors.As(err, &broken):
			if bad++; bad == 1 { // one line is enough to know it by
				m.log.Warn(fmt.Sprintf("worker %d sent a bad message: %v", l.slot, broken), "event", "bad_message", "slot", l.slot, "error", broken.Error())
			}
			continue
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			m.log.Error(fmt.Sprintf("worker %d cannot be heard: %v", l.slot, err), "event", "bad_channel", "slot", l.slot, "error", err.Error())
			return
		}
		if !m.post(func() { m.said(l, generation, msg) }) {
			return
		}
	}
}

// mail takes messages for other workers, or credit for what this one has read.
func (m *Master) mail(l *life, debt *ipc.Debt, msg ipc.Message) error {
	if msg.Kind == ipc.Credit {
		return m.bus.Credit(uint64(l.id), msg.Credit)
	}
	defer debt.Read(msg, l.conn)
	return m.bus.Take(uint64(l.id), msg.Mail)
}

// said takes a worker's word.
func (m *Master) said(l *life, generation int, msg ipc.Message) {
	switch msg.Kind {
	case ipc.Hello:
		if l.welcome {
			m.log.Warn(fmt.Sprintf("worker %d sent a bad message: a second hello", l.slot), "event", "bad_message", "slot", l.slot)
			return
		}
		if err := m.welcome(l, generation, msg); err != nil {
			m.log.Error(fmt.Sprintf("worker %d cannot join: %v", l.slot, err), "event", "join", "slot", l.slot, "error", err.Error())
			l.tail.Add([]byte("drover: " + err.Error()))
			_ = l.process.Kill()
			return
		}
		m.step(fleet.Said{Life: l.id, Word: fleet.SaysOnline})
	case ipc.Ready:
		m.bus.Ready(uint64(l.id))
		m.step(fleet.Said{Life: l.id, Word: fleet.SaysReady})
	case ipc.Leaving:
		m.log.Info(fmt.Sprintf("worker %d leaves: %s", l.slot, msg.Reason), "event", "leaving", "slot", l.slot, "life", l.id, "why", msg.Reason)
		m.step(fleet.Said{Life: l.id, Word: fleet.SaysLeaving})
	case ipc.Closed:
		m.step(fleet.Said{Life: l.id, Word: fleet.SaysClosed})
	default:
		m.log.Warn(fmt.Sprintf("worker %d sent a bad message: %q is the master's word", l.slot, msg.Kind), "event", "bad_message", "slot", l.slot)
	}
}

// welcome answers a hello: who the worker is, and the sockets that it was not
// started with. The addresses that a program names itself are bound at the
// first hello, when the command named none.
func (m *Master) welcome(l *life, generation int, hello ipc.Message) error {
	if hello.Version != ipc.Version {
		return fmt.Errorf("it speaks version %d of drover's channel, this master %d: build the program with this drover", hello.Version, ipc.Version)
	}
	if err := m.goNative(l); err != nil {
		return err
	}
	if len(m.groups) == 0 {
		var addresses []config.Listen
		for _, a := range hello.Listen {
			address := config.Listen{Name: a.Name, Address: a.Address, Steering: a.Steering, Mode: fs.FileMode(a.Mode)}
			if a.TLS != "" {
				if err := json.Unmarshal([]byte(a.TLS), &address.TLS); err != nil {
					return fmt.Errorf("tls of %s, as the program names it: %w", a.Address, err)
				}
			}
			addresses = append(addresses, address)
		}
		if len(addresses) == 0 {
			return errors.New("neither the command nor the program names an address: give --listen")
		}
		if err := (config.Config{Listen: addresses}).Check(); err != nil {
			return err
		}
		ring, err := keyring.Read(addresses)
		if err != nil {
			return err
		}
		if err := m.listen(context.Background(), addresses, nil); err != nil {
			return err
		}
		m.named = m.watch(ring)
		m.pending = append(m.pending, fleet.PolicyChanged{Policy: m.policy(m.config)})
		for _, g := range m.groups {
			m.tellListening(g)
		}
		m.tellKeys(ring)
	}
	msg := ipc.Message{
		Kind: ipc.Welcome,
		Life: &ipc.Life{
			App: m.instance.Name, Slot: l.slot, ID: uint64(l.id), Generation: generation, Procs: l.config.Procs,
			Drain: l.config.Drain, LameDuck: l.config.LameDuck, OrphanTimeout: l.config.OrphanTimeout,
		},
	}
	fds := []int{l.boardFD}
	if k := m.keysOf(l); k != nil {
		fd, err := m.sealed(k)
		if err != nil {
			return err
		}
		defer sys.Close(fd)
		msg.Secrets = true
		fds = append(fds, fd)
	}
	for i, g := range m.groups {
		msg.Listen = append(msg.Listen, ipc.Listen{Name: g.Name, Address: g.Address, Shared: g.Shared(), Kept: g.Kept(), Proxies: l.config.ProxiesOf(g.Name)})
		for slot := range max(len(g.Sockets()), l.slot+1, m.fleet.Snapshot().Want.Workers) {
			s := ipc.Socket{Listen: i, Slot: slot}
			if l.given[s] || g.Shared() && slot != l.slot {
				continue
			}
			fd, err := g.Socket(context.Background(), slot)
			if err != nil {
				return err
			}
			if len(fds) == ipc.MaxDescriptors {
				if err := l.conn.Send(msg, fds...); err != nil {
					return err
				}
				msg, fds = ipc.Message{Kind: ipc.Sockets}, nil
			}
			msg.Sockets = append(msg.Sockets, s)
			fds = append(fds, fd)
		}
	}
	l.welcome = true
	m.bus.Join(l.slot, uint64(l.id), l.conn)
	l.beaten = time.Now() // from here on it is to beat
	return l.conn.Send(msg, fds...)
}

// announce gives a socket that was appended to all that have joined already.
func (m *Master) announce(address, slot int) {
	fd := m.groups[address].Sockets()[slot]
	for _, l := range m.lives {
		if !l.welcome {
			continue // its welcome will bring it
		}
		err := l.conn.Send(ipc.Message{Kind: ipc.Sockets, Sockets: []ipc.Socket{{Listen: address, Slot: slot}}}, fd)
		if err != nil {
			m.log.Warn(fmt.Sprintf("worker %d does not hear: %v", l.slot, err), "event", "deaf", "slot", l.slot, "life", l.id, "error", err.Error())
		}
	}
}

// ended folds a life's counts into its slot's and gives its things back.
func (m *Master) ended(l *life, exit sys.Exit, err error) {
	if m.totals[l.slot] == nil {
		m.totals[l.slot] = new(scoreboard.Totals)
	}
	m.lastBoard = scoreboard.Snapshot{}
	if l.board.Intact() {
		m.lastBoard = l.board.Snapshot()
	}
	m.totals[l.slot].Add(m.lastBoard)
	m.bus.Leave(uint64(l.id))
	l.board.Close()
	sys.Close(l.boardFD)
	if l.node == nil {
		l.conn.Close()
	}
	delete(m.lives, l.id)
	if l.node != nil {
		m.endedNode(l)
	}
	// Its last lines may matter; a process that it forked may hold its stdout
	// for ever, and is not waited for.
	end := fleet.Exit{Code: exit.Code, Signal: exit.Signal, CoreDumped: exit.CoreDumped}
	if err != nil {
		end = fleet.Exit{Err: err.Error()}
	}
	m.record()
	m.keepLastWords(l)
	m.step(fleet.Exited{Life: l.id, Exit: end, TellsLeaving: l.node != nil})
}

// keepLastWords keeps what a life printed, as far as it was read: until every
// worker has been ready its end may be the app's, and in a reload it may be the
// new generation's.
func (m *Master) keepLastWords(l *life) {
	if m.ready && len(m.reloads) == 0 {
		return
	}
	patience := time.After(100 * time.Millisecond)
	for _, printed := range l.printed {
		select {
		case <-printed:
		case <-patience:
		}
	}
	m.lastLife, m.lastWords = l.id, l.tail.Lines()
	if len(m.lastWords) > 0 {
		m.lastSaid = m.lastWords // one that is killed since we give up may not have come to it
	}
}

// record writes the living workers down for a successor.
func (m *Master) record() {
	var pids []int
	for _, l := range m.lives {
		pids = append(pids, l.process.PID)
	}
	if err := m.instance.Record(pids); err != nil {
		m.log.Error(fmt.Sprintf("%v: a new master could not relieve them should this one be killed", err), "event", "record", "error", err.Error())
	}
}
