package middleware

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/valyala/fasthttp"
)

// Pages are HTML pages by the status that they stand for, such as 404; 0 is for each
// status from 400 on that has none. Where one has {id}, the request's X-Request-Id
// stands in what is sent: of a panic, the id that is in the log.
type Pages map[int][]byte

// page gives the page of a status, or nil.
func (p Pages) page(status int, id string) []byte {
	page, ok := p[status]
	if !ok && status >= 400 {
		page = p[0]
	}
	return bytes.ReplaceAll(page, []byte("{id}"), []byte(id))
}

const html = "text/html; charset=utf-8"

// bare reports whether an answer is an error that nobody has made a page of: as
// http.Error and RequestCtx.Error make it.
func bare(status int, contentType, coding string) bool {
	return status >= 400 && coding == "" && (contentType == "" || strings.HasPrefix(contentType, "text/plain"))
}

// failure is a panic that goes on to the engine, with the page to answer with.
type failure struct {
	value any
	pages Pages
}

// Answer is what the engine asks of a panic's value: what it was before, and the page
// for the id that is in the log; nil for none.
func (f failure) Answer(id string) (value any, contentType string, body []byte) {
	return f.value, html, f.pages.page(http.StatusInternalServerError, id)
}

// throw sends a panic on.
func (p Pages) throw(v any) {
	if _, is := v.(failure); !is && v != http.ErrAbortHandler {
		v = failure{v, p}
	}
	panic(v)
}

// FastPages answers errors of a fasthttp handler by pages: those in plain text, and
// panics.
func FastPages(p Pages, next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		defer func() {
			if v := recover(); v != nil {
				p.throw(v)
			}
		}()
		next(ctx)
		answer := &ctx.Response
		status := answer.StatusCode()
		if answer.IsBodyStream() || !bare(status, string(answer.Header.ContentType()), string(answer.Header.ContentEncoding())) {
			return
		}
		id, _ := ctx.UserValue(idKey{}).(string)
		if page := p.page(status, id); page != nil {
			ctx.SetContentType(html)
			ctx.SetBody(page)
		}
	}
}

// NetPages answers errors of a net/http handler by pages: those in plain text, and
// panics before the first byte.
func NetPages(p Pages, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				p.throw(v)
			}
		}()
		next.ServeHTTP(&paging{ResponseWriter: w, pages: p}, r)
	})
}

// paging is an answer whose error may be replaced.
type paging struct {
	http.ResponseWriter
	pages    Pages
	decided  bool
	replaced bool // what the handler writes is not sent
}

func (w *paging) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols || w.decided {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.decided = true
	h := w.Header()
	if bare(status, h.Get("Content-Type"), h.Get("Content-Encoding")) {
		if page := w.pages.page(status, h.Get(requestID)); page != nil {
			w.replaced = true
			h.Set("Content-Type", html)
			h.Del("Content-Length")
			w.ResponseWriter.WriteHeader(status)
			_, _ = w.ResponseWriter.Write(page) // the client has left: nobody is to be told
			return
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *paging) Write(p []byte) (int, error) {
	if w.decided = true; w.replaced {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *paging) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush sends what was written.
func (w *paging) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }
