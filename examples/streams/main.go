// Command streams takes bodies while they arrive, and answers in pieces, on both
// engines: ENGINE=nethttp, or fasthttp. What streams and pipe() are in Node, is an
// io.Reader and an io.Writer here: whoever reads slowly slows who writes, and
// nothing is ever held whole.
//
//	curl -T big.iso http://localhost:3000/upload
//	curl -o /dev/null 'http://localhost:3000/download?bytes=1000000000'
//	curl -N http://localhost:3000/events
//	curl -N -T - http://localhost:3000/echo
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"

	"drover"

	"github.com/valyala/fasthttp"
)

func main() {
	c := drover.Config{
		Listen: []drover.Listen{{Address: ":" + port()}}, Workers: 1,
		// A body of any length: 413 is answered beyond 4 MiB else.
		HTTP: drover.HTTP{BodyBytes: -1},
	}
	drover.Main(c, func(w *drover.Worker) error {
		if os.Getenv("ENGINE") == "nethttp" {
			return w.Serve(drover.NetHTTP(routes(w)))
		}
		return w.Serve(drover.FastHTTPServer(&fasthttp.Server{
			Handler: func(ctx *fasthttp.RequestCtx) { fast(w, ctx) },
			// The handler runs when the header is there, and reads the body itself.
			StreamRequestBody: true,
			// Forms too: else they would be read before the handler runs.
			DisablePreParseMultipartForm: true,
		}))
	})
}

func port() string {
	if p := os.Getenv("PORT"); p != "" {
		return p
	}
	return "3000"
}

// produce writes n bytes. The writer waits while the client does not read, and
// fails when it has left.
func produce(w io.Writer, n int64) {
	piece := make([]byte, 32<<10)
	for n > 0 {
		size := min(n, int64(len(piece)))
		if _, err := w.Write(piece[:size]); err != nil {
			return
		}
		n -= size
	}
}

// events writes server-sent events until the client leaves, or the worker drains:
// then the browser's EventSource comes again, and finds another worker.
func events(w io.Writer, flush func() error, gone, draining <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	defer log.Print("the events' client has left, or is sent away")
	for n := 1; ; n++ {
		if _, err := fmt.Fprintf(w, "id: %d\ndata: it is %s\n\n", n, time.Now().Format(time.RFC3339Nano)); err != nil || flush() != nil {
			return
		}
		select {
		case <-gone:
			return
		case <-draining:
			return
		case <-tick.C:
		}
	}
}

// routes is the net/http side.
func routes(w *drover.Worker) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /upload", func(res http.ResponseWriter, req *http.Request) {
		n, err := io.Copy(io.Discard, req.Body) // to a file, a hash, another server …
		if err != nil {
			log.Printf("the upload was cut after %d bytes: %v", n, err)
			return
		}
		fmt.Fprintf(res, "%d bytes, worker %d\n", n, os.Getpid())
	})
	mux.HandleFunc("GET /download", func(res http.ResponseWriter, req *http.Request) {
		n, err := strconv.ParseInt(req.FormValue("bytes"), 10, 64)
		if err != nil || n < 0 {
			http.Error(res, "bytes: want a number", http.StatusBadRequest)
			return
		}
		res.Header().Set("Worker", strconv.Itoa(os.Getpid()))
		produce(res, n)
	})
	mux.HandleFunc("GET /events", func(res http.ResponseWriter, req *http.Request) {
		res.Header().Set("Content-Type", "text/event-stream")
		res.Header().Set("Cache-Control", "no-store")
		events(res, http.NewResponseController(res).Flush, req.Context().Done(), w.Draining())
	})
	mux.HandleFunc("PUT /echo", func(res http.ResponseWriter, req *http.Request) {
		out := http.NewResponseController(res)
		if err := out.EnableFullDuplex(); err != nil { // answers before the body has ended
			http.Error(res, err.Error(), http.StatusHTTPVersionNotSupported)
			return
		}
		for buf := make([]byte, 32<<10); ; {
			n, err := req.Body.Read(buf)
			if _, werr := res.Write(buf[:n]); werr != nil || out.Flush() != nil || err != nil {
				return
			}
		}
	})
	return mux
}

// fast is the fasthttp side. A body's stream runs after the handler has returned: what
// it needs of ctx is taken before. By drover.Stream its panic costs one client its
// answer; by ctx.SetBodyStreamWriter it would cost the worker.
func fast(w *drover.Worker, ctx *fasthttp.RequestCtx) {
	switch string(ctx.Method()) + " " + string(ctx.Path()) {
	case "PUT /upload":
		n, err := io.Copy(io.Discard, ctx.RequestBodyStream())
		if err != nil {
			log.Printf("the upload was cut after %d bytes: %v", n, err)
			ctx.Error("the body ended too early", fasthttp.StatusBadRequest)
			return
		}
		fmt.Fprintf(ctx, "%d bytes, worker %d\n", n, os.Getpid())
	case "GET /download":
		n, err := strconv.ParseInt(string(ctx.QueryArgs().Peek("bytes")), 10, 64)
		if err != nil || n < 0 {
			ctx.Error("bytes: want a number", fasthttp.StatusBadRequest)
			return
		}
		ctx.Response.Header.Set("Worker", strconv.Itoa(os.Getpid()))
		drover.Stream(ctx, func(out *bufio.Writer) { produce(out, n) })
	case "GET /events":
		ctx.SetContentType("text/event-stream")
		ctx.Response.Header.Set("Cache-Control", "no-store")
		gone := drover.Gone(ctx)
		drover.Stream(ctx, func(out *bufio.Writer) { events(out, out.Flush, gone, w.Draining()) })
	case "PUT /echo":
		// Sent in chunks, as it comes. Never without the wrapping: fasthttp would release
		// the stream twice, and give it to two connections at once.
		ctx.SetBodyStream(struct{ io.Reader }{ctx.RequestBodyStream()}, -1)
	default:
		ctx.Error("not found", fasthttp.StatusNotFound)
	}
}
