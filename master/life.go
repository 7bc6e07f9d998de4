package master

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"drover/config"
	"drover/internal/sys"
	"drover/ipc"
	"drover/ipc/scoreboard"
	"drover/master/fleet"
	"drover/master/launch"
	"drover/master/output"
)

// life is a started process and what ties it to the master. The loop's
// goroutine owns it; its own goroutines, which attend starts, only post.
type life struct {
	id      fleet.LifeID
	slot    int
	process *launch.Process
	conn    *ipc.Conn
	board   *scoreboard.Board
	boardFD int
	given   map[ipc.Socket]bool // sockets that it was started with
	over    chan struct{}       // closed when the process has ended
	tail    output.Tail
	printed [2]chan struct{} // closed when stdout, stderr have been read to their end
}

// spawn starts a life's process, with the slot's own socket of each address.
func (m *Master) spawn(a fleet.Start) (l *life, err error) {
	l = &life{id: a.Life, slot: a.Slot, given: map[ipc.Socket]bool{}, over: make(chan struct{})}
	var listeners []launch.Listener
	for i, g := range m.groups {
		fd, err := g.Socket(context.Background(), a.Slot)
		if err != nil {
			return nil, err
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
	conn, channel, err := ipc.Pair()
	if err != nil {
		return nil, err
	}
	defer sys.Close(channel)
	l.conn = conn
	undo = append(undo, func() { conn.Close() })
	var streams [2]*output.Stream
	var ends [2]*os.File
	for i := range streams {
		if streams[i], ends[i], err = output.Pipe(); err != nil {
			return nil, err
		}
		defer ends[i].Close()
		undo = append(undo, func() { streams[i].Close() })
	}
	l.process, err = launch.Launch(launch.Start{
		Program:   m.generations[a.Generation],
		Listeners: listeners,
		Channel:   channel,
		Stdout:    int(ends[0].Fd()),
		Stderr:    int(ends[1].Fd()),
	})
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
			streams[i].Lines(func(line []byte) {
				l.tail.Add(line)
				_, _ = m.sinks[i].Write(output.WorkerLine(m.config.LogFormat, time.Now(), l.slot, name, line))
			})
		}()
	}
	var hears sync.WaitGroup
	hears.Go(func() { m.hear(l, generation) })
	go func() {
		exit, err := l.process.Wait()
		// What it said before its end is heard before its end is.
		close(l.over)
		_ = l.conn.Hurry()
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
	for {
		msg, fds, err := l.conn.Receive()
		for _, fd := range fds { // a Go worker has none to give
			sys.Close(fd)
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

// said takes a worker's word.
func (m *Master) said(l *life, generation int, msg ipc.Message) {
	switch msg.Kind {
	case ipc.Hello:
		if err := m.welcome(l, generation, msg); err != nil {
			m.log.Error(fmt.Sprintf("worker %d cannot join: %v", l.slot, err), "event", "join", "slot", l.slot, "error", err.Error())
			l.tail.Add([]byte("drover: " + err.Error()))
			_ = l.process.Kill()
			return
		}
		m.step(fleet.Said{Life: l.id, Word: fleet.SaysOnline})
	case ipc.Ready:
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
	if len(m.groups) == 0 {
		var addresses []config.Listen
		for _, a := range hello.Listen {
			addresses = append(addresses, config.Listen{Name: a.Name, Address: a.Address})
		}
		if len(addresses) == 0 {
			return errors.New("neither the command nor the program names an address: give --listen")
		}
		if err := m.listen(context.Background(), addresses); err != nil {
			return err
		}
	}
	msg := ipc.Message{
		Kind: ipc.Welcome,
		Life: &ipc.Life{
			App: m.instance.Name, Slot: l.slot, ID: uint64(l.id), Generation: generation, Procs: m.config.Procs,
			Drain: m.config.Drain, LameDuck: m.config.LameDuck, OrphanTimeout: m.config.OrphanTimeout,
		},
	}
	fds := []int{l.boardFD}
	for i, g := range m.groups {
		msg.Listen = append(msg.Listen, ipc.Listen{Name: g.Name, Address: g.Address})
		for slot := range max(l.slot+1, m.config.Workers) {
			s := ipc.Socket{Listen: i, Slot: slot}
			if l.given[s] {
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
	return l.conn.Send(msg, fds...)
}

// ended folds a life's counts into its slot's and gives its things back.
func (m *Master) ended(l *life, exit sys.Exit, err error) {
	if m.totals[l.slot] == nil {
		m.totals[l.slot] = new(scoreboard.Totals)
	}
	m.lastBoard = l.board.Snapshot()
	m.totals[l.slot].Add(m.lastBoard)
	l.board.Close()
	sys.Close(l.boardFD)
	l.conn.Close()
	delete(m.lives, l.id)
	// Its last lines may matter; a process that it forked may hold its stdout
	// for ever, and is not waited for.
	end := fleet.Exit{Code: exit.Code, Signal: exit.Signal, CoreDumped: exit.CoreDumped}
	if err != nil {
		end = fleet.Exit{Err: err.Error()}
	}
	m.record()
	m.keepLastWords(l)
	m.step(fleet.Exited{Life: l.id, Exit: end})
}

// keepLastWords keeps what a life printed, as far as it was read: until a first
// worker is ready, its end may be the app's.
func (m *Master) keepLastWords(l *life) {
	if m.ready {
		return
	}
	patience := time.After(100 * time.Millisecond)
	for _, printed := range l.printed {
		select {
		case <-printed:
		case <-patience:
		}
	}
	m.lastWords = l.tail.Lines()
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
