package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"drover/examples/internal/start"
)

func TestMain(m *testing.M) { start.Main(m, main) }

func TestRouters(t *testing.T) {
	for _, router := range []string{"servemux", "chi", "fasthttp", "fiber"} {
		t.Run(router, func(t *testing.T) {
			t.Parallel()
			p := start.Example(t, "ROUTER="+router)
			for _, c := range []struct {
				method, target string
				status         int
				body           string // "" is any
			}{
				{"GET", "/hello/you", 200, "hello you\n"},
				{"GET", "/hello/you?times=2&x=1", 200, "hello you\nhello you\n"},
				{"GET", "/hello/you?times=%32", 200, "hello you\nhello you\n"},
				{"GET", "/hello/you?times=many", 400, "times: want a number from 1 to 10\n"},
				{"POST", "/items", 201, "made\n"},
				{"GET", "/files/a/b.txt", 200, "file a/b.txt\n"},
				{"PUT", "/items", 405, ""},
				{"GET", "/nothing", 404, ""},
				{"GET", "/hello/%zz", 400, ""},
				{"GET", "/hello/%4", 400, ""},
			} {
				conn, err := net.Dial("tcp", p.Address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(start.Patience))
				fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", c.method, c.target)
				r, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: c.method})
				if err != nil {
					t.Fatalf("%s %s: %v", c.method, c.target, err)
				}
				body, err := io.ReadAll(r.Body)
				if r.StatusCode != c.status || err != nil || c.body != "" && string(body) != c.body || strings.HasPrefix(string(body), "hello") && c.status != 200 {
					t.Errorf("%s %s: %d %q, %v, want %d %q", c.method, c.target, r.StatusCode, body, err, c.status, c.body)
				}
				if allow := r.Header.Get("Allow"); (c.status == 405) != strings.Contains(allow, "POST") { // RFC 9110, section 15.5.6
					t.Errorf("%s %s: %d, allowed are %q", c.method, c.target, c.status, allow)
				}
			}
		})
	}
}
