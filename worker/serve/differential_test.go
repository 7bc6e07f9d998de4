package serve

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What net/http's file server makes of conditions and ranges, drover's does too: the
// two were written by different people from the same RFC.
func TestBesideNetHTTP(t *testing.T) {
	root := tree(t)
	text := strings.Repeat("0123456789", 10)
	old(t, filepath.Join(root, "app.txt"), text)
	s := server(t, Config{Root: root})
	first := ask(t, s, get("/app.txt"))
	tag, modified := string(first.Header.Peek("ETag")), string(first.Header.Peek("Last-Modified"))
	at, err := http.ParseTime(modified)
	if err != nil {
		t.Fatal(err)
	}
	reference := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", tag)
		http.ServeContent(w, r, "app.txt", at, strings.NewReader(text))
	})

	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	tags := func() string {
		return pick(tag, "W/"+tag, `"other"`, `W/"other"`, "*", tag+`, "other"`, `"other",`+tag, `"other" , W/`+tag, `"unended`, "bare", "", `"a", "b"`)
	}
	dates := func() string {
		return pick(modified, at.Add(time.Second).Format(http.TimeFormat), at.Add(-time.Second).Format(http.TimeFormat), "Thursday, 01-Jan-15 00:00:00 GMT",
			"Thu Jan  1 00:00:00 2015", "yesterday", "0", at.Add(240*time.Hour).Format(http.TimeFormat))
	}
	part := func() string { // a valid one: of others net/http refuses some, and drover ignores all
		from, to := random.IntN(120), random.IntN(120)
		return pick(fmt.Sprintf("%d-%d", min(from, to), max(from, to)), fmt.Sprintf("%d-", from), fmt.Sprintf("-%d", from+1), fmt.Sprintf("%d-%d", from/20, from/20+to/20))
	}
	for range 2000 {
		header := http.Header{}
		for name, value := range map[string]func() string{
			"If-Match": tags, "If-None-Match": tags, "If-Modified-Since": dates, "If-Unmodified-Since": dates,
			"If-Range": func() string { return pick(tag, "W/"+tag, `"other"`, modified, dates()) },
			"Range": func() string {
				all := []string{part()}
				for random.IntN(2) == 0 && len(all) < 8 {
					all = append(all, part())
				}
				return "bytes=" + strings.Join(all, pick(",", ", ", " , "))
			},
		} {
			if random.IntN(3) == 0 {
				if v := value(); v != "" {
					header.Set(name, v)
				}
			}
		}
		var request bytes.Buffer
		_ = header.Write(&request)
		mine := ask(t, s, "GET /app.txt HTTP/1.1\r\nHost: a\r\n"+request.String()+"\r\n")
		r := httptest.NewRequest("GET", "/app.txt", nil)
		r.Header = header
		w := httptest.NewRecorder()
		reference.ServeHTTP(w, r)
		theirs := w.Result()

		if mine.StatusCode() != theirs.StatusCode {
			t.Fatalf("seed %d: %v: %d, net/http %d", seed, header, mine.StatusCode(), theirs.StatusCode)
		}
		for _, name := range []string{"Content-Range", "ETag"} {
			if name == "ETag" && mine.StatusCode() >= 400 {
				continue // net/http takes it back
			}
			if got, want := string(mine.Header.Peek(name)), theirs.Header.Get(name); got != want {
				t.Fatalf("seed %d: %v: %s %q, net/http %q", seed, header, name, got, want)
			}
		}
		if mine.StatusCode() == 200 || mine.StatusCode() == 206 {
			if got, want := parts(t, string(mine.Header.ContentType()), mine.Body()), parts(t, theirs.Header.Get("Content-Type"), w.Body.Bytes()); got != want {
				t.Fatalf("seed %d: %v:\n%s\nnet/http:\n%s", seed, header, got, want)
			}
		}
	}
}

// parts are the parts of a body, whatever separates them.
func parts(t *testing.T, contentType string, body []byte) string {
	t.Helper()
	kind, parameters, err := mime.ParseMediaType(contentType)
	if err != nil {
		t.Fatal(err)
	}
	if kind != "multipart/byteranges" {
		return contentType + "\n" + string(body)
	}
	var all strings.Builder
	for in := multipart.NewReader(bytes.NewReader(body), parameters["boundary"]); ; {
		p, err := in.NextPart()
		if err == io.EOF {
			return all.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s %s: %s\n", p.Header.Get("Content-Type"), p.Header.Get("Content-Range"), text)
	}
}
