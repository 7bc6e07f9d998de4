package middleware

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	brotli "github.com/molecule-man/go-brrr"
	"github.com/valyala/fasthttp"
)

func TestNegotiate(t *testing.T) {
	for accept, want := range map[string]string{
		"":                           "",
		"gzip":                       Gzip,
		"x-gzip":                     Gzip,
		"GZip":                       Gzip,
		"gzip, deflate, br, zstd":    Brotli,
		"gzip, zstd":                 Zstd,
		"br;q=0.1,gzip;q=0.2":        Gzip,
		"br;q=0.001, gzip;q=0":       Brotli,
		"br ; q=0.5 , gzip;q=0.500":  Brotli,
		"*":                          Brotli,
		"*;q=0":                      "",
		"br;q=0, *;q=0.5":            Zstd,
		"identity;q=0.5, gzip":       Gzip,
		"identity, gzip;q=0.9":       "",
		"identity;q=1, gzip;q=1":     Gzip,
		"identity;q=0":               "",
		"deflate, compress":          "",
		"gzip;q=2":                   "",
		"gzip;q=0.12345":             "",
		"gzip;q=":                    "",
		"gzip;q=1.001":               "",
		"gzip;level=9":               "",
		"gzipped, brotli, xbr":       "",
		",,gzip,":                    Gzip,
		strings.Repeat("a,", 10_000): "",
	} {
		if got := Negotiate([]byte(accept)); got != want {
			t.Errorf("%.60q: %q, want %q", accept, got, want)
		}
	}
	accept := []byte("gzip;q=0.8, deflate, br, zstd, *;q=0.1")
	if n := testing.AllocsPerRun(100, func() { Negotiate(accept) }); n > 0 {
		t.Errorf("it allocates %v times", n)
	}
}

func TestCompressible(t *testing.T) {
	for kind, want := range map[string]bool{
		"text/html; charset=utf-8": true, "TEXT/CSS": true, "application/json": true, "application/ld+json": true, "image/svg+xml": true, "application/wasm": true,
		"image/png": false, "video/mp4": false, "application/zip": false, "font/woff2": false, "application/octet-stream": false, "text/event-stream": false, "": false,
	} {
		if Compressible(kind) != want {
			t.Errorf("%q: %v, want %v", kind, !want, want)
		}
	}
}

var page = strings.Repeat("<p>so it goes</p>\n", 1000)

// answers is what both engines' handlers answer, by path.
func answers(path string) (status int, header [][2]string, body string) {
	html := [2]string{"Content-Type", "text/html; charset=utf-8"}
	switch path {
	case "/page":
		return 200, [][2]string{html, {"ETag", `"x"`}, {"Accept-Ranges", "bytes"}}, page
	case "/error":
		return 404, [][2]string{html}, page
	case "/small":
		return 200, [][2]string{html}, "small"
	case "/image":
		return 200, [][2]string{{"Content-Type", "image/png"}}, page
	case "/coded":
		return 200, [][2]string{html, {"Content-Encoding", "deflate"}}, page
	case "/as-it-is":
		return 200, [][2]string{html, {"Cache-Control", "public, No-Transform"}}, page
	case "/part":
		return 206, [][2]string{html, {"Content-Range", "bytes 0-17999/20000"}}, page
	case "/none":
		return 204, nil, ""
	}
	return 404, nil, ""
}

func fastAnswers(ctx *fasthttp.RequestCtx) {
	status, header, body := answers(string(ctx.Path()))
	for _, f := range header {
		ctx.Response.Header.Set(f[0], f[1])
	}
	ctx.SetStatusCode(status)
	ctx.SetBodyString(body)
}

func netAnswers(w http.ResponseWriter, r *http.Request) {
	status, header, body := answers(r.URL.Path)
	for _, f := range header {
		w.Header().Set(f[0], f[1])
	}
	w.WriteHeader(status)
	for _, piece := range strings.SplitAfter(body, "\n") {
		_, _ = io.WriteString(w, piece)
	}
}

