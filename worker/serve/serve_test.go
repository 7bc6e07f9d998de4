package serve

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/config"

	"github.com/valyala/fasthttp"
)

// ask has a handler answer one raw request, as a server would.
func ask(t testing.TB, s *fasthttp.Server, request string) *fasthttp.Response {
	t.Helper()
	var r fasthttp.Request
	if err := r.Read(bufio.NewReader(strings.NewReader(request))); err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	var ctx fasthttp.RequestCtx
	ctx.Init(&r, nil, s.Logger)
	s.Handler(&ctx)
	return &ctx.Response
}

func server(t testing.TB, c Config) *fasthttp.Server {
	t.Helper()
	s, err := Server(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n" }

func TestPages(t *testing.T) {
	s := server(t, Config{})
	for _, c := range []struct {
		request     string
		status      int
		contentType string
		body        string // a part of it
	}{
		{get("/"), 200, "text/html; charset=utf-8", "drover"},
		{get("/plaintext"), 200, "text/plain; charset=utf-8", "Hello, World!"},
		{get("/json"), 200, "application/json", `{"message":"Hello, World!"}`},
		{get("/json?pretty"), 200, "application/json", `{"message":"Hello, World!"}`},
		{get("/healthz"), 200, "text/plain; charset=utf-8", "ok"},
		{get("/favicon.ico"), 404, "text/plain; charset=utf-8", "not found"},
		{"POST /plaintext HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405, "text/plain; charset=utf-8", "not allowed"},
	} {
		r := ask(t, s, c.request)
		if r.StatusCode() != c.status || string(r.Header.ContentType()) != c.contentType || !strings.Contains(string(r.Body()), c.body) {
			t.Errorf("%q: %d %q %q, want %d %q %q", c.request, r.StatusCode(), r.Header.ContentType(), r.Body(), c.status, c.contentType, c.body)
		}
		if c.status == 405 && string(r.Header.Peek("Allow")) != "GET, HEAD" {
			t.Errorf("405 without Allow (RFC 9110, section 15.5.6): %q", r.Header.String())
		}
	}
	var message struct{ Message string }
	if err := json.Unmarshal(ask(t, s, get("/json")).Body(), &message); err != nil || message.Message != "Hello, World!" {
		t.Errorf("/json: %+v, %v", message, err)
	}
}

func TestHealthSaysWhenTheAppStops(t *testing.T) {
	stopping := make(chan struct{})
	s := server(t, Config{Stopping: stopping})
	if r := ask(t, s, get("/healthz")); r.StatusCode() != 200 {
		t.Errorf("before a stop: %d", r.StatusCode())
	}
	close(stopping)
	if r := ask(t, s, get("/healthz")); r.StatusCode() != 503 {
		t.Errorf("during a stop: %d", r.StatusCode())
	}
	if r := ask(t, s, get("/plaintext")); r.StatusCode() != 200 {
		t.Errorf("all else is served on, but /plaintext answers %d", r.StatusCode())
	}
}

// tree makes a directory to serve, beside a secret that must stay one.
func tree(t testing.TB) string {
	t.Helper()
	top := t.TempDir()
	root := filepath.Join(top, "public")
	for name, text := range map[string]string{
		"secret.txt":              "secret",
		"public/index.html":       "home",
		"public/app.js":           "0123456789",
		"public/a b/ü.txt":        "umlaut",
		"public/docs/index.html":  "docs",
		"public/empty/.keep":      "secret",
		"public/.env":             "secret",
		"public/.git/config":      "secret",
		"public/sub/.hidden/file": "secret",
	} {
		path := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"out.txt": "../secret.txt", "outdir": "..", "in.js": "app.js"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestFiles(t *testing.T) {
	s := server(t, Config{Root: tree(t)})
	for _, c := range []struct {
		path   string
		status int
		body   string
	}{
		{"/", 200, "home"},
		{"/index.html", 200, "home"},
		{"/app.js", 200, "0123456789"},
		{"/app.js?v=2", 200, "0123456789"},
		{"/a%20b/%C3%BC.txt", 200, "umlaut"},
		{"/docs/", 200, "docs"},
		{"/in.js", 200, "0123456789"}, // a link that stays inside
		{"/healthz", 200, "ok\n"},
		{"/missing", 404, "not found\n"},
		{"/empty/", 404, "not found\n"}, // no listing
		// Nothing leads out of the root, and nothing hidden is served.
		{"/out.txt", 404, "not found\n"},
		{"/outdir/secret.txt", 404, "not found\n"},
		{"/../secret.txt", 404, "not found\n"},
		{"/%2e%2e/secret.txt", 404, "not found\n"},
		{"/..%2fsecret.txt", 404, "not found\n"},
		{"/docs/../../secret.txt", 404, "not found\n"},
		{"/docs/..%5c..%5c..%5csecret.txt", 404, "not found\n"},
		{"//secret.txt", 404, "not found\n"},
		{"/.env", 404, "not found\n"},
		{"/%2eenv", 404, "not found\n"},
		{"//.env", 404, "not found\n"},
		{"/.git/config", 404, "not found\n"},
		{"/docs/../.env", 404, "not found\n"},
		{"/sub/.hidden/file", 404, "not found\n"},
		{"/sub/%2ehidden/file", 404, "not found\n"},
		{"/app.js%00.txt", 404, "not found\n"},
	} {
		r := ask(t, s, get(c.path))
		body, err := r.BodyUncompressed()
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
		}
		if r.StatusCode() != c.status || string(body) != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.path, r.StatusCode(), body, c.status, c.body)
		}
	}
}

func TestFilesAnswerRangesAndConditions(t *testing.T) {
	s := server(t, Config{Root: tree(t)})
	r := ask(t, s, "GET /app.js HTTP/1.1\r\nHost: a\r\nRange: bytes=2-4\r\n\r\n")
	if r.StatusCode() != 206 || string(r.Body()) != "234" || string(r.Header.Peek("Content-Range")) != "bytes 2-4/10" {
		t.Errorf("range: %d %q %q", r.StatusCode(), r.Body(), r.Header.Peek("Content-Range"))
	}
	r = ask(t, s, "GET /app.js HTTP/1.1\r\nHost: a\r\nRange: bytes=20-\r\n\r\n")
	if r.StatusCode() != 416 {
		t.Errorf("range beyond the end: %d", r.StatusCode())
	}
	modified := ask(t, s, get("/app.js")).Header.Peek("Last-Modified")
	if len(modified) == 0 {
		t.Fatal("no Last-Modified")
	}
	r = ask(t, s, "GET /app.js HTTP/1.1\r\nHost: a\r\nIf-Modified-Since: "+string(modified)+"\r\n\r\n")
	if r.StatusCode() != 304 || len(r.Body()) != 0 {
		t.Errorf("unchanged: %d %q", r.StatusCode(), r.Body())
	}
	r = ask(t, s, "HEAD /app.js HTTP/1.1\r\nHost: a\r\n\r\n")
	if r.StatusCode() != 200 || r.Header.ContentLength() != 10 {
		t.Errorf("HEAD: %d, Content-Length %d", r.StatusCode(), r.Header.ContentLength())
	}
}

// What clients ask for in vain is not worth a line; what the machine refuses is.
func TestLog(t *testing.T) {
	var lines strings.Builder
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&lines, nil)))
	defer slog.SetDefault(before)
	s := server(t, Config{Root: tree(t)})
	for _, path := range []string{"/missing", "/empty/", "/out.txt", "/app.js/below", "/" + strings.Repeat("x", 300), "/..%2fsecret.txt"} {
		ask(t, s, get(path))
	}
	ask(t, s, "GET /app.js HTTP/1.1\r\nHost: a\r\nRange: bytes=20-\r\n\r\n")
	if lines.Len() > 0 {
		t.Errorf("logged:\n%s", &lines)
	}
	site, err := newSite(tree(t))
	if err != nil {
		t.Fatal(err)
	}
	var ctx fasthttp.RequestCtx
	if site.refuse(&ctx, &os.PathError{Op: "openat", Path: "app.js", Err: syscall.EMFILE}); ctx.Response.StatusCode() != 503 {
		t.Errorf("no descriptor is left: %d, want 503", ctx.Response.StatusCode())
	}
	if !strings.Contains(lines.String(), "too many open files") {
		t.Errorf("EMFILE is not logged: %q", &lines)
	}
}

