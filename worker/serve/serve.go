// Package serve is the built-in server of `drover serve`: the files of a
// directory, or, without one, a welcome page and three endpoints that are worth
// benchmarking.
package serve

import (
	_ "embed"
	"net/http"
	"strconv"

	"drover/config"
	"drover/worker"
	"drover/worker/engine"
	"drover/worker/middleware"
	"drover/worker/proxy"

	"github.com/valyala/fasthttp"
)

//go:embed welcome.html
var welcome []byte

// Config says what is served.
type Config struct {
	// Root is the directory whose files are served; empty for the welcome page.
	Root string
	// Stopping is closed when the app will stop soon: /healthz then answers 503.
	// Nil never closes.
	Stopping <-chan struct{}
	// Proxy is what goes elsewhere, but for /healthz, and which proxies before the app
	// are believed. Draining is a worker's.
	Proxy    []config.Proxy
	Trusted  config.Trusted
	Draining <-chan struct{}
}

// Engine makes what serves: on fasthttp, or on net/http where there is something to
// proxy, since that knows how to. Its error says what is wrong with the root.
func Engine(c Config) (worker.Engine, error) {
	if len(c.Proxy) == 0 {
		s, err := Server(c)
		if err != nil {
			return nil, err
		}
		return engine.FastHTTPServer(s), nil
	}
	h, err := handler(c)
	if err != nil {
		return nil, err
	}
	files := overNet(h)
	// It is closed by the end of the worker's life, which is the process's.
	p, err := proxy.New(proxy.Config{Routes: c.Proxy, Trusted: c.Trusted, Else: files, Draining: c.Draining})
	if err != nil {
		return nil, err
	}
	named := middleware.NetRequestID(c.Trusted, p) // what the upstreams are told, and the access log
	return engine.NetHTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			files.ServeHTTP(w, r)
			return
		}
		named.ServeHTTP(w, r)
	})), nil
}

// Server makes the server. Its error says what is wrong with the root.
func Server(c Config) (*fasthttp.Server, error) {
	h, err := handler(c)
	if err != nil {
		return nil, err
	}
	return &fasthttp.Server{Handler: h}, nil
}

// handler makes the handler. It resolves the root, a symbolic link too, once: a
// link that was moved is followed by the next life.
//
// /healthz is always the health check, and hides a file of that name. Files and
// directories whose names begin with '.' are not served, but for /.well-known/,
// nor is anything behind a link that leads out of the root; a directory is its
// index.html. What there is not is answered by the root's 404.html, where it has
// one.
func handler(c Config) (fasthttp.RequestHandler, error) {
	var site *site
	if c.Root != "" {
		var err error
		if site, err = newSite(c.Root); err != nil {
			return nil, err
		}
	}
	return func(ctx *fasthttp.RequestCtx) {
		if !ctx.IsGet() && !ctx.IsHead() {
			ctx.Response.Header.Set("Allow", "GET, HEAD")
			plain(ctx, fasthttp.StatusMethodNotAllowed, "method not allowed\n")
			return
		}
		// Most requests name a page as it is: taken so, no URI is parsed.
		if target := ctx.RequestURI(); c.Root == "" && page(ctx, target) {
			return
		}
		switch path := ctx.Path(); {
		case string(path) == "/healthz":
			health(ctx, c.Stopping)
		case site != nil:
			site.serve(ctx)
		case !page(ctx, path):
			notFound(ctx)
		}
	}, nil
}

// page answers with the welcome page or one of its endpoints, or reports that the
// path is none of them.
func page(ctx *fasthttp.RequestCtx, path []byte) bool {
	switch string(path) {
	case "/":
		ctx.SetContentType("text/html; charset=utf-8")
		ctx.SetBody(welcome)
	case "/plaintext":
		plain(ctx, fasthttp.StatusOK, "Hello, World!")
	case "/json":
		ctx.SetContentType("application/json")
		var buf [64]byte
		ctx.SetBody(appendMessage(buf[:0], "Hello, World!"))
	default:
		return false
	}
	return true
}

func notFound(ctx *fasthttp.RequestCtx) { plain(ctx, fasthttp.StatusNotFound, "not found\n") }

// appendMessage encodes {"message": text} for each request, as a benchmark of
// JSON is to.
func appendMessage(dst []byte, text string) []byte {
	dst = append(dst, `{"message":`...)
	dst = strconv.AppendQuote(dst, text) // as JSON quotes it, for printable ASCII
	return append(dst, '}')
}

func plain(ctx *fasthttp.RequestCtx, status int, text string) {
	ctx.SetStatusCode(status)
	ctx.SetContentType("text/plain; charset=utf-8")
	ctx.SetBodyString(text)
}

// health answers load balancers.
func health(ctx *fasthttp.RequestCtx, stopping <-chan struct{}) {
	select {
	case <-stopping:
		plain(ctx, fasthttp.StatusServiceUnavailable, "stopping\n")
	default:
		plain(ctx, fasthttp.StatusOK, "ok\n")
	}
}
