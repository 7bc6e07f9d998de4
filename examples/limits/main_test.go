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

func TestLimits(t *testing.T) {
	start.Both(t, func(t *testing.T, engine string) {
		p := start.Example(t, "ENGINE="+engine)
		for _, c := range []struct {
			name, request string
			statuses      []int // the last says that it closes
		}{
			{"maxRequestsPerSocket", strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 4), []int{200, 200, 200}},
			{"headersTimeout", "GET / HTTP/1.1\r\nHost:", []int{408}},
			{"a body that stalls", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12", []int{408}},
			{"maxHeaderSize", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 5000) + "\r\n\r\n", []int{431}},
			{"a long URL", "GET /" + strings.Repeat("x", 5000) + " HTTP/1.1\r\nHost: a\r\n\r\n", []int{414}},
			{"a body of any length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", []int{413}},
			{"no request", "GET /\r\n\r\n", []int{400}},
			{"another transfer coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", []int{501}},
			{"another version", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", []int{505}},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				conn, err := net.Dial("tcp", p.Address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(start.Patience))
				if _, err := io.WriteString(conn, c.request); err != nil {
					t.Fatal(err)
				}
				in := bufio.NewReader(conn)
				for i, want := range c.statuses {
					r, err := http.ReadResponse(in, nil)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := io.Copy(io.Discard, r.Body); err != nil {
						t.Fatal(err)
					}
					if last := i == len(c.statuses)-1; r.StatusCode != want || r.Close != last {
						t.Errorf("%d, says that it closes: %t; want %d and %t", r.StatusCode, r.Close, want, last)
					}
				}
				if rest, _ := io.ReadAll(in); len(rest) > 0 { // an answer that nobody asked for
					t.Errorf("behind the last: %q", rest)
				}
			})
		}
		if answer := p.Do(t, p.Request(t, http.MethodPost, "/", make([]byte, 1000))); answer.StatusCode != 200 {
			t.Error(fmt.Sprint("within all limits: ", answer.Status))
		}
	})
}