// ask has a handler of either engine answer a request, and gives the answer with
// its coded body.
func ask(t testing.TB, handler any, method, path string, fields ...string) (*fasthttp.Response, string) {
	t.Helper()
	answer := &fasthttp.Response{}
	switch h := handler.(type) {
	case fasthttp.RequestHandler:
		var ctx fasthttp.RequestCtx
		ctx.Request.Header.SetMethod(method)
		ctx.Request.SetRequestURI("http://a" + path)
		for i := 0; i < len(fields); i += 2 {
			ctx.Request.Header.Add(fields[i], fields[i+1])
		}
		h(&ctx)
		ctx.Response.Header.CopyTo(&answer.Header)
		answer.SetBody(ctx.Response.Body())
	case http.Handler:
		r := httptest.NewRequest(method, "http://a"+path, nil)
		for i := 0; i < len(fields); i += 2 {
			r.Header.Add(fields[i], fields[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		for name, values := range w.Result().Header {
			for _, v := range values {
				answer.Header.Add(name, v)
			}
		}
		answer.SetStatusCode(w.Code)
		answer.SetBody(w.Body.Bytes())
	}
	return answer, string(answer.Body())
}

// both runs a test on a handler of each engine.
func both(t *testing.T, fast fasthttp.RequestHandler, net http.Handler, test func(t *testing.T, handler any)) {
	t.Run("fasthttp", func(t *testing.T) { test(t, fast) })
	t.Run("net/http", func(t *testing.T) { test(t, net) })
}

func TestCompress(t *testing.T) {
	both(t, FastCompress(fastAnswers), NetCompress(http.HandlerFunc(netAnswers)), func(t *testing.T, handler any) {
		for _, c := range []struct{ path, accept, coding, vary string }{
			{"/page", "gzip, br, zstd", Brotli, "Accept-Encoding"},
			{"/page", "gzip, zstd", Zstd, "Accept-Encoding"},
			{"/page", "gzip", Gzip, "Accept-Encoding"},
			{"/page", "", "", "Accept-Encoding"},
			{"/error", "br", Brotli, "Accept-Encoding"},
			{"/small", "br", "", "Accept-Encoding"},
			{"/image", "br", "", ""},
			{"/coded", "br", "deflate", ""},
			{"/as-it-is", "br", "", ""},
			{"/part", "br", "", ""},
			{"/none", "br", "", ""},
		} {
			r, body := ask(t, handler, "GET", c.path, "Accept-Encoding", c.accept)
			if coding, vary := string(r.Header.ContentEncoding()), string(r.Header.Peek("Vary")); coding != c.coding || vary != c.vary {
				t.Errorf("%s accepting %q: in %q, Vary %q, want %q, %q", c.path, c.accept, coding, vary, c.coding, c.vary)
				continue
			}
			status, _, want := answers(c.path)
			if c.coding != "" && c.coding != "deflate" {
				whole, err := r.BodyUncompressed()
				if err != nil || len(body) >= len(want) {
					t.Errorf("%s: %d bytes of %d, %v", c.path, len(body), len(want), err)
				}
				body = string(whole)
			}
			if body != want || r.StatusCode() != status {
				t.Errorf("%s accepting %q: %d, %d bytes, want %d, %d", c.path, c.accept, r.StatusCode(), len(body), status, len(want))
			}
			if tag := string(r.Header.Peek("ETag")); c.path == "/page" && (tag == `"x"`) != (c.coding == "") {
				t.Errorf("in %q the tag is %s", c.coding, tag)
			}
		}
	})
}

// A stream is compressed as it comes: what was flushed is there before the rest.
func TestCompressStream(t *testing.T) {
	for _, coding := range Codings {
		next := make(chan struct{})
		fast := func(ctx *fasthttp.RequestCtx) {
			ctx.SetContentType("text/plain")
			ctx.SetBodyStreamWriter(func(w *bufio.Writer) {
				for _, word := range []string{"one", "two"} {
					_, _ = w.WriteString(word)
					_ = w.Flush()
					<-next
				}
			})
		}
		net := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			for _, word := range []string{"one", "two"} {
				_, _ = io.WriteString(w, word)
				_ = http.NewResponseController(w).Flush()
				<-next
			}
		})
		read := func(t *testing.T, body io.Reader) {
			t.Helper()
			in, err := decoder(coding, body)
			if err != nil {
				t.Fatal(err)
			}
			for _, word := range []string{"one", "two"} {
				got := make([]byte, 3)
				if _, err := io.ReadFull(in, got); err != nil || string(got) != word {
					t.Fatalf("%q, %v, want %q", got, err, word)
				}
				next <- struct{}{}
			}
			if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
				t.Errorf("%q, %v", rest, err)
			}
		}
		t.Run(coding+", fasthttp", func(t *testing.T) {
			var ctx fasthttp.RequestCtx
			ctx.Request.Header.Set("Accept-Encoding", coding)
			FastCompress(fast)(&ctx)
			if string(ctx.Response.Header.ContentEncoding()) != coding {
				t.Fatalf("in %q", ctx.Response.Header.ContentEncoding())
			}
			read(t, ctx.Response.BodyStream())
		})
		t.Run(coding+", net/http", func(t *testing.T) {
			s := httptest.NewServer(NetCompress(net))
			defer s.Close()
			r, err := http.NewRequest("GET", s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Accept-Encoding", coding)
			answer, err := s.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			if answer.Header.Get("Content-Encoding") != coding {
				t.Fatalf("in %q", answer.Header.Get("Content-Encoding"))
			}
			read(t, answer.Body)
		})
	}
}

func TestNetCompressLeavesTheRest(t *testing.T) {
	h := NetCompress(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "18000")
		if r.Method != http.MethodHead {
			_, _ = io.WriteString(w, page)
		}
	}))
	if r, _ := ask(t, h, "HEAD", "/", "Accept-Encoding", "br"); r.StatusCode() != 200 || len(r.Header.ContentEncoding()) > 0 {
		t.Errorf("HEAD: %d in %q", r.StatusCode(), r.Header.ContentEncoding())
	}
	upgrade := NetCompress(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, err := http.NewResponseController(w).Hijack(); err == nil {
			t.Error("a recorder was hijacked")
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	if r, body := ask(t, upgrade, "GET", "/", "Accept-Encoding", "br"); r.StatusCode() != 202 || body != "" {
		t.Errorf("%d %q, want 202 and nothing", r.StatusCode(), body)
	}
}

func decoder(coding string, r io.Reader) (io.Reader, error) {
	switch coding {
	case Brotli:
		return brotli.NewReader(r), nil
	case Zstd:
		return zstd.NewReader(r)
	}
	return gzip.NewReader(r)
}

// Whatever a client accepts, it gets nothing that it has refused.
func FuzzNegotiate(f *testing.F) {
	for _, accept := range []string{"gzip", "br;q=0", "*;q=0.5, gzip;q=0", "identity;q=0", "gzip;q=1.000", ";;,,=", "gzip;q=0.0001"} {
		f.Add(accept)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		got := Negotiate([]byte(accept))
		if got == "" {
			return
		}
		low := strings.ToLower(accept)
		if !strings.Contains(low, got) && !strings.Contains(low, "*") {
			t.Errorf("%q: %q", accept, got)
		}
		if refused := got + ";q=0"; strings.TrimSpace(low) == refused {
			t.Errorf("%q: %q", accept, got)
		}
	})
}
