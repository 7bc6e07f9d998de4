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
	"maps"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"drover/config"
	"drover/internal/sys"
	"drover/ipc"
	"drover/ipc/scoreboard"
	"drover/master/admin"
	"drover/master/bus"
	"drover/master/fleet"
	"drover/master/keyring"
	"drover/master/launch"
	"drover/master/listen"
	"drover/master/notify"
	"drover/master/output"
	"drover/master/trigger"
	"drover/master/usage"
)

// Options is what a master needs to know.
type Options struct {
	// Load gives what a generation is: the configuration as it is now, and what
	// the workers run, pinned anew. It is called at the start and for each reload.
	// The master closes the program that it gets.
	Load func() (config.Config, *launch.Program, error)
	// DefaultName is the app's name when the configuration has none, as far as it
	// is free. What a name cannot hold in it becomes '-'.
	DefaultName string
	// Stdout gets what workers print there; Stderr all else, the log included.
	// They are written by goroutines of the master's, and never waited for.
	Stdout, Stderr io.Writer
	// Signals to obey: TERM and INT stop, a second one at once; HUP reloads; USR1 has
	// log files opened anew; TTIN and TTOU make one worker more or fewer. Nil is none.
	Signals <-chan os.Signal
	// Inherited are the sockets, by number, that this process was started with: a Node
	// program may ask for one (server.listen({fd: 3})).
	Inherited []int
	// RuntimeDir is where the control socket is made.
	RuntimeDir string
}

// Master looks after the workers of one app. New makes it, Run runs it once.
type Master struct {
	opts     Options
	log      *slog.Logger
	printed  printed
	instance *admin.Instance
	server   *admin.Server
	meter    usage.Meter // of the status
	weights  usage.Meter // of the limits
	bus      *bus.Bus
	service  *notify.Service // nil where no service manager asks

	do   chan func() // what other goroutines want done by the loop's
	done chan struct{}

	watches sync.WaitGroup // of the files of certificates

	// All below is owned by Run's goroutine.
	fleet       *fleet.Fleet
	pending     []fleet.Event // what happened while an event was acted upon
	stepping    bool
	groups      []*listen.Group
	node        *nodeApp // nil unless Node runs the program
	lives       map[fleet.LifeID]*life
	config      config.Config       // of the generation that serves
	generations map[int]*generation // that a life may yet be started from
	newest      int                 // generation number given last
	named       *keys               // of addresses that the program named itself; nil: none is encrypted
	tickets     keyring.Tickets
	warned      time.Time                  // of certificates, last
	totals      map[int]*scoreboard.Totals // of ended lives, by slot
	reloads     []reloadCall
	restarts    map[int][]chan<- error // by slot
	scales      []chan<- error
	served      bool   // a worker has been ready: the service manager was told
	ready       bool   // every worker has been ready once: users were told
	why         string // there are so many workers
	stopping    bool
	finish      *fleet.Finish
	timetable   *trigger.Timetable
	watcher     *trigger.Watcher
	steering    steering
	blocking    bool          // the listening sockets are: programs that do not know of drover have them
	looked      time.Time     // when heartbeats were read last
	alert       bool          // one was missed then
	slept       time.Duration // of the host, when the heartbeats were read last
	weighed     time.Time     // when memory was read last
	lastLife    fleet.LifeID  // that ended last, and what it printed last
	lastWords   []string
	lastSaid    []string            // by the last life that had printed anything
	lastBoard   scoreboard.Snapshot // likewise
}

// generation is what is run: a program, pinned, and its configuration.
type generation struct {
	program *launch.Program
	config  config.Config
	node    launch.Version // of a Node program
	keys    *keys          // nil where no address is encrypted
}

// close gives back what nothing will be started from any more.
func (g *generation) close() {
	g.program.Close()
	g.keys.close()
}

// ErrNeverReady says that the master gave up because no worker ever became
// ready. The log has the reason and the program's last lines.
var ErrNeverReady = errors.New("no worker ever became ready")

// Supervise checks the configuration, and runs a master for it until the app is
// stopped. Its error is one line, or wraps ErrNeverReady.
func Supervise(ctx context.Context, o Options) error {
	o.Inherited = sys.OpenSockets(3)
	// What a careless parent left open here shall not reach the workers.
	if err := sys.CloexecFrom(3); err != nil {
		return err
	}
	// What reads our log may end before us, as the tee of a pipeline does upon
	// Ctrl-C. Asked for, SIGPIPE is only an error of the write (package
	// os/signal); ignored, it would be so for the workers too.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)
	reserveThreads()
	m, err := New(ctx, o)
	if err != nil {
		return err
	}
	defer launch.ReapOrphans(func(err error) { m.log.Error(err.Error(), "event", "orphans", "error", err.Error()) })()
	if m.Run(ctx) != 0 {
		return ErrNeverReady
	}
	return nil
}

