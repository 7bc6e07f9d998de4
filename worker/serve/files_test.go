package serve

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/worker/middleware"

	"github.com/valyala/fasthttp"
)

// with makes a request for a path with further header fields.
func with(method, path string, fields ...string) string {
	return method + " " + path + " HTTP/1.1\r\nHost: a\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

// settled makes everything in a tree an hour old.
func settled(t testing.TB, root string) {
	t.Helper()
	hour := time.Now().Add(-time.Hour)
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			return os.Chtimes(path, hour, hour)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What each request for a file is answered, from the disk and from memory alike.
func TestFileRequests(t *testing.T) {
	root := tree(t)
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		".well-known/acme-challenge/token": "challenge", ".well-known/.env": "secret", "docs/.well-known/x": "secret",
		"empty.txt": "", "plain": "<!doctype html>", "a%2fb.txt": "percent", "data.json": "{}",
	} {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("docs", filepath.Join(root, "linked")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(root, "app.js"), filepath.Join(root, "absolute.js")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", filepath.Join(root, "loop")); err != nil {
		t.Fatal(err)
	}
	settled(t, root)
	s := server(t, Config{Root: root})
	first := ask(t, s, get("/app.js"))
	tag, modified := string(first.Header.Peek("ETag")), string(first.Header.Peek("Last-Modified"))
	if !strings.HasPrefix(tag, `"`) || modified == "" {
		t.Fatalf("ETag %s, Last-Modified %s", tag, modified)
	}
	const before, after = "Thu, 01 Jan 2015 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
	for _, c := range []struct {
		request string
		status  int
		body    string
		fields  string // "Name: value", of the answer
	}{
		// Files, directories, names.
		{get("/app.js"), 200, "0123456789", "Accept-Ranges: bytes"},
		{get("/app.js"), 200, "0123456789", "Content-Type: text/javascript; charset=utf-8"},
		{get("/data.json"), 200, "{}", "Content-Type: application/json"},
		{get("/plain"), 200, "<!doctype html>", "Content-Type: text/html; charset=utf-8"},
		{get("/empty.txt"), 200, "", "Content-Length: 0"},
		{get("/docs/"), 200, "docs", "Content-Type: text/html; charset=utf-8"},
		{get("/docs"), 301, "moved\n", "Location: /docs/"},
		{get("/docs?a=b&c=%20"), 301, "moved\n", "Location: /docs/?a=b&c=%20"},
		{get("//docs"), 301, "moved\n", "Location: /docs/"}, // not to another host
		{get("/a%20b"), 301, "moved\n", "Location: /a%20b/"},
		{get("/linked/"), 200, "docs", ""},
		{get("/sub/"), 404, "not found\n", ""}, // no listing
		{get("/app.js/"), 404, "not found\n", ""},
		{get("/app.js/x"), 404, "not found\n", ""},
		{get("/a%252fb.txt"), 200, "percent", ""}, // decoded once
		{get("/a%2fb.txt"), 404, "not found\n", ""},
		{get("/.well-known/acme-challenge/token"), 200, "challenge", ""},
		{with("POST", "/app.js", "Content-Length: 0"), 405, "method not allowed\n", "Allow: GET, HEAD"},
		{with("DELETE", "/app.js"), 405, "method not allowed\n", "Allow: GET, HEAD"},
		// What leads out, or is hidden, or would wait.
		{get("/.well-known/.env"), 404, "not found\n", ""},
		{get("/docs/.well-known/x"), 404, "not found\n", ""},
		{get("/.well-known/../.env"), 404, "not found\n", ""},
		{get("/.well-known%2f..%2f.env"), 404, "not found\n", ""},
		{get("/absolute.js"), 404, "not found\n", ""},
		{get("/loop"), 404, "not found\n", ""},
		{get("/out.txt"), 404, "not found\n", ""},
		{get("/outdir/public/app.js"), 404, "not found\n", ""},
		{get("/outdir/"), 404, "not found\n", ""},
		{get("/fifo"), 404, "not found\n", ""},
		{get("/%2e%2e%2fsecret.txt"), 404, "not found\n", ""},
		{get("/%252e%252e/secret.txt"), 404, "not found\n", ""},
		{get("/docs/%2e./%2e%2e/secret.txt"), 404, "not found\n", ""},
		{get("/..;/secret.txt"), 404, "not found\n", ""},
		{get("/%c0%ae%c0%ae/secret.txt"), 404, "not found\n", ""},
		{get("/app.js%00"), 404, "not found\n", ""},
		{get("/" + strings.Repeat("x", 3000)), 404, "not found\n", ""},
		// One range.
		{with("GET", "/app.js", "Range: bytes=2-4"), 206, "234", "Content-Range: bytes 2-4/10"},
		{with("GET", "/app.js", "Range: bytes=7-"), 206, "789", "Content-Range: bytes 7-9/10"},
		{with("GET", "/app.js", "Range: bytes=-2"), 206, "89", "Content-Range: bytes 8-9/10"},
		{with("GET", "/app.js", "Range: bytes=-20"), 206, "0123456789", "Content-Range: bytes 0-9/10"},
		{with("GET", "/app.js", "Range: bytes=8-99999999999999999999"), 206, "89", "Content-Range: bytes 8-9/10"},
		{with("GET", "/app.js", "Range: BYTES= 0-0 ,"), 206, "0", "Content-Range: bytes 0-0/10"},
		{with("GET", "/app.js", "Range: bytes=10-"), 416, "the file has 10 bytes\n", "Content-Range: bytes */10"},
		{with("GET", "/app.js", "Range: bytes=-0"), 416, "the file has 10 bytes\n", "Content-Range: bytes */10"},
		{with("GET", "/empty.txt", "Range: bytes=0-"), 416, "the file has 0 bytes\n", "Content-Range: bytes */0"},
		{with("GET", "/app.js", "Range: bytes=4-2"), 200, "0123456789", "Content-Length: 10"},
		{with("GET", "/app.js", "Range: bytes=-"), 200, "0123456789", ""},
		{with("GET", "/app.js", "Range: bytes="), 200, "0123456789", ""},
		{with("GET", "/app.js", "Range: bytes=a-b"), 200, "0123456789", ""},
		{with("GET", "/app.js", "Range: bytes=1-2-3"), 200, "0123456789", ""},
		{with("GET", "/app.js", "Range: lines=1-2"), 200, "0123456789", ""},
		{with("HEAD", "/app.js", "Range: bytes=2-4"), 200, "", "Content-Length: 10"},
		// Several: what is too much is all of it.
		{with("GET", "/app.js", "Range: bytes=0-9,0-9"), 200, "0123456789", ""},
		{with("GET", "/app.js", "Range: bytes=0-0,20-"), 206, "0", "Content-Range: bytes 0-0/10"},
		{with("GET", "/app.js", "Range: bytes="+strings.Repeat("0-0,", maxRanges+1)), 200, "0123456789", ""},
		// Conditions.
		{with("GET", "/app.js", "If-None-Match: "+tag), 304, "", "ETag: " + tag},
		{with("HEAD", "/app.js", "If-None-Match: "+tag), 304, "", ""},
		{with("GET", "/app.js", "If-None-Match: W/"+tag), 304, "", ""},
		{with("GET", "/app.js", `If-None-Match: "x", `+tag), 304, "", ""},
		{with("GET", "/app.js", "If-None-Match: *"), 304, "", ""},
		{with("GET", "/app.js", `If-None-Match: "x"`), 200, "0123456789", ""},
		{with("GET", "/app.js", `If-None-Match: "x"`, "If-Modified-Since: "+modified), 200, "0123456789", ""},
		{with("GET", "/app.js", `If-None-Match: "unended`), 200, "0123456789", ""},
		{with("GET", "/app.js", "If-Modified-Since: "+modified), 304, "", ""},
		{with("GET", "/app.js", "If-Modified-Since: "+after), 304, "", ""},
		{with("GET", "/app.js", "If-Modified-Since: "+before), 200, "0123456789", ""},
		{with("GET", "/app.js", "If-Modified-Since: yesterday"), 200, "0123456789", ""},
		{with("GET", "/app.js", "If-Match: "+tag), 200, "0123456789", ""},
		{with("GET", "/app.js", "If-Match: *"), 200, "0123456789", ""},
		{with("GET", "/app.js", "If-Match: W/"+tag), 412, "the file is another\n", ""},
		{with("GET", "/app.js", `If-Match: "x"`), 412, "the file is another\n", ""},
		{with("GET", "/app.js", `If-Match: "x"`, "Range: bytes=0-0"), 412, "the file is another\n", ""},
		{with("GET", "/app.js", "If-Unmodified-Since: "+before), 412, "the file is another\n", ""},
		{with("GET", "/app.js", "If-Unmodified-Since: "+modified), 200, "0123456789", ""},
		{with("GET", "/app.js", "If-Match: "+tag, "If-Unmodified-Since: "+before), 200, "0123456789", ""},
		{with("GET", "/app.js", "If-Range: "+tag, "Range: bytes=0-0"), 206, "0", ""},
		{with("GET", "/app.js", "If-Range: "+modified, "Range: bytes=0-0"), 206, "0", ""},
		{with("GET", "/app.js", "If-Range: W/"+tag, "Range: bytes=0-0"), 200, "0123456789", ""},
		{with("GET", "/app.js", `If-Range: "x"`, "Range: bytes=0-0"), 200, "0123456789", ""},
		{with("GET", "/app.js", "If-Range: "+after, "Range: bytes=0-0"), 200, "0123456789", ""},
		{with("GET", "/app.js", `If-Range: "x"`, "Range: bytes=20-"), 200, "0123456789", ""},
		{with("GET", "/missing", "If-None-Match: *"), 404, "not found\n", ""},
	} {
		for _, from := range []string{"disk", "memory"} {
			r := ask(t, s, c.request)
			if r.StatusCode() != c.status || string(r.Body()) != c.body && !r.SkipBody {
				t.Errorf("%q: %d %q, want %d %q (from %s)", c.request, r.StatusCode(), r.Body(), c.status, c.body, from)
			}
			if name, value, _ := strings.Cut(c.fields, ": "); name == "Content-Length" {
				if n := r.Header.ContentLength(); n >= 0 && strconv.Itoa(n) != value && strconv.Itoa(len(r.Body())) != value {
					t.Errorf("%q: Content-Length %d, want %s", c.request, n, value)
				}
			} else if got := string(r.Header.Peek(name)); got != value {
				t.Errorf("%q: %s %q, want %q", c.request, name, got, value)
			}
		}
	}
}

func TestSeveralRanges(t *testing.T) {
	root := tree(t)
	large := bytes.Repeat([]byte("0123456789"), 100_000)
	old(t, filepath.Join(root, "large.txt"), string(large))
	old(t, filepath.Join(root, "small.txt"), string(large[:1000]))
	s := server(t, Config{Root: root})
	for _, name := range []string{"/small.txt", "/large.txt"} {
		for range 3 { // from the disk, and from memory
			r := ask(t, s, with("GET", name, "Range: bytes=5-14, 990-999,-1"))
			kind, parameters, err := mime.ParseMediaType(string(r.Header.ContentType()))
			if r.StatusCode() != 206 || kind != "multipart/byteranges" || err != nil {
				t.Fatalf("%s: %d %q, %v", name, r.StatusCode(), r.Header.ContentType(), err)
			}
			length, body := r.Header.ContentLength(), r.Body()
			if length != len(body) {
				t.Errorf("%s: Content-Length %d of %d bytes", name, length, len(body))
			}
			in := multipart.NewReader(bytes.NewReader(body), parameters["boundary"])
			size := 1000
			if name == "/large.txt" {
				size = len(large)
			}
			for _, want := range [][2]int{{5, 14}, {990, 999}, {size - 1, size - 1}} {
				p, err := in.NextPart()
				if err != nil {
					t.Fatal(err)
				}
				text, err := io.ReadAll(p)
				if err != nil || string(text) != string(large[want[0]:want[1]+1]) || p.Header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", want[0], want[1], size) ||
					p.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
					t.Errorf("%s: part %v: %q, %v, %v", name, want, text, p.Header, err)
				}
			}
			if _, err := in.NextPart(); err != io.EOF {
				t.Errorf("more than three parts: %v", err)
			}
		}
	}
}

// A file that has just changed may change again within its time stamp: its tag is
// weak, and nobody continues it.
func TestUnsettledFile(t *testing.T) {
	root := tree(t)
	s := server(t, Config{Root: root})
	path := filepath.Join(root, "app.js")
	soon := time.Now().Add(time.Hour)
	if err := os.Chtimes(path, soon, soon); err != nil {
		t.Fatal(err)
	}
	r := ask(t, s, get("/app.js"))
	tag := string(r.Header.Peek("ETag"))
	if !strings.HasPrefix(tag, `W/"`) {
		t.Errorf("ETag %s, want a weak one", tag)
	}
	if r := ask(t, s, with("GET", "/app.js", "If-Range: "+tag, "Range: bytes=0-0")); r.StatusCode() != 200 {
		t.Errorf("If-Range with a weak tag: %d", r.StatusCode())
	}
	if r := ask(t, s, with("GET", "/app.js", "If-Range: "+string(r.Header.Peek("Last-Modified")), "Range: bytes=0-0")); r.StatusCode() != 200 {
		t.Errorf("If-Range with its date: %d", r.StatusCode())
	}
}

func TestNotFoundPage(t *testing.T) {
	root := tree(t)
	old(t, filepath.Join(root, "404.html"), "<p>nothing here")
	s := server(t, Config{Root: root})
	for _, request := range []string{get("/missing"), get("/.env"), get("/empty/"), with("GET", "/missing", "Range: bytes=0-0"), with("GET", "/missing", "If-None-Match: *")} {
		for range 3 {
			if r := ask(t, s, request); r.StatusCode() != 404 || string(r.Body()) != "<p>nothing here" || string(r.Header.ContentType()) != "text/html; charset=utf-8" {
				t.Errorf("%q: %d %q", request, r.StatusCode(), r.Body())
			}
		}
	}
	if r := ask(t, s, get("/404.html")); r.StatusCode() != 200 {
		t.Errorf("the page itself: %d", r.StatusCode())
	}
}

func TestCompression(t *testing.T) {
	root := tree(t)
	text := strings.Repeat("<p>so it goes</p>\n", 1000)
	noise := make([]byte, 20_000)
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	for name, content := range map[string]string{
		"page.html": text, "large.html": strings.Repeat(text, 20), "photo.jpg": text, "tiny.html": "<p>", "noise.txt": string(noise),
	} {
		old(t, filepath.Join(root, name), content)
	}
	s := server(t, Config{Root: root})
	for _, c := range []struct{ path, accept, coding string }{
		{"/page.html", "gzip, deflate, br, zstd", "br"},
		{"/page.html", "gzip, zstd", "zstd"},
		{"/page.html", "gzip", "gzip"},
		{"/page.html", "br;q=0.5, gzip;q=0.8", "gzip"},
		{"/page.html", "br;q=0, *", "zstd"},
		{"/page.html", "identity, gzip;q=0.5", ""},
		{"/page.html", "deflate", ""},
		{"/page.html", "", ""},
		{"/large.html", "gzip, br", "br"},
		{"/large.html", "gzip", "gzip"},
		{"/photo.jpg", "gzip, br", ""},
		{"/tiny.html", "gzip, br", ""},
		{"/noise.txt", "gzip, br", ""},
	} {
		plain := ask(t, s, get(c.path))
		want := string(plain.Body())
		for _, method := range []string{"GET", "GET", "HEAD"} {
			r := ask(t, s, with(method, c.path, "Accept-Encoding: "+c.accept))
			coding := string(r.Header.ContentEncoding())
			if r.StatusCode() != 200 || coding != c.coding {
				t.Errorf("%s %s accepting %q: %d in %q, want %q", method, c.path, c.accept, r.StatusCode(), coding, c.coding)
			}
			if vary := string(r.Header.Peek("Vary")); (vary == "Accept-Encoding") != (c.path != "/photo.jpg" && c.path != "/tiny.html") {
				t.Errorf("%s accepting %q: Vary %q", c.path, c.accept, vary)
			}
			if tag := string(r.Header.Peek("ETag")); coding != "" && tag != "W/"+string(plain.Header.Peek("ETag")) {
				t.Errorf("%s in %s has the tag %s, which is not the weak one of %s", c.path, coding, tag, plain.Header.Peek("ETag"))
			}
			if method == "HEAD" {
				if n := r.Header.ContentLength(); coding != "" && (n <= 0 || n >= len(want)) {
					t.Errorf("HEAD %s in %s: Content-Length %d", c.path, coding, n)
				}
				continue
			}
			if body, err := r.BodyUncompressed(); err != nil || string(body) != want {
				t.Errorf("%s in %q: %d bytes, %v, want %d", c.path, coding, len(body), err, len(want))
			}
		}
	}
	tag := string(ask(t, s, with("GET", "/page.html", "Accept-Encoding: br")).Header.Peek("ETag"))
	if r := ask(t, s, with("GET", "/page.html", "Accept-Encoding: br", "If-None-Match: "+tag)); r.StatusCode() != 304 || string(r.Header.Peek("Vary")) != "Accept-Encoding" {
		t.Errorf("the compressed page again: %d, Vary %q", r.StatusCode(), r.Header.Peek("Vary"))
	}
	if r := ask(t, s, with("GET", "/page.html", "Accept-Encoding: br", "Range: bytes=0-2")); r.StatusCode() != 206 || len(r.Header.ContentEncoding()) > 0 || string(r.Body()) != "<p>" {
		t.Errorf("a part of the page: %d in %q, %q", r.StatusCode(), r.Header.ContentEncoding(), r.Body())
	}
	names, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n.Name(), "br") || strings.HasSuffix(n.Name(), "gz") || strings.HasSuffix(n.Name(), "zst") {
			t.Errorf("%s was written beside the files", n.Name())
		}
	}
}

