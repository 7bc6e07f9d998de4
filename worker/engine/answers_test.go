package engine

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
	"time"

	"drover/config"
	"drover/ipc/scoreboard"

	"github.com/valyala/fasthttp"
)

// kinds are what a handler may answer with: by fasthttp, and by net/http.
var kinds = map[string]struct {
	fast func(*fasthttp.RequestCtx)
	net  http.HandlerFunc
	want string // the body, where there may be one
}{
	"/text": {
		func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("text") },
		func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "text") }, "text",
	},
	"/nothing": {func(*fasthttp.RequestCtx) {}, func(http.ResponseWriter, *http.Request) {}, ""},
	"/length": {
		func(ctx *fasthttp.RequestCtx) { ctx.SetBodyStream(strings.NewReader("text"), 4) },
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "4")
			_, _ = io.WriteString(w, "text")
		}, "text",
	},
	"/stream": {
		func(ctx *fasthttp.RequestCtx) {
			Stream(ctx, func(w *bufio.Writer) { _, _ = w.WriteString("te"); _ = w.Flush(); _, _ = w.WriteString("xt") })
		},
		func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "te")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "xt")
		}, "text",
	},
	"/204": {
		func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(204); ctx.SetBodyString("text") },
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204); _, _ = io.WriteString(w, "text") }, "",
	},
	"/304": {
		func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(304); ctx.SetBodyString("text") },
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304); _, _ = io.WriteString(w, "text") }, "",
	},
	"/204 stream": {
		func(ctx *fasthttp.RequestCtx) {
			ctx.SetBodyStream(strings.NewReader("text"), -1)
			ctx.SetStatusCode(204)
		},
		func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(204)
			_ = http.NewResponseController(w).Flush()
		}, "",
	},
	"/304 stream": {
		func(ctx *fasthttp.RequestCtx) {
			ctx.SetBodyStream(strings.NewReader("text"), -1)
			ctx.SetStatusCode(304)
		},
		func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(304)
			_ = http.NewResponseController(w).Flush()
		}, "",
	},
	"/404": {
		func(ctx *fasthttp.RequestCtx) { ctx.Error("none", 404) },
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404); _, _ = io.WriteString(w, "none") }, "none",
	},
	"/500": {
		func(*fasthttp.RequestCtx) { panic("500") },
		func(http.ResponseWriter, *http.Request) { panic("500") }, "",
	},
}

// What an answer is framed by, and whether its connection stays, is right for whoever
// asks (RFC 9110, sections 6.4.1, 6.6.1 and 8.6; RFC 9112, sections 6.1, 6.3 and 9.3).
func TestAnswersAreFramed(t *testing.T) {
	t.Parallel()
	fast := func(ctx *fasthttp.RequestCtx) { kinds[string(ctx.Path())].fast(ctx) }
	for name, make := range map[string]func() (answering, *tracker){
		"fasthttp": func() (answering, *tracker) { f := FastHTTP(fast); return f, f.tracker },
		"fasthttp, streaming": func() (answering, *tracker) {
			f := FastHTTPServer(&fasthttp.Server{Handler: fast, StreamRequestBody: true})
			return f, f.tracker
		},
		"net/http": func() (answering, *tracker) {
			n := NetHTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { kinds[r.URL.Path].net(w, r) }))
			return n, n.tracker
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.engine, s.tracker = make()
			s.start(config.HTTP{})
			for path, kind := range kinds {
				for _, method := range []string{"GET", "HEAD", "POST"} {
					for _, version := range []string{"1.1", "1.1 close", "1.0", "1.0 keep-alive"} {
						s.framed(method, path, version, kind.want)
					}
				}
			}
		})
	}
}

