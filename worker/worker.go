// Package worker is the other side of a master: it takes the listening sockets
// that a worker was started with, says when the worker serves, and lets it
// finish what it has when it is told to leave. It knows nothing of siblings.
package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"drover/config"
	"drover/internal/sys"
	"drover/ipc"
	"drover/ipc/scoreboard"
	"drover/worker/fastnet"
)

// Worker is this process, as a worker of a master. Its methods may be called
// from any goroutine.
type Worker struct {
	life      ipc.Life
	config    config.Config
	conn      *ipc.Conn
	board     *scoreboard.Board
	log       *slog.Logger
	wrap      func(Engine) Engine
	poller    *fastnet.Poller
	listeners []*listener
	mail      *mail

	ready    sync.Once
	stopping chan struct{} // closed when the app will stop, at the latest with draining
	draining chan struct{} // closed when the drain begins
	final    chan struct{} // closed when the whole app stops, or the master is gone and we leave
	fosters  chan word     // slots to accept for, or no more; Serve takes them
}

// Options are what a program says of itself when it joins.
type Options struct {
	// Config is the program's: its timeouts and limits hold; its addresses hold
	// where the command named none; its supervision does not.
	Config config.Config
	// Wrap makes an engine of something that is not drover's own count, limit
	// and drain. Nil wraps nothing.
	Wrap func(Engine) Engine
}

// Started reports whether this process was started by a master, which Join may
// then join.
func Started() bool { return os.Getenv(ipc.EnvChannel) != "" }

// Join makes this process a worker of the master that started it. From then on
// TERM and INT drain it, HUP is ignored (it is the master's to reload), and its
// standard output may break without ending it. It blocks until the master has
// answered. Call it once, before the process starts others.
func Join(o Options) (*Worker, error) {
	inherited, err := takeInheritance()
	if err != nil {
		return nil, fmt.Errorf("join the master: %w", err)
	}
	poller, err := fastnet.NewPoller()
	if err != nil {
		return nil, fmt.Errorf("join the master: %w", err)
	}
	w := &Worker{
		poller:   poller,
		config:   o.Config.WithDefaults(),
		conn:     inherited.conn,
		log:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime})),
		wrap:     o.Wrap,
		stopping: make(chan struct{}),
		draining: make(chan struct{}),
		final:    make(chan struct{}),
		fosters:  make(chan word),
	}
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)

	if err := w.join(inherited); err != nil {
		return nil, fmt.Errorf("join the master: %w", err)
	}
	runtime.GOMAXPROCS(w.life.Procs)
	sys.SetName(w.life.App)
	w.mail = newMail(w.conn, w.board)
	words := make(chan word)
	go w.hear(words)
	go w.attend(words, signals)
	return w, nil
}

// withoutTime leaves the time to the master, which puts it before each line.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// join says hello and takes what the welcome brings.
func (w *Worker) join(in *inheritance) error {
	hello := ipc.Message{Kind: ipc.Hello, Version: ipc.Version}
	if len(in.listeners) == 0 {
		for _, l := range w.config.Listen {
			named := ipc.Listen{Name: l.Name, Address: l.Address, Steering: l.Steering, Mode: uint32(l.Mode)}
			if l.TLS != nil {
				here, err := os.Getwd() // the master's is another
				if err != nil {
					return fmt.Errorf("name the certificates of %s: %w", l.Address, err)
				}
				text, err := json.Marshal(l.TLS.Below(here))
				if err != nil {
					return fmt.Errorf("name the certificates of %s: %w", l.Address, err)
				}
				named.TLS = string(text)
			}
			hello.Listen = append(hello.Listen, named)
		}
	}
	if err := w.conn.Send(hello); err != nil {
		return err
	}
	welcome, fds, err := w.conn.Receive()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("the master ended the connection instead of answering")
		}
		return err
	}
	others := 1 // beside sockets
	if welcome.Secrets {
		others++
	}
	if welcome.Kind != ipc.Welcome || len(fds) != others+len(welcome.Sockets) {
		return fmt.Errorf("the master answered with %q and %d descriptors, not with a welcome", welcome.Kind, len(fds))
	}
	w.life = *welcome.Life
	if w.board, err = scoreboard.Open(fds[0]); err != nil {
		return err
	}
	sys.Close(fds[0])
	for i, l := range welcome.Listen {
		own := -1
		if i < len(in.listeners) {
			own = in.listeners[i]
		}
		open := newListener(l.Name, l.Address, w.poller, own)
		open.shared, open.kept = l.Shared, l.Kept
		if err := w.proxied(open, l.Proxies, len(in.listeners) == 0); err != nil {
			return err
		}
		w.listeners = append(w.listeners, open)
	}
	if welcome.Secrets {
		err := w.encrypt(fds[1])
		sys.Close(fds[1])
		if err != nil {
			return err
		}
	}
	return w.adopt(welcome.Sockets, fds[others:])
}

