package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"drover/examples/internal/start"
)

func TestMain(m *testing.M) { start.Main(m, main) }

func TestProxy(t *testing.T) {
	var urls [2]string
	for i := range urls {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%d: %s for %s\n", i, r.URL.Path, r.Header.Get("X-Forwarded-For"))
		}))
		t.Cleanup(s.Close)
		urls[i] = s.URL
	}
	p := start.Example(t, "UPSTREAMS="+urls[0]+","+urls[1], "TRUSTED=127.0.0.0/8")
	ask := func(path string) string {
		t.Helper()
		body, err := io.ReadAll(p.Do(t, p.Request(t, "GET", path, nil, "X-Forwarded-For", "203.0.113.7")).Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	if got := ask("/"); got != "hello 203.0.113.7\n" {
		t.Errorf("%q", got)
	}
	seen := map[string]bool{}
	for range 8 {
		seen[ask("/api/users")] = true
	}
	for i := range urls {
		if want := fmt.Sprintf("%d: /users for 203.0.113.7, 127.0.0.1\n", i); !seen[want] {
			t.Errorf("upstreams answered %v, want %q too", seen, want)
		}
	}
}
