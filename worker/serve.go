package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"drover/config"
	"drover/internal/sys"
	"drover/ipc"
	"drover/ipc/scoreboard"
)

// Engine answers requests on listeners. *http.Server has these methods.
type Engine interface {
	// Serve accepts on l until l is closed. It may be called for several
	// listeners, at once and one after the other.
	Serve(l net.Listener) error
	// Shutdown is called when every listener is closed: it closes idle
	// connections and returns when no request is in flight, or with ctx's error.
	Shutdown(ctx context.Context) error
}

// Attached is an Engine that counts on the scoreboard, keeps the limits, and
// asks its clients to close once draining is closed. drover's own engines are.
// Attach is called once, before Serve.
type Attached interface {
	Engine
	Attach(board *scoreboard.Board, limits config.HTTP, draining <-chan struct{}, log *slog.Logger)
}

// Serve has an engine answer on every listener of this worker, tells the master
// that it is ready, and blocks until the worker has drained: then it returns
// nil. It returns an error when the engine fails, or when requests were still in
// flight at the end of the drain time.
func (w *Worker) Serve(e Engine) error {
	attached, ok := e.(Attached)
	if !ok && w.wrap != nil {
		e = w.wrap(e)
		attached, ok = e.(Attached)
	}
	if ok {
		attached.Attach(w.board, w.config.HTTP, w.draining, w.log)
		if t, ok := e.(interface{ Trust(config.Trusted) }); ok {
			trusted, err := config.Trust(w.config.TrustedProxies...)
			if err != nil {
				return err
			}
			t.Trust(trusted)
		}
	}
	served := make(chan error)
	running := 0
	for _, l := range w.listeners {
		if ok && !w.config.HTTP.NoDeferAccept {
			l.deferAccept()
		}
		open, err := l.open()
		if err != nil {
			return err
		}
		running++
		go func() {
			err := e.Serve(open)
			if err != nil {
				err = fmt.Errorf("serve on %s: %w", l.address, err)
			}
			served <- err
		}()
	}
	w.Ready()
	siblings := &fosters{w: w, engine: e, open: map[int][]net.Listener{}}
	for running > 0 {
		select {
		case f := <-w.fosters:
			siblings.set(f.slot, f.on)
		case err := <-served:
			select {
			case <-w.draining:
				running--
				continue
			default:
			}
			// What the others still serve ends with the process.
			if err == nil {
				err = fmt.Errorf("the engine stopped serving unasked")
			}
			return err
		}
	}
	siblings.end()
	return w.drain(e)
}

// drain finishes what the worker has, within the drain time.
func (w *Worker) drain(e Engine) error {
	ctx, cancel := context.WithTimeout(context.Background(), w.life.Drain)
	defer cancel()
	w.lameDuck(ctx, e)
	if err := e.Shutdown(ctx); err != nil {
		w.dump()
		return fmt.Errorf("drain: requests were still in flight after %s: %w", w.life.Drain, err)
	}
	return nil
}

// dump prints what every goroutine does: some of them are the handlers that did
// not finish.
func (w *Worker) dump() {
	stacks := make([]byte, 1<<20) // of more it keeps the first
	w.log.Error("the drain time is over: what the goroutines do")
	_, _ = os.Stderr.Write(stacks[:runtime.Stack(stacks, true)])
}

// lameDuck keeps idle connections open for a while, in which every response
// asks its client to close. It ends early when no connection is left, and nobody
// is on the way any more.
func (w *Worker) lameDuck(ctx context.Context, e Engine) {
	final, closing := w.final, false
	over := time.Now().Add(w.life.LameDuck)
	const pace = 10 * time.Millisecond
	look := time.NewTicker(pace)
	defer look.Stop()
	for ended := false; !ended; {
		select {
		case <-final:
		case <-look.C:
		case <-ctx.Done():
		}
		ended = ctx.Err() != nil || !time.Now().Before(over)
		select {
		case <-final:
			final, closing = nil, true
			w.refuseNew()
		default:
		}
		if closing {
			asked := time.Now()
			nobody := ended || !w.handshakes()          // asked first: whoever got through since is queued
			look.Reset(max(pace, 10*time.Since(asked))) // dear among very many sockets
			w.serveQueued(e)
			if nobody {
				closing = false
				w.closeQueues()
			}
		}
		if open, counted := w.board.Connections(); counted && open == 0 && !closing {
			return
		}
	}
}

// refuseNew begins the end of every socket that we hold, our own and our siblings',
// since nobody will accept on them any more.
func (w *Worker) refuseNew() {
	for _, l := range w.lastToAccept() {
		if l.port() == 0 {
			continue // the master has removed its path, so that nobody comes any more
		}
		for _, fd := range l.raw() {
			// The master has done so; when it is dead, we do.
			if err := sys.RefuseNew(fd); err != nil && !errors.Is(err, syscall.EPERM) { // the master has told of that
				w.log.Error("refuse new connections", "address", l.address, "error", err)
			}
		}
	}
}

// handshakes reports whether a client is between its first packet and our queue: with
// TCP_DEFER_ACCEPT that is where one stays that has connected and not sent its request.
func (w *Worker) handshakes() bool {
	for _, l := range w.lastToAccept() {
		port := l.port()
		if port == 0 {
			continue
		}
		under, err := sys.Handshakes(port)
		if err != nil {
			w.log.Warn("look for handshakes under way: who connects right now may be reset", "address", l.address, "error", err)
		}
		if under {
			return true
		}
	}
	return false
}

// serveQueued serves what is queued on the sockets that nobody else accepts on.
func (w *Worker) serveQueued(e Engine) {
	for _, l := range w.lastToAccept() {
		q := l.queue()
		if !q.more() {
			continue
		}
		if err := e.Serve(l.over(q)); err != nil && !errors.Is(err, net.ErrClosed) { // as http.Server says that it is empty
			w.log.Error("serve what is queued", "address", l.address, "error", err)
		}
	}
}

// closeQueues tells the master that we accept no more: the kernel may refuse clients.
func (w *Worker) closeQueues() {
	for _, l := range w.lastToAccept() {
		for _, fd := range l.raw() {
			sys.Close(fd)
		}
	}
	w.say(ipc.Message{Kind: ipc.Closed})
}

// lastToAccept are the listeners whose queues end with us. Those that a service
// manager keeps are answered by whoever starts the app again.
func (w *Worker) lastToAccept() []*listener {
	return slices.DeleteFunc(slices.Clone(w.listeners), func(l *listener) bool { return l.kept })
}