// While one file is compressed, others are served as they are: no more than one
// CPU's work at a time.
func TestOneIsCompressedAtATime(t *testing.T) {
	root := tree(t)
	old(t, filepath.Join(root, "page.html"), strings.Repeat("<p>", 1000))
	site, err := newSite(root)
	if err != nil {
		t.Fatal(err)
	}
	s := &fasthttp.Server{Handler: site.serve}
	request := with("GET", "/page.html", "Accept-Encoding: "+middleware.Brotli)
	site.compressing <- struct{}{} // another is
	if r := ask(t, s, request); len(r.Header.ContentEncoding()) > 0 || len(r.Body()) != 3000 {
		t.Errorf("in %q", r.Header.ContentEncoding())
	}
	<-site.compressing
	if r := ask(t, s, request); string(r.Header.ContentEncoding()) != "br" {
		t.Errorf("afterwards in %q", r.Header.ContentEncoding())
	}
	site.compressing <- struct{}{} // what is compressed already waits for nobody
	if r := ask(t, s, request); string(r.Header.ContentEncoding()) != "br" {
		t.Errorf("the second time in %q", r.Header.ContentEncoding())
	}
}

func BenchmarkCompressedFile(b *testing.B) {
	root := tree(b)
	path := filepath.Join(root, "page.html")
	if err := os.WriteFile(path, bytes.Repeat([]byte("<p>so it goes</p>\n"), 1000), 0o644); err != nil {
		b.Fatal(err)
	}
	settled(b, root)
	s := server(b, Config{Root: root})
	var r fasthttp.Request
	r.SetRequestURI("/page.html")
	r.Header.Set("Accept-Encoding", "gzip, deflate, br, zstd")
	var ctx fasthttp.RequestCtx
	ctx.Init(&r, nil, nil)
	b.ReportAllocs()
	for b.Loop() {
		ctx.Response.Reset()
		s.Handler(&ctx)
	}
	if string(ctx.Response.Header.ContentEncoding()) != "br" {
		b.Errorf("in %q", ctx.Response.Header.ContentEncoding())
	}
}

