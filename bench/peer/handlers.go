package main

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/valyala/fasthttp"
)

const (
	hello   = "Hello, World!"
	textual = "text/plain; charset=utf-8"
)

// message is what /json encodes, anew for each request.
type message struct {
	Message string `json:"message"`
}

// fast is the handler of every server on fasthttp.
func fast(o options) fasthttp.RequestHandler {
	db := newStore(o.redis)
	files := func(ctx *fasthttp.RequestCtx) { ctx.Error("not found\n", fasthttp.StatusNotFound) }
	if o.files != "" {
		files = (&fasthttp.FS{Root: o.files, AcceptByteRange: true}).NewRequestHandler()
	}
	return func(ctx *fasthttp.RequestCtx) {
		switch string(ctx.Path()) {
		case "/plaintext":
			ctx.SetContentType(textual)
			ctx.SetBodyString(hello)
		case "/json":
			body, err := json.Marshal(message{hello})
			if err != nil {
				ctx.Error(err.Error(), fasthttp.StatusInternalServerError)
				return
			}
			ctx.SetContentType("application/json")
			ctx.SetBody(body)
		case "/redis":
			body, err := db.get("hello")
			if err != nil {
				ctx.Error(err.Error(), fasthttp.StatusBadGateway)
				return
			}
			ctx.SetContentType(textual)
			ctx.SetBody(body)
		default:
			files(ctx)
		}
	}
}

// std is the handler of every server on net/http.
func std(o options) http.Handler {
	db := newStore(o.redis)
	files := http.NotFoundHandler()
	if o.files != "" {
		files = http.FileServer(http.Dir(o.files))
	}
	write := func(w http.ResponseWriter, contentType string, body []byte) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "peer")
		switch r.URL.Path {
		case "/plaintext":
			write(w, textual, []byte(hello))
		case "/json":
			body, err := json.Marshal(message{hello})
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			write(w, "application/json", body)
		case "/redis":
			body, err := db.get("hello")
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			write(w, textual, body)
		default:
			files.ServeHTTP(w, r)
		}
	})
}
