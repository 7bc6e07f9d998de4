// Package master is the process that holds the sockets and looks after the
// workers. One goroutine, in Run, owns everything here: it hands each event to
// fleet.Step and carries out the actions that come back. The rooms below it do
// the work; none of them knows another.
package master

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
	"time"

	"drover/config"
	"drover/internal/sys"
	"drover/ipc/scoreboard"
	"drover/master/admin"
	"drover/master/fleet"
	"drover/master/launch"
	"drover/master/listen"
	"drover/master/output"
	"drover/master/usage"
)

// Options is what a master needs to know.
type Options struct {
	// Config is the app. It was checked, and has its defaults.
	Config config.Config
	// DefaultName is the app's name when Config.Name is empty, as far as it is
	// free. What a name cannot hold in it becomes '-'.
	DefaultName string
	// Program gives what the workers run, pinned anew for each generation. The
	// master closes what it gets.
	Program func() (*launch.Program, error)
	// Stdout gets what workers print there; Stderr all else, the log included.
	// They are written by goroutines of the master's, and never waited for.
	Stdout, Stderr io.Writer
	// Signals to obey: TERM and INT stop, a second one at once; HUP reloads. Nil
	// is none.
	Signals <-chan os.Signal
	// RuntimeDir is where the control socket is made.
	RuntimeDir string
}

// Master looks after the workers of one app. New makes it, Run runs it once.
type Master struct {
	opts     Options
	config   config.Config
	log      *slog.Logger
	sinks    [2]*output.Sink // stdout, stderr
	instance *admin.Instance
	server   *admin.Server
	meter    usage.Meter

	do   chan func() // what other goroutines want done by the loop's
	done chan struct{}

	// All below is owned by Run's goroutine.
	fleet       *fleet.Fleet
	pending     []fleet.Event // what happened while an event was acted upon
	groups      []*listen.Group
	lives       map[fleet.LifeID]*life
	generations map[int]*launch.Program    // that a life may yet be started from
	newest      int                        // generation number given last
	totals      map[int]*scoreboard.Totals // of ended lives, by slot
	reloads     []reloadCall
	restarts    map[int][]chan<- error // by slot
	ready       bool                   // every worker has been ready once: users were told
	stopping    bool
	finish      *fleet.Finish
	lastWords   []string            // of the life that ended last
	lastBoard   scoreboard.Snapshot // likewise
}

// ErrNeverReady says that the master gave up because no worker ever became
// ready. The log has the reason and the program's last lines.
var ErrNeverReady = errors.New("no worker ever became ready")

// Supervise checks the configuration, and runs a master for it until the app is
// stopped. Its error is one line, or wraps ErrNeverReady.
func Supervise(ctx context.Context, o Options) error {
	if err := o.Config.Check(); err != nil {
		return err
	}
	o.Config = o.Config.WithDefaults()
	// What a careless parent left open here shall not reach the workers.
	if err := sys.CloexecFrom(3); err != nil {
		return err
	}
	m, err := New(ctx, o)
	if err != nil {
		return err
	}
	if m.Run(ctx) != 0 {
		return ErrNeverReady
	}
	return nil
}

// drainGrace is what the log may take at the end to be written.
const drainGrace = time.Second

