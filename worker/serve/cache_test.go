package serve

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// old writes a file that was last changed an hour ago, as one that is worth
// keeping was.
func old(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	hour := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, hour, hour); err != nil {
		t.Fatal(err)
	}
}

// fromMemory asks until a path is answered from memory: fasthttp's file server
// answers with a stream.
func fromMemory(t *testing.T, s *fasthttp.Server, path string) *fasthttp.Response {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if r := ask(t, s, get(path)); !r.IsBodyStream() {
			return r
		}
	}
	t.Fatalf("%s is never answered from memory", path)
	return nil
}

func TestSmallFilesAreKept(t *testing.T) {
	root := tree(t)
	old(t, filepath.Join(root, "app.js"), "old text")
	old(t, filepath.Join(root, "index.html"), "<p>old index</p>")
	s := server(t, Config{Root: root})
	for path, want := range map[string]string{"/app.js": "old text", "/": "<p>old index</p>"} {
		first := ask(t, s, get(path))
		if !first.IsBodyStream() {
			t.Errorf("%s is kept before anybody has asked for it", path)
		}
		r := fromMemory(t, s, path)
		if string(r.Body()) != want || string(r.Header.ContentType()) != string(first.Header.ContentType()) ||
			string(r.Header.Peek("Last-Modified")) != string(first.Header.Peek("Last-Modified")) ||
			string(r.Header.Peek("Accept-Ranges")) != string(first.Header.Peek("Accept-Ranges")) {
			t.Errorf("%s: from memory\n%s%q, from the file\n%s", path, r.Header.String(), r.Body(), first.Header.String())
		}
		since := strings.Replace(get(path), "\r\n\r\n", "\r\nIf-Modified-Since: "+string(r.Header.Peek("Last-Modified"))+"\r\n\r\n", 1)
		if r := ask(t, s, since); r.StatusCode() != 304 || len(r.Body()) != 0 {
			t.Errorf("%s: %d %q, want 304 (RFC 9110, section 13.1.3)", path, r.StatusCode(), r.Body())
		}
	}
	if r := ask(t, s, strings.Replace(get("/app.js"), "\r\n\r\n", "\r\nRange: bytes=4-\r\n\r\n", 1)); r.StatusCode() != 206 || string(r.Body()) != "text" {
		t.Errorf("a range of a kept file: %d %q", r.StatusCode(), r.Body())
	}
	if r := ask(t, s, strings.Replace(get("/app.js"), "GET", "HEAD", 1)); r.StatusCode() != 200 || r.Header.ContentLength() != len("old text") {
		t.Errorf("HEAD of a kept file: %d, length %d", r.StatusCode(), r.Header.ContentLength())
	}
}

// What is kept is given up when the file is another.
func TestKeptFilesChange(t *testing.T) {
	for name, c := range map[string]struct {
		do     func(path string) error
		status int
		body   string
	}{
		"written to": {func(path string) error { return os.WriteFile(path, []byte("new text"), 0o644) }, 200, "new text"},
		"replaced, with the time of the old": {func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			if err := os.WriteFile(path+".new", []byte("new text"), 0o644); err != nil {
				return err
			}
			if err := os.Chtimes(path+".new", info.ModTime(), info.ModTime()); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}, 200, "new text"},
		"removed": {os.Remove, 404, "not found\n"},
		"grown":   {func(path string) error { return os.WriteFile(path, make([]byte, smallFile+1), 0o644) }, 200, string(make([]byte, smallFile+1))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := tree(t)
			path := filepath.Join(root, "app.js")
			old(t, path, "old text")
			s := server(t, Config{Root: root})
			fromMemory(t, s, "/app.js")
			if err := c.do(path); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(30 * time.Second); ; {
				r := ask(t, s, get("/app.js"))
				if r.StatusCode() == c.status && string(r.Body()) == c.body {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("still %d %.20q", r.StatusCode(), r.Body())
				}
			}
		})
	}
}

// However many files there are, what is kept is bounded.
func TestKeptFilesAreBounded(t *testing.T) {
	root := tree(t)
	dir, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c := newCache(dir)
	for i := range keptFiles + 10 {
		c.again(fmt.Sprintf("/%d", i), time.Now())
	}
	if len(c.files) > keptFiles {
		t.Errorf("%d paths are known, want at most %d", len(c.files), keptFiles)
	}
	const n = keptBytes/smallFile + 10
	for i := range n {
		old(t, filepath.Join(root, fmt.Sprintf("%d.txt", i)), strings.Repeat("x", smallFile))
	}
	var all sync.WaitGroup
	for part := range 4 {
		all.Go(func() {
			for i := part; i < n; i += 4 {
				name := fmt.Sprintf("%d.txt", i)
				h, err := openRegular(dir, name)
				if err != nil {
					t.Error(err)
					return
				}
				f := &file{path: "/" + name, name: name}
				if err := f.describe(h, time.Now()); err != nil {
					t.Error(err)
				}
				c.keep(f, h)
				c.encodedAs(f, 0, make([]byte, i))
				c.release(f, h)
				if len(f.body) != smallFile {
					t.Errorf("%s is not kept", name)
				}
			}
		})
	}
	all.Wait()
	sum := 0
	for _, f := range c.files {
		sum += len(f.body)
		if e := f.encoded[0].Load(); e != nil {
			sum += len(*e)
		}
	}
	if sum != c.bytes || sum > keptBytes || sum < keptBytes-2*smallFile {
		t.Errorf("%d bytes are kept, and counted as %d, want nearly %d", sum, c.bytes, keptBytes)
	}
}

// A larger file's descriptors are used again, and closed when it is forgotten.
func TestDescriptorsOfLargerFiles(t *testing.T) {
	root := tree(t)
	path := filepath.Join(root, "app.js")
	old(t, path, strings.Repeat("x", smallFile+1))
	site, err := newSite(root)
	if err != nil {
		t.Fatal(err)
	}
	s := &fasthttp.Server{Handler: site.serve}
	for range 2 { // the second keeps it
		if n := len(ask(t, s, get("/app.js")).Body()); n != smallFile+1 {
			t.Fatalf("%d bytes", n)
		}
	}
	f := site.kept.find([]byte("/app.js"))
	if f == nil || len(f.idle) != 1 || f.body != nil {
		t.Fatalf("kept: %+v, want one descriptor that is idle", f)
	}
	idle := f.idle[0]
	ask(t, s, get("/app.js")).Body()
	if len(f.idle) != 1 || f.idle[0] != idle {
		t.Errorf("the descriptor was not used again: %v", f.idle)
	}
	out, err := site.kept.open(f)
	if err != nil {
		t.Fatal(err)
	}
	another, err := site.kept.open(f)
	if err != nil {
		t.Fatal(err)
	}
	site.kept.release(f, another)
	site.kept.forget(f)
	site.kept.release(f, out)
	for _, h := range []*os.File{idle, another} {
		if _, err := h.Stat(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a descriptor of a file that is forgotten is open: %v", err)
		}
	}
}
