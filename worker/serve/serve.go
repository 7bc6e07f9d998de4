// Package serve is the built-in server of `drover serve`: the files of a
// directory, or, without one, a welcome page and three endpoints that are worth
// benchmarking.
package serve

import (
	"bytes"
	_ "embed"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

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
}

// fresh is how long a file may be served as it was before it changed.
const fresh = time.Second

// Server makes the server. Its error says what is wrong with the root.
func Server(c Config) (*fasthttp.Server, error) {
	h, err := handler(c)
	if err != nil {
		return nil, err
	}
	return &fasthttp.Server{Handler: h, Logger: unimpressed{slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn)}}, nil
}

// unimpressed is a log without what clients cause by asking for files that there
// are not, which fasthttp.FS would log for each request.
type unimpressed struct{ fasthttp.Logger }

func (u unimpressed) Printf(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	for _, usual := range []string{
		"no such file or directory", "not a directory", "path escapes from parent", "file name too long",
		"too many levels of symbolic links", "cannot access directory without index page", "cannot parse byte range",
	} {
		if strings.Contains(line, usual) {
			return
		}
	}
	u.Logger.Printf("%s", line)
}

// handler makes the handler. It resolves the root, a symbolic link too, once: a
// link that was moved is followed by the next life.
//
// /healthz is always the health check, and hides a file of that name. Files and
// directories whose names begin with '.' are not served, nor is anything behind
// a link that leads out of the root; a directory is its index.html.
func handler(c Config) (fasthttp.RequestHandler, error) {
	var site fasthttp.RequestHandler
	if c.Root != "" {
		var err error
		if site, err = files(c.Root); err != nil {
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
			site(ctx)
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

// files serves the files below root.
func files(root string) (fasthttp.RequestHandler, error) {
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", root, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", root, err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("serve %s: it is a file: want a directory", root)
	}
	// os.Root keeps every lookup below the directory, links included. It stays
	// open as long as the worker lives.
	dir, err := os.OpenRoot(real)
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", root, err)
	}
	fs := &fasthttp.FS{
		FS:              dir.FS(),
		IndexNames:      []string{"index.html"},
		AcceptByteRange: true,
		CacheDuration:   fresh,
		PathNotFound:    notFound,
	}
	serve, kept := fs.NewRequestHandler(), newCache(dir)
	return func(ctx *fasthttp.RequestCtx) {
		if path := ctx.Path(); bytes.Contains(path, []byte("/.")) || bytes.IndexByte(path, 0) >= 0 {
			notFound(ctx)
			return
		}
		if kept.serve(ctx) {
			return
		}
		serve(ctx)
		if ctx.Response.StatusCode() == fasthttp.StatusForbidden { // a directory without index.html
			notFound(ctx)
		}
		kept.answered(ctx)
	}, nil
}