// New claims the app's name, binds its addresses and opens the control socket.
// Nothing is started and nothing is accepted yet. Its errors are one line each;
// after one, nothing is left behind.
func New(ctx context.Context, o Options) (_ *Master, err error) {
	m := &Master{
		opts:        o,
		config:      o.Config,
		do:          make(chan func()),
		done:        make(chan struct{}),
		lives:       map[fleet.LifeID]*life{},
		generations: map[int]*launch.Program{},
		totals:      map[int]*scoreboard.Totals{},
		restarts:    map[int][]chan<- error{},
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	m.sinks = [2]*output.Sink{output.NewSink(o.Stdout), output.NewSink(o.Stderr)}
	m.log = output.NewLogger(m.sinks[1], m.config.LogFormat)

	name, fixed := m.config.Name, m.config.Name != ""
	if !fixed {
		name = config.CleanName(o.DefaultName)
	}
	if m.instance, err = admin.Claim(o.RuntimeDir, name, fixed); err != nil {
		return nil, err
	}
	why := "as asked"
	if m.config.Workers == 0 {
		m.config.Workers, why = config.CPUs()
	}
	m.log.Info(fmt.Sprintf("drover %q: pid %d, %d workers (%s)", m.instance.Name, os.Getpid(), m.config.Workers, why),
		"event", "start", "name", m.instance.Name, "pid", os.Getpid(), "workers", m.config.Workers)
	if err := m.listen(ctx, m.config.Listen); err != nil {
		return nil, err
	}
	program, err := m.pin()
	if err != nil {
		return nil, err
	}
	control, err := m.instance.Listen()
	if err != nil {
		return nil, err
	}
	m.server = admin.Serve(control, m)
	if !program.Pinned() {
		m.log.Warn(fmt.Sprintf("%s is a script, which cannot be pinned: a crash restart runs what its path then holds", program.Path),
			"event", "unpinned", "program", program.Path)
	}
	m.fleet = fleet.New(
		fleet.Policy{MinUptime: m.config.MinUptime, ReadyTimeout: m.config.ReadyTimeout, Drain: m.config.Drain},
		fleet.Want{Workers: m.config.Workers, Generation: 1},
	)
	return m, nil
}

// listen binds addresses. Where a killed master of the same name left workers,
// it joins their sockets.
func (m *Master) listen(ctx context.Context, addresses []config.Listen) error {
	for _, l := range addresses {
		g, err := listen.Open(ctx, l.Name, l.Address, false)
		var inUse *listen.InUseError
		if errors.As(err, &inUse) {
			if len(m.instance.Orphans) > 0 {
				g, err = listen.Open(ctx, l.Name, l.Address, true)
			} else if inUse.Holder != nil {
				if name := admin.NameOf(m.opts.RuntimeDir, inUse.Holder.PID); name != "" {
					err = fmt.Errorf("listen on %s: address already in use by drover %q (pid %d): stop it with `drover stop --name %s`, or listen elsewhere",
						l.Address, name, inUse.Holder.PID, name)
				}
			}
		}
		if err != nil {
			return err
		}
		m.groups = append(m.groups, g)
		m.log.Info(fmt.Sprintf("listening on %s", g.Address), "event", "listen", "name", g.Name, "address", g.Address)
	}
	return nil
}

// pin makes a new generation of what the program's path holds now.
func (m *Master) pin() (*launch.Program, error) {
	program, err := m.opts.Program()
	if err != nil {
		return nil, err
	}
	program.ShareMemory(config.MemoryLimit(), m.config.Workers)
	m.newest++
	m.generations[m.newest] = program
	return program, nil
}

// Run starts the workers and keeps them serving until the app is stopped: by
// Stop, by the end of ctx, or because no worker ever became ready. It returns
// the exit code: 0 after a stop, 3 when none became ready.
func (m *Master) Run(ctx context.Context) int {
	defer m.close()
	defer m.server.Close(drainGrace)
	defer close(m.done)
	stop := ctx.Done()
	timer := time.NewTimer(0) // the first tick starts the workers
	defer timer.Stop()
	for m.finish == nil {
		select {
		case f := <-m.do:
			f()
		case <-timer.C:
			m.step(fleet.Tick{})
		case sig := <-m.opts.Signals:
			if sig == syscall.SIGHUP {
				m.reload(make(chan error, 1)) // the log tells the outcome
			} else {
				m.stop()
			}
		case <-stop:
			stop = nil
			m.stop()
		}
		if d := m.fleet.Deadline(); d.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(d))
		}
	}
	m.answerAll(errStopped)
	return m.finish.Code
}

var errStopped = errors.New("the app has stopped")

// post has f run by the loop's goroutine, and waits until it begins. It reports
// false, and does nothing, when the loop has ended.
func (m *Master) post(f func()) bool {
	select {
	case m.do <- f:
		return true
	case <-m.done:
		return false
	}
}

// step lets the fleet decide on an event, and acts. What happens at once, such
// as a start that fails, is decided on in turn.
func (m *Master) step(ev fleet.Event) {
	m.pending = append(m.pending, ev)
	for len(m.pending) > 0 && m.finish == nil {
		ev, m.pending = m.pending[0], m.pending[1:]
		for _, act := range m.fleet.Step(time.Now(), ev) {
			m.act(act)
		}
	}
	m.noticeReady()
}

// close gives back what New took. Lives are gone by then.
func (m *Master) close() {
	for _, g := range m.groups {
		g.Close()
	}
	for _, p := range m.generations {
		p.Close()
	}
	if m.instance != nil {
		m.instance.Release()
	}
	for _, s := range m.sinks {
		s.Close(drainGrace)
	}
}