// Whatever a Range says, its parts are of the file.
func FuzzRanges(f *testing.F) {
	for _, field := range []string{"bytes=0-0", "bytes=-5", "bytes=5-,0-1, 2-3", "bytes=9223372036854775807-", "bytes=-9223372036854775808", "bytes=1-2-3", "bytes=,,", "lines=1-2", "bytes=--1"} {
		f.Add(field, int64(10))
	}
	f.Fuzz(func(t *testing.T, field string, size int64) {
		if size < 0 {
			return
		}
		parts, ok := ranges(field, size)
		if len(parts) > maxRanges || len(parts) > 0 && !ok {
			t.Errorf("%q of %d: %v, %v", field, size, parts, ok)
		}
		for _, p := range parts {
			if p.start < 0 || p.length <= 0 || p.start >= size || p.length > size-p.start {
				t.Errorf("%q of %d: %+v is not in it", field, size, p)
			}
		}
	})
}

// Whatever lists of tags say, no comparison fails, and a strong match is a weak one.
func FuzzListed(f *testing.F) {
	for _, list := range []string{`"a"`, `W/"a"`, `"b", "a"`, "*", `"a`, `W/`, `,,"a",`} {
		f.Add(list, `"a"`)
		f.Add(list, `W/"a"`)
	}
	f.Fuzz(func(t *testing.T, list, tag string) {
		if listed(list, tag, true) && !listed(list, tag, false) {
			t.Errorf("%q has %q strongly, but not weakly", list, tag)
		}
	})
}
