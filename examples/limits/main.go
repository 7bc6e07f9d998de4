// Command limits has each limit of a Node server by the name that it has here, on both
// engines: ENGINE=nethttp, or fasthttp. All are on by default; these are shorter.
//
//	server.on("clientError", …) answers 400, 408, 413, 414, 431, 501 and 505 by itself
package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"drover"

	"github.com/valyala/fasthttp"
)

func main() {
	c := drover.Config{
		Listen: []drover.Listen{{Address: ":" + cmp.Or(os.Getenv("PORT"), "3000")}}, Workers: 1,
		HTTP: drover.HTTP{
			HeaderTimeout:      300 * time.Millisecond, // headersTimeout: from its first byte to the header's end
			BodyTimeout:        300 * time.Millisecond, // a body that makes no progress
			RequestTimeout:     10 * time.Second,       // requestTimeout: for all of a body, however steadily it comes
			WriteTimeout:       10 * time.Second,       // server.setTimeout: an answer that makes no progress
			IdleTimeout:        5 * time.Second,        // keepAliveTimeout: between two requests
			HeaderBytes:        4 << 10,                // maxHeaderSize
			BodyBytes:          1000,                   // what a body parser's limit is
			Connections:        1000,                   // maxConnections of each worker: further ones wait
			ConnectionRequests: 3,                      // maxRequestsPerSocket
		},
	}
	drover.Main(c, func(w *drover.Worker) error {
		if os.Getenv("ENGINE") == "nethttp" {
			return w.Serve(drover.NetHTTP(http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
				body, err := io.ReadAll(req.Body)
				if err != nil {
					http.Error(res, err.Error(), drover.BodyStatus(err))
					return
				}
				fmt.Fprintf(res, "%d bytes\n", len(body))
			})))
		}
		return w.Serve(drover.FastHTTP(func(ctx *fasthttp.RequestCtx) { // which has read the body before
			fmt.Fprintf(ctx, "%d bytes\n", len(ctx.PostBody()))
		}))
	})
}