// reserveThreads has the runtime start as many threads as the master will ever
// need at once, which it keeps: were there no more to be had later, since the
// user has as many processes as RLIMIT_NPROC allows (getrlimit(2)), the runtime
// would end the process.
func reserveThreads() {
	const threads = 10
	var all, alive sync.WaitGroup
	alive.Add(threads)
	for range threads {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			alive.Done()
			alive.Wait()
		})
	}
	all.Wait()
}

// drainGrace is what the log may take at the end to be written.
const drainGrace = time.Second

// Signals are those that a master obeys.
func Signals() []os.Signal {
	return []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGTTIN, syscall.SIGTTOU}
}

// New claims the app's name, binds its addresses and opens the control socket.
// Nothing is started and nothing is accepted yet. Its errors are one line each;
// after one, nothing is left behind.
func New(ctx context.Context, o Options) (_ *Master, err error) {
	m := &Master{
		opts:        o,
		do:          make(chan func()),
		done:        make(chan struct{}),
		lives:       map[fleet.LifeID]*life{},
		generations: map[int]*generation{},
		totals:      map[int]*scoreboard.Totals{},
		restarts:    map[int][]chan<- error{},
		steering:    steering{proxied: map[string]bool{}},
	}
	activated, err := listen.TakeActivated()
	if err != nil {
		return nil, err
	}
	gen, err := m.load()
	if err != nil {
		return nil, err
	}
	m.config = gen.config
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.service, err = notify.ForService(); err != nil {
		return nil, err
	}
	if m.printed, err = openPrinted(m.config, o.Stdout, o.Stderr); err != nil {
		return nil, err
	}
	m.log = output.NewLogger(m.printed.log, m.printed.format)
	if err = m.arm(m.config); err != nil {
		return nil, err
	}
	m.bus = bus.New(func(slot int, life uint64) {
		m.log.Warn(fmt.Sprintf("worker %d does not take its messages: %d MiB wait, and what comes beyond is dropped", slot, ipc.MaxOutbox>>20),
			"event", "messages_dropped", "slot", slot, "life", life)
	})

	name, fixed := m.config.Name, m.config.Name != ""
	if !fixed {
		name = config.CleanName(o.DefaultName)
	}
	if m.instance, err = admin.Claim(o.RuntimeDir, name, fixed); err != nil {
		return nil, err
	}
	if err := m.listen(ctx, m.config.Listen, activated); err != nil {
		return nil, err
	}
	if gen.wantsBlocking() {
		if err := m.setBlocking(true); err != nil {
			return nil, err
		}
	}
	if gen.program.Node {
		m.node = newNodeApp(m.config, len(m.groups))
	}
	control, err := m.instance.Listen()
	if err != nil {
		return nil, err
	}
	m.server = admin.Serve(control, m)
	if m.instance.Name != name {
		m.log.Warn(fmt.Sprintf("another drover that runs is named %q: this one is %q; to name it yourself give --name", name, m.instance.Name),
			"event", "renamed", "wanted", name, "name", m.instance.Name)
	}
	m.log.Info(fmt.Sprintf("drover %q: pid %d, %s (%s)", m.instance.Name, os.Getpid(), count(m.config.Workers, "worker"), m.why),
		"event", "start", "name", m.instance.Name, "pid", os.Getpid(), "workers", m.config.Workers)
	for _, g := range m.groups {
		m.tellListening(g)
	}
	if gen.keys != nil {
		m.tellKeys(gen.keys.ring)
	}
	if gen.program.Node {
		m.log.Info(fmt.Sprintf("%s is run by Node %s (%s); a crash restart runs what its path then holds", gen.program.Script, gen.node, gen.program.Path),
			"event", "node", "program", gen.program.Script, "node", gen.program.Path, "version", gen.node.String())
	} else if path := gen.program.Path; !gen.program.Pinned() {
		m.log.Warn(fmt.Sprintf("%s is a script, which cannot be pinned: a crash restart runs what its path then holds", path),
			"event", "unpinned", "program", path)
	}
	if gen.program.Foreign && len(m.groups) == 0 {
		m.log.Warn(fmt.Sprintf("no address is given: %s gets no socket, unless it turns out to be built on drover and names its own", gen.program.Path),
			"event", "no_address", "program", gen.program.Path)
	}
	m.fleet = fleet.New(
		m.policy(m.config),
		fleet.Want{Workers: m.config.Workers, Generation: 1},
	)
	return m, nil
}

