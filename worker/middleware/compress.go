package middleware

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	brotli "github.com/molecule-man/go-brrr"
	"github.com/valyala/fasthttp"
)

// How hard is compressed. Zstd's level is fasthttp's, from 1 to 4.
const (
	brotliLevel = 5
	gzipLevel   = 6
	zstdLevel   = fasthttp.CompressZstdDefault
)

// windowBits bounds what an encoder of a stream looks back to, and so its memory:
// 256 KiB, of which it has a few.
const windowBits = 18

// Compressed compresses a whole body by one of Codings.
func Compressed(coding string, body []byte) []byte {
	switch coding {
	case Brotli:
		return fasthttp.AppendBrotliBytesLevel(nil, body, brotliLevel)
	case Zstd:
		return fasthttp.AppendZstdBytesLevel(nil, body, zstdLevel)
	case Gzip:
		return fasthttp.AppendGzipBytesLevel(nil, body, gzipLevel)
	}
	panic("middleware: no coding of that name: " + coding)
}

// compresses reports whether an answer may be compressed: it has a body that is all
// of something (RFC 9110, section 15.3.7), no coding yet, gets smaller by one, and
// nobody forbids it (RFC 9111, section 5.2.2.6).
func compresses(status int, coding, contentType, cacheControl string) bool {
	switch {
	case status < 200, status == http.StatusNoContent, status == http.StatusPartialContent, status == http.StatusNotModified:
		return false
	}
	return coding == "" && Compressible(contentType) && !strings.Contains(strings.ToLower(cacheControl), "no-transform")
}

// weakened is the tag of an answer that is compressed: it is no more the same byte
// for byte (RFC 9110, section 8.8.1).
func weakened(tag string) string {
	if tag == "" || strings.HasPrefix(tag, "W/") {
		return tag
	}
	return "W/" + tag
}

// byCoding are fasthttp's own, each for one coding.
var byCoding = map[string]fasthttp.RequestHandler{
	Brotli: fasthttp.CompressHandlerBrotliLevel(func(*fasthttp.RequestCtx) {}, brotliLevel, gzipLevel),
	Zstd:   fasthttp.CompressHandlerLevel(func(*fasthttp.RequestCtx) {}, zstdLevel),
	Gzip:   fasthttp.CompressHandlerLevel(func(*fasthttp.RequestCtx) {}, gzipLevel),
}

// FastCompress compresses what a handler answers by what the client accepts, streams
// too, piece by piece.
func FastCompress(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		next(ctx)
		answer := &ctx.Response
		header := &answer.Header
		if ctx.Hijacked() || !compresses(answer.StatusCode(), string(header.ContentEncoding()), string(header.ContentType()), string(header.Peek(fasthttp.HeaderCacheControl))) {
			return
		}
		header.Add(fasthttp.HeaderVary, fasthttp.HeaderAcceptEncoding)
		if !answer.IsBodyStream() && len(answer.Body()) < MinCompressed {
			return
		}
		coding := Negotiate(ctx.Request.Header.Peek(fasthttp.HeaderAcceptEncoding))
		if coding == "" {
			return
		}
		ctx.Request.Header.Set(fasthttp.HeaderAcceptEncoding, coding) // what fasthttp goes by
		byCoding[coding](ctx)
		if len(header.ContentEncoding()) > 0 {
			header.Del(fasthttp.HeaderAcceptRanges)
			if tag := header.Peek(fasthttp.HeaderETag); len(tag) > 0 {
				header.Set(fasthttp.HeaderETag, weakened(string(tag)))
			}
		}
	}
}

// NetCompress compresses what a handler answers by what the client accepts, piece by
// piece where the handler flushes. An answer to HEAD has no Content-Length where one
// to GET would be compressed.
func NetCompress(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &compressing{ResponseWriter: w, request: r, coding: Negotiate([]byte(strings.Join(r.Header.Values("Accept-Encoding"), ",")))}
		next.ServeHTTP(c, r)
		c.end() // a panic leaves what there is as it is
	})
}