// proxied has connections of an address begin with a header of the PROXY protocol,
// where that is asked for: by the master, or by us, who have named the address.
func (w *Worker) proxied(l *listener, proxies string, named bool) error {
	if named && proxies == "" {
		proxies = w.config.ProxiesOf(l.name)
	}
	if proxies == "" {
		return nil
	}
	trusted, err := config.Trust(strings.Split(proxies, ",")...)
	if err != nil {
		return fmt.Errorf("who speaks the PROXY protocol on %s: %w", l.address, err)
	}
	l.proxies, l.refused = &trusted, w.refused(l.address)
	return nil
}

// refused counts connections that were refused as requests that were, and logs of
// them once a second.
func (w *Worker) refused(address string) func(net.Addr, error) {
	var told, untold atomic.Int64
	return func(peer net.Addr, err error) {
		w.board.End(w.board.Begin(time.Time{}, nil, nil), 400, 0, 0)
		now := time.Now().UnixNano()
		if was := told.Load(); now-was < int64(time.Second) || !told.CompareAndSwap(was, now) {
			untold.Add(1)
			return
		}
		w.log.Warn("a proxy's connection is closed: its header of the PROXY protocol cannot be read", "address", address, "peer", peer, "error", err, "unlogged", untold.Swap(0))
	}
}

// adopt takes sockets that came over the channel: our own, where we were not
// started with it, and siblings'.
func (w *Worker) adopt(sockets []ipc.Socket, fds []int) error {
	for i, s := range sockets {
		if s.Listen >= len(w.listeners) {
			return fmt.Errorf("the master sent a socket of address %d, but named %d", s.Listen, len(w.listeners))
		}
		w.listeners[s.Listen].add(fds[i], s.Slot, s.Slot == w.life.Slot)
	}
	for _, l := range w.listeners {
		if l.own < 0 {
			return fmt.Errorf("the master sent no socket of %s for slot %d", l.address, w.life.Slot)
		}
	}
	return nil
}

// Slot is the place that this worker fills, from 0.
func (w *Worker) Slot() int { return w.life.Slot }

// ID names this life. No other process of the app ever has it.
func (w *Worker) ID() uint64 { return w.life.ID }

// Generation counts what is run, from 1; each reload makes another.
func (w *Worker) Generation() int { return w.life.Generation }

// Draining is closed when the worker was told to finish what it has: its
// listeners accept no more.
func (w *Worker) Draining() <-chan struct{} { return w.draining }

// Stopping is closed when the app will stop soon, at the latest with Draining:
// the time to tell load balancers, and to serve on.
func (w *Worker) Stopping() <-chan struct{} { return w.stopping }

// Listener is the listener of an address, by its name in the configuration,
// which is the address itself where none was given. Its Accept fails with
// net.ErrClosed once the worker drains. A program that accepts by itself calls
// Ready when it does, and returns when Draining is closed and its connections
// are done. Where the address has TLS, the connections are of type *tls.Conn, which
// shake hands by their first read or write, and offer no protocol by ALPN. It returns an error that names the listeners there are when there
// is none of that name.
func (w *Worker) Listener(name string) (net.Listener, error) {
	var names []string
	for _, l := range w.listeners {
		if l.name == name {
			return l.open()
		}
		names = append(names, l.name)
	}
	return nil, fmt.Errorf("no listener is named %q: there are %q", name, names)
}