// policy is what the fleet needs of a configuration.
func (m *Master) policy(c config.Config) fleet.Policy {
	return fleet.Policy{
		MinUptime: c.MinUptime, ReadyTimeout: c.ReadyTimeout, Drain: c.Drain, HangTimeout: c.HangTimeout,
		MaxMemory: c.Limits.MaxMemory, MaxRequests: c.Limits.MaxRequests, MaxAge: c.Limits.MaxAge, RequestTimeout: c.Limits.RequestTimeout,
		Sticky: m.steering.sticky,
	}
}

// listen binds addresses, or takes the sockets for them that a service manager
// gave; all of those, when there is no address. Where a killed master of the same
// name left workers, it joins their sockets.
func (m *Master) listen(ctx context.Context, addresses []config.Listen, activated []listen.Activated) error {
	m.steering.sticky = anySticky(addresses) || m.config.Node.Steering == config.Sticky
	if err := m.fitsSteering(m.config.Workers); err != nil {
		return err
	}
	taken := make([]bool, len(activated))
	for _, l := range addresses {
		if i := slices.IndexFunc(activated, func(a listen.Activated) bool { return a.Serves(l) }); i >= 0 && !taken[i] {
			taken[i] = true
			m.groups = append(m.groups, listen.Adopt(activated[i], l.Name))
			continue
		}
		g, err := listen.Open(ctx, l, false)
		var inUse *listen.InUseError
		if errors.As(err, &inUse) {
			if m.orphaned(l, inUse.Holder) {
				g, err = listen.Open(ctx, l, true)
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
		if m.steering.slots != nil {
			m.tellSteering(g, g.Steer(m.steering.slots))
		}
	}
	for i, a := range activated {
		switch {
		case len(addresses) == 0:
			m.groups = append(m.groups, listen.Adopt(a, ""))
		case !taken[i]:
			m.log.Warn(fmt.Sprintf("the service manager gave a socket on %s, which is none of the addresses: it is left alone", a.Address),
				"event", "unused_socket", "address", a.Address)
		}
	}
	return nil
}

// orphaned reports whether an address is served by workers that a killed master
// of our name left. TCP lets nobody join but the same user's.
func (m *Master) orphaned(l config.Listen, holder *listen.Holder) bool {
	if _, unix := l.Unix(); unix {
		return holder != nil && slices.ContainsFunc(m.instance.Orphans, func(o admin.Process) bool { return o.PID == holder.PID })
	}
	return len(m.instance.Orphans) > 0
}

func (m *Master) tellListening(g *listen.Group) {
	text := "listening on " + g.Address
	steering, _, why := g.Steering()
	if steering != config.Spread || why != "" {
		text += ": " + steering
	}
	if why != "" {
		text += " (" + why + ")"
	}
	m.log.Info(text, "event", "listen", "name", g.Name, "address", g.Address, "steering", steering, "why", why)
}

// count is a number and what it counts, as a person says it.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// load makes a new generation of what is configured, and of what the program's
// path holds, now.
func (m *Master) load() (*generation, error) {
	c, program, err := m.opts.Load()
	if err != nil {
		return nil, err
	}
	if err := c.Check(); err != nil {
		program.Close()
		return nil, err
	}
	c = c.WithDefaults()
	m.why = "as asked"
	if c.Workers == 0 {
		c.Workers, m.why = config.CPUs()
	}
	attributes, err := launch.AttributesOf(c)
	if err != nil {
		program.Close()
		return nil, err
	}
	program.SetAttributes(attributes)
	program.SetEnv(c.Env)
	gen := &generation{program: program, config: c}
	ring, err := keyring.Read(c.Listen)
	if err != nil {
		program.Close()
		return nil, err
	}
	if program.Node {
		if gen.node, err = program.NodeVersion(); err != nil {
			program.Close()
			return nil, err
		}
	} else {
		program.ShareMemory(config.MemoryLimit(), c.Workers)
		if !c.NoSchedTrace {
			program.KeepMonitorAwake()
		}
	}
	gen.keys = m.watch(ring)
	m.newest++
	m.generations[m.newest] = gen
	return gen, nil
}

// fixed refuses what cannot change while the app runs.
func fixed(is, wanted config.Config) error {
	change := func(what string, is, wanted any) error {
		return fmt.Errorf("%s is %v, and cannot become %v without a restart: nothing was changed", what, is, wanted)
	}
	switch {
	case wanted.Name != is.Name:
		return change("name", fmt.Sprintf("%q", is.Name), fmt.Sprintf("%q", wanted.Name))
	case !slices.Equal(addresses(wanted.Listen), addresses(is.Listen)):
		return change("listen", addresses(is.Listen), addresses(wanted.Listen))
	case wanted.Node.Scheduling != is.Node.Scheduling:
		return change("node.scheduling", fmt.Sprintf("%q", is.Node.Scheduling), fmt.Sprintf("%q", wanted.Node.Scheduling))
	case wanted.Node.Steering != is.Node.Steering:
		return change("node.steering", fmt.Sprintf("%q", is.Node.Steering), fmt.Sprintf("%q", wanted.Node.Steering))
	case wanted.Node.WaitReady != is.Node.WaitReady:
		return change("node.wait_ready", is.Node.WaitReady, wanted.Node.WaitReady)
	case wanted.Node.NeverListens != is.Node.NeverListens:
		return change("node.never_listens", is.Node.NeverListens, wanted.Node.NeverListens)
	case wanted.LogFormat != is.LogFormat:
		return change("logs.format", is.LogFormat, wanted.LogFormat)
	case wanted.Logs != is.Logs:
		return change("logs", fmt.Sprintf("%+v", is.Logs), fmt.Sprintf("%+v", wanted.Logs))
	}
	return nil
}

// address is what of a config.Listen cannot change.
type address struct {
	config.Listen
	Encrypted bool // with what may change
}

func (a address) String() string {
	text := a.Address
	if a.Name != a.Address {
		text += " as " + a.Name
	}
	text += ", " + a.Steering
	if a.Mode != 0 {
		text += fmt.Sprintf(", mode %#o", a.Mode)
	}
	if a.Encrypted {
		text += ", with TLS"
	}
	return text
}

func addresses(listen []config.Listen) (all []address) {
	for _, l := range listen {
		a := address{l, l.TLS != nil}
		a.TLS, a.ProxyProtocol = nil, false // each generation's own
		all = append(all, a)
	}
	return all
}

// gcPercent keeps the heap small while a worker floods the master with what it prints
// (runtime/debug, SetGCPercent): a third of Go's own 100. GOGC, where it is set, holds.
const gcPercent = 33

// Run starts the workers and keeps them serving until the app is stopped: by
// Stop, by the end of ctx, or because no worker ever became ready. It returns
// the exit code: 0 after a stop, 3 when none became ready.
func (m *Master) Run(ctx context.Context) int {
	defer m.close()
	defer m.server.Close(drainGrace)
	defer close(m.done)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	stop := ctx.Done()
	timer := time.NewTimer(0) // the first tick starts the workers
	defer timer.Stop()
	pulse := time.NewTicker(calmPulse)
	defer pulse.Stop()
	m.slept, m.looked = sys.Slept(), time.Now()
	for m.finish == nil {
		select {
		case f := <-m.do:
			f()
		case <-timer.C:
			m.step(fleet.Tick{})
		case <-pulse.C:
			m.weigh()
			m.lookAfter(time.Now())
			m.urge(time.Now())
			m.urgeNode(time.Now())
			m.tellService(time.Now())
			m.tendKeys(time.Now())
			if m.timetable.Due(time.Now()) {
				m.reloadFor("it is time, by cron " + m.config.Reload.Cron)
			}
			slept := sys.Slept()
			beats, missed := m.beats(time.Now())
			m.step(fleet.Beats{List: beats, Slept: max(0, slept-m.slept)})
			m.slept = slept
			switch {
			case missed && !m.alert:
				pulse.Reset(alertPulse)
			case !missed && m.alert:
				pulse.Reset(calmPulse)
			}
			m.alert = missed
		case path := <-m.watcher.Changed():
			m.reloadFor(path + " has changed")
		case err := <-m.watcher.Failed():
			m.log.Error(err.Error(), "event", "watch", "error", err.Error())
		case sig := <-m.opts.Signals:
			m.obey(sig)
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

// obey does what a signal says; the log tells the outcome.
func (m *Master) obey(sig os.Signal) {
	switch workers := m.fleet.Snapshot().Want.Workers; {
	case sig == syscall.SIGHUP:
		m.reload(make(chan error, 1))
	case sig == syscall.SIGUSR1:
		m.reopenLogs()
	case sig == syscall.SIGTTIN && workers < config.MaxWorkers:
		m.scale(workers+1, make(chan error, 1))
	case sig == syscall.SIGTTOU && workers > 1:
		m.scale(workers-1, make(chan error, 1))
	case sig == syscall.SIGTTIN, sig == syscall.SIGTTOU:
		m.log.Warn(fmt.Sprintf("%v: there are %s already", sig, count(workers, "worker")), "event", "scale", "workers", workers)
	default:
		m.stop()
	}
}

// How often the heartbeats of the lives are read: as often as workers beat; and
// while one is missed, often enough to know within 25 ms that it is late.
const (
	calmPulse  = 100 * time.Millisecond
	alertPulse = 25 * time.Millisecond
)

// beats reads the heartbeat of each life that has ever beaten, and reports
// whether one is missed: a pulse old, and an alert one, since a look may come just
// before a beat. What a worker writes there is believed only as far as it lies
// between the last look and this one.
func (m *Master) beats(now time.Time) (beats []fleet.Beat, missed bool) {
	clock := sys.Monotonic()
	sinceLook := now.Sub(m.looked)
	m.looked = now
	beats = make([]fleet.Beat, 0, len(m.lives))
	for id, l := range m.lives {
		if !l.overwritten && !l.board.Intact() {
			l.overwritten = true
			m.log.Error(fmt.Sprintf("worker %d has written over its scoreboard (pid %d): its counts are worthless from now on", l.slot, l.process.PID),
				"event", "overwritten", "slot", l.slot, "life", l.id, "pid", l.process.PID)
		}
		if word := l.board.Heartbeat(); word != l.heartbeat {
			l.heartbeat = word
			l.beaten = now.Add(-min(max(0, time.Duration(clock-word)), sinceLook))
		}
		missed = missed || !l.beaten.IsZero() && now.Sub(l.beaten) > calmPulse+alertPulse
		if l.foreign != nil || l.node != nil { // it is not asked whether it lives
			b := fleet.Beat{Life: id, Memory: l.memory}
			if n := l.node; n != nil && !n.silent.IsZero() { // but where connections wait for it
				b.Age = now.Sub(n.silent)
			}
			beats = append(beats, b)
			continue
		}
		if l.beaten.IsZero() {
			continue
		}
		b := fleet.Beat{Life: id, Age: now.Sub(l.beaten), Memory: l.memory}
		connections, _ := l.board.Connections()
		b.Connections = int(connections)
		if limits := m.config.Limits; limits != (config.Limits{}) && !l.overwritten {
			b.Requests = l.board.Requests()
			oldest := l.board.Oldest()
			b.Oldest, b.OldestIs, b.SchedWait = oldest.Age, fmt.Sprintf("%s %q", oldest.Method, oldest.Path), l.board.SchedWait()
		}
		beats = append(beats, b)
	}
	return beats, missed
}

// weigh has the workers' memory read once a second where it is bounded. Reading
// /proc takes milliseconds, which the loop does not spend.
func (m *Master) weigh() {
	if m.config.Limits.MaxMemory == 0 || time.Since(m.weighed) < time.Second {
		return
	}
	m.weighed = time.Now()
	pids := make(map[fleet.LifeID]int, len(m.lives))
	for id, l := range m.lives {
		pids[id] = l.process.PID
	}
	go func() {
		used := m.weights.Measure(slices.Collect(maps.Values(pids)))
		m.post(func() {
			for id, pid := range pids {
				if l := m.lives[id]; l != nil {
					l.memory = int64(used[pid].RSSBytes)
				}
			}
		})
	}()
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
	m.stepping = true
	for len(m.pending) > 0 && m.finish == nil {
		ev, m.pending = m.pending[0], m.pending[1:]
		for _, act := range m.fleet.Step(time.Now(), ev) {
			m.act(act)
		}
	}
	m.stepping = false
	m.noticeReady()
}

// close gives back what New took. Lives are gone by then.
func (m *Master) close() {
	m.node.close()
	for _, g := range m.groups {
		g.Close()
	}
	for _, g := range m.generations {
		g.close()
	}
	m.named.close()
	m.watches.Wait()
	m.watcher.Close()
	if m.instance != nil {
		m.instance.Release()
	}
	m.service.Close(drainGrace)
	m.printed.close(drainGrace)
}