// A reader that panics while it is sent to a client of HTTP/1.0 costs that client its
// answer.
func TestPanicOfAReader(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	f := FastHTTP(func(ctx *fasthttp.RequestCtx) {
		if string(ctx.Path()) == "/text" {
			ctx.SetBodyString("text")
			return
		}
		ctx.SetBodyStream(io.MultiReader(strings.NewReader("half"), panicking{}), -1)
	})
	s.engine, s.tracker = f, f.tracker
	s.start(config.HTTP{})
	c := s.dial()
	c.send("GET /text HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /half HTTP/1.0\r\n\r\n")
	all, _ := io.ReadAll(c.r) // it ends, or is reset
	if !strings.Contains(string(all), "\r\n\r\ntextHTTP/1.1 200 OK\r\n") || !strings.HasSuffix(string(all), "\r\n\r\nhalf") {
		t.Errorf("%q", all)
	}
	s.until("counted", func(n scoreboard.Snapshot) bool { return n.Panics == 1 && n.Connections == 0 && n.InFlight == 0 })
	s.until("logged", func(scoreboard.Snapshot) bool { // behind the counting
		log := s.log.String()
		return strings.Contains(log, "a handler panicked: boom") && strings.Contains(log, "path=/half\n")
	})
	s.dial().want(get("/text"), 200, "text")
}

type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("boom") }

func (s *server) framed(method, path, version, want string) {
	s.t.Helper()
	number, option, _ := strings.Cut(version, " ")
	request := fmt.Sprintf("%s %s HTTP/%s\r\nHost: a\r\n", method, strings.ReplaceAll(path, " ", "%20"), number)
	if option != "" {
		request += "Connection: " + option + "\r\n"
	}
	if method == "POST" {
		request += "Content-Length: 0\r\n"
	}
	c := s.dial()
	defer c.Close()
	c.send(request + "\r\n" + "GET /text HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	all, err := io.ReadAll(c.r)
	failed := func(why string) { s.t.Errorf("%s %s, HTTP/%s: %s: %q, %v", method, path, version, why, all, err) }
	if err != nil {
		failed("a reset")
		return
	}
	head, rest, _ := strings.Cut(string(all), "\r\n\r\n")
	line, fields, _ := strings.Cut(head, "\r\n")
	status := 0
	if _, err := fmt.Sscanf(line[min(len(line), len("HTTP/1.x ")):], "%d ", &status); err != nil || !strings.HasPrefix(line, "HTTP/1.") {
		failed("no status line")
		return
	}
	field := map[string]string{}
	for _, f := range strings.Split(fields, "\r\n") {
		name, value, _ := strings.Cut(f, ": ")
		if name = strings.ToLower(name); field[name] != "" {
			failed(name + " is there twice")
		}
		field[name] = value
	}
	if _, err := time.Parse(http.TimeFormat, field["date"]); err != nil {
		failed("no Date")
	}
	length, coding := field["content-length"], field["transfer-encoding"]
	switch {
	case length != "" && coding != "":
		failed("two lengths")
	case coding != "" && number == "1.0":
		failed("HTTP/1.0 knows no Transfer-Encoding")
	case status == 204 && length+coding != "":
		failed("204 with a length")
	}
	const second = "HTTP/1.1 200 OK\r\n"
	body, after := rest, ""
	if i := strings.Index(rest, second); i >= 0 {
		body, after = rest[:i], rest[i:]
	}
	stays := after != ""
	if says := field["connection"]; stays && says == "close" || !stays && says != "close" && !strings.HasPrefix(line, "HTTP/1.0 ") || stays && number == "1.0" && !strings.EqualFold(says, "keep-alive") {
		failed(fmt.Sprintf("it stays: %t, and says %q", stays, says))
	}
	if may := version == "1.1" || version == "1.0 keep-alive" && (path != "/stream" || method == "HEAD"); stays != may && status != 500 {
		failed(fmt.Sprintf("it stays: %t", stays))
	}
	if coding == "chunked" && method != "HEAD" && status != 304 {
		whole, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(body)))
		if err != nil {
			failed("the chunks: " + err.Error())
		}
		body = string(whole)
	} else if length != "" && method != "HEAD" && status != 304 && length != fmt.Sprint(len(body)) {
		failed("another length than it says")
	}
	switch {
	case method == "HEAD" && body != "":
		failed("a body behind the answer to HEAD")
	case method != "HEAD" && body != want && status != 500:
		failed(fmt.Sprintf("the body is %q, want %q", body, want))
	}
}