// A file that changes is served as it is now, after the time for which it may
// be kept.
func TestFilesChange(t *testing.T) {
	root := tree(t)
	s := server(t, Config{Root: root})
	ask(t, s, get("/app.js"))
	if err := os.WriteFile(filepath.Join(root, "app.js"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); string(ask(t, s, get("/app.js")).Body()) != "new"; {
		if time.Now().After(deadline) {
			t.Fatal("the old file is still served")
		}
	}
}

func TestBadRoots(t *testing.T) {
	root := tree(t)
	for path, want := range map[string]string{
		filepath.Join(root, "nothing"): "no such file",
		filepath.Join(root, "app.js"):  "want a directory",
	} {
		if _, err := Server(Config{Root: path}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func benchmark(b *testing.B, path string) {
	s := server(b, Config{Root: ""})
	if strings.HasSuffix(path, ".js") {
		root := tree(b)
		if err := os.WriteFile(filepath.Join(root, "kept.js"), []byte("0123456789"), 0o644); err != nil {
			b.Fatal(err)
		}
		hour := time.Now().Add(-time.Hour)
		if err := os.Chtimes(filepath.Join(root, "kept.js"), hour, hour); err != nil {
			b.Fatal(err)
		}
		s = server(b, Config{Root: root})
	}
	var r fasthttp.Request
	r.SetRequestURI(path)
	var ctx fasthttp.RequestCtx
	ctx.Init(&r, nil, s.Logger)
	b.ReportAllocs()
	for b.Loop() {
		ctx.Response.Reset()
		s.Handler(&ctx)
	}
	if ctx.Response.StatusCode() != 200 {
		b.Errorf("%s: %d", path, ctx.Response.StatusCode())
	}
}

func BenchmarkPlaintext(b *testing.B) { benchmark(b, "/plaintext") }
func BenchmarkJSON(b *testing.B)      { benchmark(b, "/json") }
func BenchmarkFile(b *testing.B)      { benchmark(b, "/app.js") }
func BenchmarkKeptFile(b *testing.B)  { benchmark(b, "/kept.js") }

// What is proxied has a name, which the upstream is told, and belongs to a trace.
func TestProxiedRequestsAreNamed(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Request-Id")+" "+r.Header.Get("Traceparent"))
	}))
	defer upstream.Close()
	ended := make(chan struct{})
	e, err := Engine(Config{Proxy: []config.Proxy{{Prefix: "/", Upstreams: []string{upstream.URL}}}, Draining: ended})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- e.Serve(l) }()
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, traced := range []bool{false, true} {
		r, err := http.NewRequest("GET", "http://"+l.Addr().String()+"/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Request-Id", "a-stranger's")
		if traced {
			r.Header.Set("Traceparent", trace)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		id, told, _ := strings.Cut(string(text), " ")
		if err != nil || len(id) != 32 || answer.Header.Get("X-Request-Id") != id || len(told) != len(trace) || (told == trace) != traced {
			t.Errorf("the upstream is told %q, %v; the client %q", text, err, answer.Header.Get("X-Request-Id"))
		}
	}
	l.Close()
	close(ended)
	if err := <-served; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	http.DefaultClient.CloseIdleConnections()
	if err := e.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}
