// A reverse proxy on port $PORT: /api goes to the servers of $UPSTREAMS, with ','
// between them, and the rest is answered here. $TRUSTED is a network of proxies before
// it, who are believed who the client is.
//
//	app.use("/api", createProxyMiddleware({target, ws: true})); app.set("trust proxy", …)
package main

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"strings"

	"drover"
	"drover/config"
	"drover/worker/middleware"
	"drover/worker/proxy"
)

func main() {
	c := drover.Config{Workers: 2, Listen: []drover.Listen{{Address: ":" + cmp.Or(os.Getenv("PORT"), "3000")}}}
	drover.Main(c, func(w *drover.Worker) error {
		trusted, err := config.Trust(os.Getenv("TRUSTED"))
		if err != nil {
			return err
		}
		p, err := proxy.New(proxy.Config{
			Routes:   []config.Proxy{{Prefix: "/api", Upstreams: strings.Split(os.Getenv("UPSTREAMS"), ","), StripPrefix: true}},
			Trusted:  trusted,
			Draining: w.Draining(), // closes WebSockets
			Else: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(rw, "hello %s\n", middleware.NetClient(r, trusted))
			}),
		})
		if err != nil {
			return err
		}
		defer p.Close()
		return w.Serve(drover.NetHTTP(p))
	})
}