// Ready tells the master that this worker serves. Serve does so by itself. Only
// the first call counts.
func (w *Worker) Ready() {
	// Who knows that we are ready may publish: what we subscribed to is known by
	// then.
	w.mail.flushed()
	w.ready.Do(func() { w.say(ipc.Message{Kind: ipc.Ready}) })
}

// say tells the master something, as long as there is one.
func (w *Worker) say(m ipc.Message) {
	_ = w.conn.Send(m) // a master that is gone or deaf is none of our requests' concern
}

// word is what the channel brought.
type word struct {
	kind  ipc.Kind // "" when the master is gone
	final bool
	slot  int // to foster
	on    bool
}

// hear reads the channel to its end.
func (w *Worker) hear(words chan<- word) {
	bad := false
	for {
		m, fds, err := w.conn.Receive()
		if err != nil {
			var broken ipc.ProtocolError
			if errors.As(err, &broken) {
				w.log.Error("the master sent a bad message", "error", err)
				continue
			}
			w.mail.end()
			words <- word{}
			return
		}
		switch m.Kind {
		case ipc.Mail:
			err = w.mail.take(m)
		case ipc.Credit:
			err = w.mail.credited(m.Credit)
		}
		if err != nil && !bad { // one line is enough to know it by
			bad = true
			w.log.Error("messages from the master", "error", err)
		}
		if m.Kind == ipc.Sockets {
			if err := w.adopt(m.Sockets, fds); err != nil {
				w.log.Error("sockets from the master", "error", err)
			}
			continue
		}
		if m.Kind == ipc.Renew {
			err := fmt.Errorf("they came with %d descriptors, not one", len(fds))
			if len(fds) == 1 {
				err = w.encrypt(fds[0])
			}
			if err != nil {
				w.log.Error("certificates from the master: those before are used on", "error", err)
			}
		}
		for _, fd := range fds {
			sys.Close(fd)
		}
		if m.Kind == ipc.Mail || m.Kind == ipc.Credit || m.Kind == ipc.Renew {
			continue
		}
		words <- word{m.Kind, m.Final, m.Slot, m.On}
	}
}

// beat is how often a worker shows that it is alive.
const beat = 100 * time.Millisecond

// attend beats, and turns the master's words, signals and the master's end into
// the three channels that the rest of the worker waits for. It ends with the
// process.
func (w *Worker) attend(words <-chan word, signals <-chan os.Signal) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	var waits schedWaits
	beats := 0
	var orphan <-chan time.Time // runs while there is no master
	masterless := false
	var fosters []word // that Serve has not taken yet
	var stopping, draining, final bool
	leave := func(last bool) {
		if !stopping {
			stopping = true
			close(w.stopping)
		}
		if last && !final {
			final = true
			close(w.final)
		}
		if !draining {
			draining = true
			close(w.draining)
			began := false
			for _, l := range w.listeners {
				began = l.stop() || began
			}
			if !began {
				os.Exit(0) // told to leave before it served: there is nothing to finish
			}
		}
	}
	for {
		var next word
		var take chan<- word
		if len(fosters) > 0 {
			next, take = fosters[0], w.fosters
		}
		select {
		case <-tick.C:
			w.board.Beat()
			waits.beat(time.Now(), beat)
			if beats++; beats%10 == 0 { // each second
				w.board.NoteSchedWait(waits.last())
			}
		case take <- next:
			fosters = fosters[1:]
		case said := <-words:
			switch said.kind {
			case ipc.Stopping:
				if !stopping {
					stopping = true
					close(w.stopping)
				}
			case ipc.Foster:
				fosters = slices.DeleteFunc(fosters, func(f word) bool { return f.slot == said.slot }) // the last word holds
				fosters = append(fosters, said)
			case ipc.Drain:
				leave(said.final)
			case "":
				masterless = true
				if !draining {
					w.log.Warn("the master is gone: serving on", "for", w.life.OrphanTimeout)
					orphan = time.After(max(0, w.life.OrphanTimeout))
				}
			}
		case <-orphan:
			w.log.Warn("no new master came: draining")
			leave(true)
		case sig := <-signals:
			if !draining && !masterless {
				w.say(ipc.Message{Kind: ipc.Leaving, Reason: "it got " + sig.String()})
			}
			leave(masterless)
		}
	}
}
