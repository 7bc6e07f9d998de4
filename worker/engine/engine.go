// Package engine answers HTTP requests on a worker's listeners, with fasthttp
// or net/http, under the same limits: it counts on the scoreboard, recovers
// panics, cuts clients that make no progress, and drains without losing a
// request. It knows nothing of masters.
package engine

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"sync"

	"drover/config"
	"drover/ipc/scoreboard"
)

// base is what both engines have.
type base struct {
	*tracker
	log *slog.Logger
	// trusted are proxies before the engine, whose clients the access log is to have.
	trusted config.Trusted
	setup   sync.Once // fills the server's settings in, before the first Serve

	access   *accessLog // nil: none
	setupErr error      // what setup found
}

func newBase(byHand bool) base {
	return base{tracker: newTracker(byHand), log: slog.Default()}
}

// Attach gives the engine its scoreboard, limits, the channel whose closing
// begins a drain, and its log. It is called once, before Serve. An engine that
// is not attached counts for itself, and has the default limits.
func (b *base) Attach(board *scoreboard.Board, limits config.HTTP, draining <-chan struct{}, log *slog.Logger) {
	b.board, b.limits, b.draining, b.log = board, limits.WithDefaults(), draining, log
	board.Count()
}

// Trust says which proxies' word on who the client is is believed. It is called before
// Serve, if at all: nobody's.
func (b *base) Trust(proxies config.Trusted) { b.trusted = proxies }

// RequestIDHeader is the field by which an answer names its request, where a
// middleware has named it.
const RequestIDHeader = "X-Request-Id"

// named is the id of a request whose handler panicked: as its answer has it, or a
// new one.
func named(id string) string {
	if id == "" {
		id = fmt.Sprintf("%016x", rand.Uint64())
	}
	return id
}

// failed takes a panic's value apart, and gives the 500 to answer with: a page that
// the value brings along, as one of middleware's Pages does, or the id alone, by
// which its line in the log is found.
func failed(v any, id string) (value any, contentType string, body []byte) {
	if f, ok := v.(interface {
		Answer(id string) (value any, contentType string, body []byte)
	}); ok {
		if v, contentType, body = f.Answer(id); body != nil {
			return v, contentType, body
		}
	}
	return v, "text/plain; charset=utf-8", []byte("Internal Server Error\nrequest " + id + "\n")
}

// panicked counts and logs a handler's panic, or ends the process where that is
// wanted.
func (b *base) panicked(v any, method, path, id string) {
	b.board.Panicked()
	stack := debug.Stack()
	if b.limits.CrashOnPanic {
		fmt.Fprintf(os.Stderr, "panic: %v (answering %s %s)\n\n%s", v, method, path, stack)
		os.Exit(2) // as the runtime does
	}
	b.log.Error(fmt.Sprintf("a handler panicked: %v", v), "id", id, "method", method, "path", path)
	fmt.Fprintf(os.Stderr, "%s", stack)
}

// A client that speaks HTTP/2 unasked begins with what looks like a request, "PRI *
// HTTP/2.0", so that a server of HTTP/1.1 refuses it (RFC 9113, section 3.4). No other
// request has the method.
const (
	prefaceMethod = "PRI"
	prefaceAnswer = "HTTP/2 is not spoken here in plain text: ask by HTTP/1.1"
)
