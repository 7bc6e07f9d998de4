// Command websocket echoes the messages of WebSockets: with coder/websocket on
// net/http, ENGINE=nethttp, or with fasthttp/websocket on fasthttp. When the worker
// leaves, after a reload say, each socket gets a close frame with code 1001, "going
// away" (RFC 6455, section 7.4.1): its client comes again, and finds the successor.
package main

import (
	"cmp"
	"log"
	"net/http"
	"os"
	"time"

	"drover"

	coder "github.com/coder/websocket"
	fast "github.com/fasthttp/websocket"
	"github.com/valyala/fasthttp"
)

const goodbye = "the worker leaves: come again"

func main() {
	c := drover.Config{Listen: []drover.Listen{{Address: ":" + cmp.Or(os.Getenv("PORT"), "3000")}}, Workers: 1}
	drover.Main(c, func(w *drover.Worker) error {
		if os.Getenv("ENGINE") == "nethttp" {
			return w.Serve(drover.NetHTTP(http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) { onNet(w, res, req) })))
		}
		// A browser says which site the script is of; others may not speak for it.
		upgrader := &fast.FastHTTPUpgrader{} // which refuses another Origin than Host
		return w.Serve(drover.FastHTTP(func(ctx *fasthttp.RequestCtx) {
			if err := upgrader.Upgrade(ctx, func(c *fast.Conn) { onFast(w, c) }); err != nil {
				log.Print(err) // the client was answered
			}
		}))
	})
}

// onNet serves a socket until it ends.
func onNet(w *drover.Worker, res http.ResponseWriter, req *http.Request) {
	c, err := coder.Accept(res, req, nil) // which refuses another Origin than Host
	if err != nil {
		log.Print(err) // the client was answered
		return
	}
	done := make(chan struct{})
	defer close(done)
	defer c.CloseNow()
	go func() {
		select {
		case <-w.Draining():
			_ = c.Close(coder.StatusGoingAway, goodbye) // fails where the client was faster
		case <-done:
		}
	}()
	c.SetReadLimit(64 << 10)
	for {
		kind, text, err := c.Read(req.Context())
		if err != nil {
			return // it was closed, by either side
		}
		if err := c.Write(req.Context(), kind, text); err != nil {
			return
		}
	}
}

// onFast serves a socket until it ends.
func onFast(w *drover.Worker, c *fast.Conn) {
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-w.Draining():
			_ = c.WriteControl(fast.CloseMessage, fast.FormatCloseMessage(fast.CloseGoingAway, goodbye), time.Now().Add(time.Second))
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second)) // for its answer
		case <-done:
		}
	}()
	c.SetReadLimit(64 << 10)
	for {
		kind, text, err := c.ReadMessage()
		if err != nil {
			return // it was closed, by either side
		}
		if err := c.WriteMessage(kind, text); err != nil {
			return
		}
	}
}
