// Command answers has what an answer can be beside a body, on both engines:
// ENGINE=nethttp, or fasthttp.
//
//	GET /hints     103 Early Hints, then 200: the browser fetches the style meanwhile
//	GET /sum       a trailer behind the body: a sum that is known at its end only
//	DELETE /item   204, nothing
//	GET /version   304 where the client has it: ETag and If-None-Match
//	PUT /echo      a client that waits for 100 Continue is told to go on
//	HEAD           of each what GET has, without the body
package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"strings"

	"drover"

	"github.com/valyala/fasthttp"
)

const (
	text    = "so it goes\n"
	link    = "</style.css>; rel=preload; as=style"
	version = `"7"`
)

func main() {
	c := drover.Config{Listen: []drover.Listen{{Address: ":" + cmp.Or(os.Getenv("PORT"), "3000")}}, Workers: 1}
	drover.Main(c, func(w *drover.Worker) error {
		if os.Getenv("ENGINE") == "nethttp" {
			return w.Serve(drover.NetHTTP(onNet()))
		}
		return w.Serve(drover.FastHTTP(onFast))
	})
}

func onNet() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hints", func(res http.ResponseWriter, req *http.Request) {
		res.Header().Add("Link", link)
		res.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(res, text)
	})
	mux.HandleFunc("GET /sum", func(res http.ResponseWriter, req *http.Request) {
		res.Header().Set("Trailer", "X-Sum")
		sum := sha256.New()
		_, _ = io.Copy(io.MultiWriter(res, sum), strings.NewReader(text))
		res.Header().Set("X-Sum", hex.EncodeToString(sum.Sum(nil)))
	})
	mux.HandleFunc("DELETE /item", func(res http.ResponseWriter, req *http.Request) { res.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /version", func(res http.ResponseWriter, req *http.Request) {
		res.Header().Set("ETag", version)
		if req.Header.Get("If-None-Match") == version {
			res.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = io.WriteString(res, text)
	})
	mux.HandleFunc("PUT /echo", func(res http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body) // the first read sends 100 Continue
		if err != nil {
			http.Error(res, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = res.Write(body)
	})
	return mux
}

func onFast(ctx *fasthttp.RequestCtx) {
	header := &ctx.Response.Header
	method := string(ctx.Method())
	if method == http.MethodHead {
		method = http.MethodGet // the engine leaves the body out
	}
	switch method + " " + string(ctx.Path()) {
	case "GET /hints":
		header.Add("Link", link)
		if err := ctx.EarlyHints(); err != nil {
			return // the client has left
		}
		ctx.SetBodyString(text)
	case "GET /sum":
		if err := header.SetTrailer("X-Sum"); err != nil {
			panic(err) // it is a name that no trailer may have
		}
		ctx.SetBodyStream(&summed{Reader: bytes.NewReader([]byte(text)), header: header}, -1)
	case "DELETE /item":
		ctx.SetStatusCode(fasthttp.StatusNoContent)
	case "GET /version":
		header.Set("ETag", version)
		if string(ctx.Request.Header.Peek("If-None-Match")) == version {
			ctx.SetStatusCode(fasthttp.StatusNotModified)
			return
		}
		ctx.SetBodyString(text)
	case "PUT /echo":
		ctx.SetBody(ctx.PostBody()) // 100 Continue was sent before the handler was called
	default:
		ctx.Error("not found", fasthttp.StatusNotFound)
	}
}

// summed is a body that sets its trailer at its end, which comes while the answer is
// sent.
type summed struct {
	io.Reader
	header *fasthttp.ResponseHeader
	text   []byte
}

func (s *summed) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.text = append(s.text, p[:n]...)
	if err == io.EOF {
		sum := sha256.Sum256(s.text)
		s.header.Set("X-Sum", hex.EncodeToString(sum[:]))
	}
	return n, err
}
