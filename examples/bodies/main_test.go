package main

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"drover/examples/internal/start"
)

func TestMain(m *testing.M) { start.Main(m, main) }

const multipart = "--x\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nyou\r\n" +
	"--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\ntext\r\n--x--\r\n"

func TestBodies(t *testing.T) {
	start.Both(t, func(t *testing.T, engine string) {
		uploads := t.TempDir()
		p := start.Example(t, "ENGINE="+engine, "UPLOADS="+uploads)
		for _, c := range []struct {
			contentType, body string
			status            int
			want              string
		}{
			{"application/json", `{"name": "you"}`, 200, "hello you\n"},
			{"application/x-www-form-urlencoded", "name=you", 200, "hello you\n"},
			{"multipart/form-data; boundary=x", multipart, 200, "hello you\na.txt: 4 bytes\n"},
			{"text/plain", "you", 415, ""},
			{"application/json", `{"age": 7}`, 400, ""},
			{"application/json", strings.Repeat(" ", 101<<10), 413, ""},
		} {
			answer := p.Do(t, p.Request(t, http.MethodPost, "/", []byte(c.body), "Content-Type", c.contentType))
			text, err := io.ReadAll(answer.Body)
			if answer.StatusCode != c.status || err != nil || c.want != "" && string(text) != c.want || c.want == "" && len(text) == 0 {
				t.Errorf("%s %.40q: %s %q, %v, want %d %q", c.contentType, c.body, answer.Status, text, err, c.status, c.want)
			}
		}
		if left, err := os.ReadDir(uploads); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}
