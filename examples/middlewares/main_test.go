package main

import (
	"compress/gzip"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/examples/internal/start"
)

func TestMain(m *testing.M) { start.Main(m, main) }

func TestMiddlewares(t *testing.T) {
	start.Both(t, func(t *testing.T, engine string) {
		log := filepath.Join(t.TempDir(), "access.log")
		p := start.Example(t, "ENGINE="+engine, "ACCESS_FILE="+log)

		answer := p.Do(t, p.Request(t, "GET", "/", nil, "Accept-Encoding", "gzip", "Origin", "https://app.example", "X-Request-Id", "number-7"))
		for name, want := range map[string]string{
			"Content-Encoding": "gzip", "Access-Control-Allow-Origin": "https://app.example", "X-Request-Id": "number-7", "X-Content-Type-Options": "nosniff", "Strict-Transport-Security": "",
		} {
			if got := answer.Header.Get(name); got != want {
				t.Errorf("%s %q, want %q", name, got, want)
			}
		}
		if vary := strings.Join(answer.Header.Values("Vary"), ", "); !strings.Contains(vary, "Origin") || !strings.Contains(vary, "Accept-Encoding") {
			t.Errorf("Vary: %s", vary)
		}
		unzip, err := gzip.NewReader(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(unzip); err != nil || string(text) != long {
			t.Errorf("%d bytes, %v", len(text), err)
		}

		for path, want := range map[string]string{"/missing": "no such page", "/panic": "number-8"} {
			answer := p.Do(t, p.Request(t, "GET", path, nil, "X-Request-Id", "number-8"))
			text, err := io.ReadAll(answer.Body)
			if err != nil || !strings.Contains(string(text), want) || answer.Header.Get("Content-Type") != "text/html; charset=utf-8" {
				t.Errorf("%s: %s %q, %v", path, answer.Status, text, err)
			}
		}
		preflight := p.Do(t, p.Request(t, http.MethodOptions, "/", nil, "Origin", "https://app.example", "Access-Control-Request-Method", "PUT"))
		if preflight.StatusCode != http.StatusNoContent || preflight.Header.Get("Access-Control-Allow-Methods") != "PUT" {
			t.Errorf("the preflight: %s %v", preflight.Status, preflight.Header)
		}
		if out := p.Stop(t); !strings.Contains(out, "a handler panicked: the handler's own fault") || !strings.Contains(out, "id=number-8") {
			t.Errorf("the panic's id is not in the log:\n%s", out)
		}
		lines, err := os.ReadFile(log)
		if err != nil || strings.Count(string(lines), `"request_id":"number-8"`) != 2 || !strings.Contains(string(lines), `"traceparent":"00-`) {
			t.Errorf("the access log: %v\n%s", err, lines)
		}
	})
}
