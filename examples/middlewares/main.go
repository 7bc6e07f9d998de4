// Command middlewares puts everything of drover/worker/middleware around a handler, on
// both engines: ENGINE=nethttp, or fasthttp. The outermost comes first to a request,
// and last to its answer.
package main

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"drover"
	"drover/config"
	"drover/worker/middleware"

	"github.com/valyala/fasthttp"
)

var (
	pages = middleware.Pages{
		404: []byte("<!doctype html><title>Not here</title><p>There is no such page."),
		0:   []byte("<!doctype html><title>Sorry</title><p>That went wrong. Tell us this number, and we know more: {id}"),
	}

	cors = middleware.CORS{Origins: []string{"https://app.example"}, Methods: []string{"PUT"}, MaxAge: time.Hour}

	security = middleware.Security{HSTS: 180 * 24 * time.Hour}
)

func main() {
	c := drover.Config{
		Listen: []drover.Listen{{Address: ":" + cmp.Or(os.Getenv("PORT"), "3000")}}, Workers: 1,
		HTTP: drover.HTTP{AccessLog: "json", AccessFile: os.Getenv("ACCESS_FILE")},
	}
	drover.Main(c, func(w *drover.Worker) error {
		proxies, err := config.Trust("127.0.0.0/8") // who may name a request: the proxy before us
		if err != nil {
			return err
		}
		if os.Getenv("ENGINE") == "nethttp" {
			h := middleware.NetCompress(http.HandlerFunc(onNet))
			h = middleware.NetSecurity(security, middleware.NetCORS(cors, h))
			return w.Serve(drover.NetHTTP(middleware.NetRequestID(proxies, middleware.NetPages(pages, h))))
		}
		h := middleware.FastCompress(onFast)
		h = middleware.FastSecurity(security, middleware.FastCORS(cors, h))
		return w.Serve(drover.FastHTTP(middleware.FastRequestID(proxies, middleware.FastPages(pages, h))))
	})
}

var long = strings.Repeat("so it goes\n", 1000)

func onNet(res http.ResponseWriter, req *http.Request) {
	switch req.URL.Path {
	case "/":
		fmt.Fprint(res, long)
	case "/panic":
		panic("the handler's own fault")
	default:
		http.NotFound(res, req)
	}
}

func onFast(ctx *fasthttp.RequestCtx) {
	switch string(ctx.Path()) {
	case "/":
		ctx.WriteString(long)
	case "/panic":
		panic("the handler's own fault")
	default:
		ctx.NotFound()
	}
}
