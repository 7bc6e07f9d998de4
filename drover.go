// Package drover runs a Go program on every core of a machine and keeps it
// serving: a master process holds the listening sockets, one worker process per
// CPU accepts on its own, and the master restarts what crashes and reloads
// without losing a request.
//
//	func main() {
//		drover.Main(drover.Config{Listen: []drover.Listen{{Address: ":3000"}}}, func(w *drover.Worker) error {
//			return w.Serve(drover.FastHTTP(func(ctx *fasthttp.RequestCtx) { ctx.WriteString("hello") }))
//		})
//	}
//
// The function runs in the workers only; the same program, started by itself,
// is their master, and started by `drover run` it joins that one.
package drover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"drover/config"
	"drover/master"
	"drover/master/admin"
	"drover/master/launch"
	"drover/master/listen"
	"drover/worker"
	"drover/worker/engine"

	"github.com/valyala/fasthttp"
)

type (
	// Config describes the app: its addresses, workers, timeouts and limits.
	Config = config.Config
	// Listen is one address of a Config.
	Listen = config.Listen
	// TLS says how an address is encrypted, in Listen.
	TLS = config.TLS
	// Certificate is a pair of files of a TLS.
	Certificate = config.Certificate
	// HTTP holds the engines' timeouts and limits of a Config.
	HTTP = config.HTTP
	// Worker is this process as a worker: what the function of Main is given.
	Worker = worker.Worker
	// Message is what another worker has sent, or published.
	Message = worker.Message
	// Engine answers requests on a worker's listeners: FastHTTP, NetHTTP, a
	// *http.Server, or anything with its Serve and Shutdown.
	Engine = worker.Engine
)

// What Listen.Steering may be: which worker a new connection goes to.
const (
	Spread = config.Spread // evenly over the workers that serve
	Sticky = config.Sticky // by the client's address
	CPU    = config.CPU    // by the CPU that received it
	Shared = config.Shared // one socket for all workers
)

// ErrNeverReady is what Run's error wraps when the master gave up because no
// worker ever became ready.
var ErrNeverReady = master.ErrNeverReady

// ErrQueueFull is what Worker.Send, Reply and Publish return while too much waits to be
// sent.
var ErrQueueFull = worker.ErrQueueFull

// FastHTTP is an engine that answers with a fasthttp handler.
func FastHTTP(h fasthttp.RequestHandler) Engine { return engine.FastHTTP(h) }

// FastHTTPServer is an engine of a fasthttp server with settings of its own;
// drover's limits hold where it sets none. The engine takes the server over.
func FastHTTPServer(s *fasthttp.Server) Engine { return engine.FastHTTPServer(s) }

// NetHTTP is an engine that answers with a net/http handler.
func NetHTTP(h http.Handler) Engine { return engine.NetHTTP(h) }

// Gone is closed when the client of a fasthttp request has left, at most a second
// later: what the Done of a net/http request's context is. The handler calls it; the
// channel may be used after it has returned, as by a body's stream.
func Gone(ctx *fasthttp.RequestCtx) <-chan struct{} { return engine.Gone(ctx) }

// Stream has a function write the body of a fasthttp answer, in chunks, after the handler
// has returned, as ctx.SetBodyStreamWriter has it; but where the function panics, the
// panic is logged and the client cut off, and with that the worker would end.
func Stream(ctx *fasthttp.RequestCtx, write func(w *bufio.Writer)) { engine.Stream(ctx, write) }

// BodyStatus is the status to answer with when a handler could not read a request's
// body: 413 where it is too large, 408 where it came too slowly, else 400.
func BodyStatus(err error) int { return engine.BodyStatus(err) }

// Main is Run with the process around it: TERM and INT stop the app gracefully,
// a second one at once, HUP reloads it, USR1 has log files opened anew, TTIN and TTOU
// make one worker more or fewer. It prints an error as one line and ends
// the process with its ExitCode.
func Main(c Config, serve func(*Worker) error) {
	var signals chan os.Signal
	if !worker.Started() {
		signals = make(chan os.Signal, 4)
		signal.Notify(signals, master.Signals()...)
	}
	err := run(context.Background(), c, serve, signals)
	if err != nil {
		fmt.Fprintf(os.Stderr, "drover: %v\n", err)
	}
	os.Exit(ExitCode(err))
}

// Run runs the app until ctx ends, which stops it gracefully, or `drover stop`.
// In a process that a master has started it is a worker instead: it calls
// serve, and returns its error once the worker has drained; the process should
// end then. serve is called in workers only. Run blocks; call it once, early in
// main, since whatever comes before it happens in each worker too.
func Run(ctx context.Context, c Config, serve func(*Worker) error) error {
	return run(ctx, c, serve, nil)
}

// ExitCode is the exit code that says what Run returned: 0 for nil, 2 for a
// Config that is wrong, 3 for ErrNeverReady, 1 for anything else.
func ExitCode(err error) int {
	var address *config.AddressError
	var wrong *config.Error
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrNeverReady):
		return 3
	case errors.As(err, &address):
		return 1
	case errors.As(err, &wrong):
		return 2
	}
	return 1
}

func run(ctx context.Context, c Config, serve func(*Worker) error, signals <-chan os.Signal) error {
	if worker.Started() {
		w, err := worker.Join(worker.Options{Config: c, Wrap: wrap})
		if err != nil {
			return err
		}
		err = serve(w)
		w.FlushMessages(time.Second)
		return err
	}
	if len(c.Listen) == 0 && !listen.HasActivated() {
		return &config.Error{Field: "listen", Why: "no address: want at least one, such as :3000"}
	}
	path, dir, err := launch.Self()
	if err != nil {
		return err
	}
	return master.Supervise(ctx, master.Options{
		Load: func() (Config, *launch.Program, error) {
			p, err := launch.Pin(path, os.Args, os.Environ(), dir)
			return c, p, err
		},
		DefaultName: filepath.Base(path),
		Stdout:      os.Stdout,
		Stderr:      os.Stderr,
		Signals:     signals,
		RuntimeDir:  admin.RuntimeDir(),
	})
}

// wrap makes an engine of a *http.Server that counts, limits and drains. Others
// serve as they are, uncounted.
func wrap(e Engine) Engine {
	if s, ok := e.(*http.Server); ok {
		return engine.Server(s)
	}
	return e
}