// encoder is what all codings' writers are.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

// encoders are those that wait for the next answer, by coding. They are a megabyte
// or so each; the garbage collector takes those that wait too long.
var encoders = map[string]*sync.Pool{
	Brotli: {New: func() any {
		return must(brotli.NewWriterOptions(io.Discard, brotliLevel, brotli.WriterOptions{LGWin: windowBits}))
	}},
	Zstd: {New: func() any {
		return must(zstd.NewWriter(io.Discard, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<windowBits), zstd.WithLowerEncoderMem(true)))
	}},
	Gzip: {New: func() any { return must(gzip.NewWriterLevel(io.Discard, gzipLevel)) }},
}

// must is for options that are constants.
func must[T any](t T, err error) T {
	if err != nil {
		panic(err)
	}
	return t
}

// compressing is an answer that is compressed, or passed on, which is decided when
// MinCompressed bytes are there, or the handler flushes.
type compressing struct {
	http.ResponseWriter
	request *http.Request
	coding  string
	status  int // 0: the handler has not said
	begun   []byte
	decided bool
	to      encoder // nil: it is passed on
}

func (c *compressing) WriteHeader(status int) {
	switch {
	case status >= 100 && status < 200:
		c.ResponseWriter.WriteHeader(status)
	case c.status == 0:
		c.status = status
		if c.request.Method == http.MethodHead || !compresses(status, c.Header().Get("Content-Encoding"), "text/plain", "") {
			c.decide(false)
		}
	}
}

func (c *compressing) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	if !c.decided {
		if c.begun = append(c.begun, p...); len(c.begun) < MinCompressed {
			return len(p), nil
		}
		return len(p), c.decide(true)
	}
	if c.to != nil {
		return c.to.Write(p)
	}
	return c.ResponseWriter.Write(p)
}

// decide sends the header, and what was written so far. large says that the body is
// worth it, as far as is known.
func (c *compressing) decide(large bool) error {
	c.decided = true
	header := c.Header()
	if _, set := header["Content-Type"]; !set && len(c.begun) > 0 {
		header.Set("Content-Type", http.DetectContentType(c.begun))
	}
	kind, cache := header.Get("Content-Type"), header.Get("Cache-Control")
	if compresses(c.status, header.Get("Content-Encoding"), kind, cache) {
		header.Add("Vary", "Accept-Encoding")
		if c.coding != "" && c.request.Method == http.MethodHead {
			header.Del("Content-Length")
		} else if c.coding != "" && large {
			header.Del("Content-Length")
			header.Del("Accept-Ranges")
			header.Set("Content-Encoding", c.coding)
			if tag := header.Get("ETag"); tag != "" {
				header.Set("ETag", weakened(tag))
			}
			c.to = encoders[c.coding].Get().(encoder)
			c.to.Reset(c.ResponseWriter)
		}
	}
	c.ResponseWriter.WriteHeader(c.status)
	if len(c.begun) == 0 {
		return nil
	}
	var w io.Writer = c.ResponseWriter
	if c.to != nil {
		w = c.to
	}
	_, err := io.Copy(w, bytes.NewReader(c.begun))
	c.begun = nil
	return err
}

// FlushError is for http.ResponseController.
func (c *compressing) FlushError() error {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	var err error
	if !c.decided {
		err = c.decide(true)
	}
	if c.to != nil {
		err = errors.Join(err, c.to.Flush())
	}
	return errors.Join(err, http.NewResponseController(c.ResponseWriter).Flush())
}

// Flush sends what was written.
func (c *compressing) Flush() { _ = c.FlushError() } // who wants to know calls FlushError

// Unwrap is for http.ResponseController.
func (c *compressing) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// end ends the body.
func (c *compressing) end() {
	if !c.decided && (c.status != 0 || len(c.begun) > 0) {
		_ = c.decide(false) // the client has left: nobody is to be told
	}
	if c.to != nil {
		_ = c.to.Close() // likewise
		c.to.Reset(io.Discard)
		encoders[c.coding].Put(c.to)
	}
}
