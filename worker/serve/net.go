package serve

import (
	"io"
	"net/http"
	"strconv"

	"github.com/valyala/fasthttp"
)

// overNet answers net/http's requests by a handler of fasthttp's that looks at no
// request's body.
func overNet(h fasthttp.RequestHandler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ctx fasthttp.RequestCtx
		ctx.Init(&fasthttp.Request{}, nil, nil)
		asked := &ctx.Request.Header
		asked.SetMethod(r.Method)
		asked.SetRequestURI(r.RequestURI)
		asked.SetHost(r.Host)
		for name, values := range r.Header {
			for _, v := range values {
				asked.Add(name, v)
			}
		}
		h(&ctx)
		defer func() { _ = ctx.Response.CloseBodyStream() }() // it was read, or nobody wants it
		answer := &ctx.Response
		for name, value := range answer.Header.All() {
			switch string(name) {
			case fasthttp.HeaderConnection, fasthttp.HeaderTransferEncoding, fasthttp.HeaderContentLength, fasthttp.HeaderServer:
			default:
				w.Header().Add(string(name), string(value))
			}
		}
		length := answer.Header.ContentLength()
		if !answer.IsBodyStream() && !answer.SkipBody {
			length = len(answer.Body())
		}
		if status := answer.StatusCode(); length >= 0 && status != http.StatusNotModified {
			w.Header().Set(fasthttp.HeaderContentLength, strconv.Itoa(length))
		}
		w.WriteHeader(answer.StatusCode())
		if answer.SkipBody || r.Method == http.MethodHead {
			return
		}
		var err error
		if body := answer.BodyStream(); body != nil {
			_, err = io.Copy(w, body)
		} else {
			_, err = w.Write(answer.Body())
		}
		if err != nil && err != http.ErrBodyNotAllowed {
			panic(http.ErrAbortHandler) // half a file must not look whole
		}
	})
}
