package main

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
)

func TestAnswersAgree(t *testing.T) {
	const one = "HTTP/1.1 200 OK\r\nServer: a\r\nDate: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
	read := func(k kind, s string) answer {
		t.Helper()
		a, err := readAnswer(bufio.NewReader(strings.NewReader(s)), k)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, tt := range []struct {
		name  string
		kind  kind
		other string
		equal bool
	}{
		{"another order and name", keepalive, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: b\r\nDate: y\r\nContent-Type: text/plain\r\n\r\nok", true},
		{"Connection", keepalive, strings.Replace(one, "Date", "Connection: keep-alive\r\nDate", 1), true},
		{"ETag of a file", file, strings.Replace(one, "Date", "ETag: z\r\nDate", 1), true},
		{"ETag of a text", keepalive, strings.Replace(one, "Date", "ETag: z\r\nDate", 1), false},
		{"no Server", keepalive, strings.Replace(one, "Server: a\r\n", "", 1), false},
		{"another type", keepalive, strings.Replace(one, "text/plain", "text/html", 1), false},
		{"another body", keepalive, strings.Replace(one, "ok", "no", 1), false},
		{"another status", keepalive, strings.Replace(one, "200 OK", "404 Not Found", 1), false},
		{"another length", keepalive, strings.Replace(one, "2\r\n\r\nok", "3\r\n\r\nok!", 1), false},
	} {
		if got := read(tt.kind, tt.other).equal(read(tt.kind, one)); got != tt.equal {
			t.Errorf("%s: equal is %v", tt.name, got)
		}
	}
	// All answers of a batch are looked at.
	batch := load{path: "/plaintext", pipeline: 3}
	var sent bytes.Buffer
	if _, err := askOn(&sent, bufio.NewReader(strings.NewReader(one+one+one)), "host", batch); err != nil {
		t.Error(err)
	}
	if got := strings.Count(sent.String(), "GET /plaintext HTTP/1.1\r\nHost: host\r\n\r\n"); got != 3 {
		t.Errorf("%d requests were sent: %q", got, sent.String())
	}
	if _, err := askOn(&sent, bufio.NewReader(strings.NewReader(one+one+strings.Replace(one, "ok", "no", 1))), "host", batch); err == nil {
		t.Error("a batch with another answer in it passed")
	}
}
