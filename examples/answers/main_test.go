package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"drover/examples/internal/start"
)

func TestMain(m *testing.M) { start.Main(m, main) }

func TestAnswers(t *testing.T) {
	start.Both(t, func(t *testing.T, engine string) {
		p := start.Example(t, "ENGINE="+engine)
		ask := func(method, path string, fields ...string) (*http.Response, string) {
			t.Helper()
			answer := p.Do(t, p.Request(t, method, path, nil, fields...))
			body, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatalf("%s %s: %v", method, path, err)
			}
			return answer, string(body)
		}

		hinted := ""
		r := p.Request(t, "GET", "/hints", nil)
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			hinted = fmt.Sprint(status, " ", header.Get("Link"))
			return nil
		}}))
		answer := p.Do(t, r)
		if body, err := io.ReadAll(answer.Body); hinted != "103 "+link || answer.StatusCode != 200 || err != nil || string(body) != text {
			t.Errorf("hints: %q, then %s %q, %v", hinted, answer.Status, body, err)
		}

		sum := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
		if answer, body := ask("GET", "/sum"); body != text || answer.Trailer.Get("X-Sum") != sum {
			t.Errorf("trailer: %q, %v", body, answer.Trailer)
		}
		if answer, body := ask("DELETE", "/item"); answer.StatusCode != 204 || body != "" || answer.Header.Get("Content-Length") != "" {
			t.Errorf("204: %s %q %v", answer.Status, body, answer.Header)
		}
		if answer, body := ask("GET", "/version"); answer.StatusCode != 200 || body != text || answer.Header.Get("ETag") != version {
			t.Errorf("version: %s %q", answer.Status, body)
		}
		if answer, body := ask("GET", "/version", "If-None-Match", version); answer.StatusCode != 304 || body != "" || answer.Header.Get("ETag") != version {
			t.Errorf("304: %s %q", answer.Status, body)
		}
		if answer, body := ask("HEAD", "/version"); answer.StatusCode != 200 || body != "" || answer.ContentLength != int64(len(text)) {
			t.Errorf("HEAD: %s %q, %d", answer.Status, body, answer.ContentLength)
		}

		conn, err := net.Dial("tcp", p.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(start.Patience))
		in := bufio.NewReader(conn)
		fmt.Fprint(conn, "PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
		if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") {
			t.Fatalf("%q, %v, want 100", line, err)
		}
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "text")
		last, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(last.Body); last.StatusCode != 200 || string(body) != "text" || err != nil {
			t.Errorf("after 100: %s %q, %v", last.Status, body, err)
		}
	})
}
