package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/examples/internal/start"
)

func TestMain(m *testing.M) { start.Main(m, main) }

func TestFiles(t *testing.T) {
	root := t.TempDir()
	text := strings.Repeat("so it goes\n", 200)
	for name, content := range map[string]string{"index.html": "home\n", "a.txt": text, ".env": "SECRET=1\n"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := start.Example(t, "ROOT="+root)
	tag := p.Do(t, p.Request(t, http.MethodHead, "/a.txt", nil)).Header.Get("ETag")
	for _, c := range []struct {
		method, path string
		fields       []string
		status       int
		body         string
		field, value string // of the answer
	}{
		{"GET", "/", nil, 200, "home\n", "Content-Type", "text/html; charset=utf-8"},
		{"GET", "/a.txt", []string{"Range", "bytes=0-9"}, 206, "so it goes", "Content-Range", "bytes 0-9/2200"},
		{"GET", "/a.txt", []string{"If-None-Match", tag}, 304, "", "ETag", tag},
		{"HEAD", "/a.txt", nil, 200, "", "Content-Length", "2200"},
		{"POST", "/a.txt", nil, 405, "method not allowed\n", "Allow", "GET, HEAD"},
		{"GET", "/.env", nil, 404, "not found\n", "Content-Type", "text/plain; charset=utf-8"},
		{"GET", "/%2e%2e/passwd", nil, 404, "not found\n", "", ""},
	} {
		answer := p.Do(t, p.Request(t, c.method, c.path, nil, append(c.fields, "Accept-Encoding", "identity")...))
		body, err := io.ReadAll(answer.Body)
		if answer.StatusCode != c.status || string(body) != c.body || err != nil || answer.Header.Get(c.field) != c.value {
			t.Errorf("%s %s: %s %.60q, %v, %s %q; want %d %q, %q", c.method, c.path, answer.Status, body, err, c.field, answer.Header.Get(c.field), c.status, c.body, c.value)
		}
	}
}
