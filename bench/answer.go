package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// answer is what must be equal between servers, for their figures to be of the
// same work.
type answer struct {
	Status  string
	Headers []string // Content-Type and Content-Length whole, of others the name
	Body    string   // of a long one, its hash
}

func (a answer) equal(b answer) bool {
	return a.Status == b.Status && slices.Equal(a.Headers, b.Headers) && a.Body == b.Body
}

// beside are headers that a server may send or not: nginx says "Connection:
// keep-alive" whatever it is told, and what a file's answer tells about the file
// is each server's own affair.
var beside = map[kind][]string{
	file: {"Accept-Ranges", "Etag", "Last-Modified", "Connection", "Keep-Alive", "Cache-Control"},
	"":   {"Connection", "Keep-Alive"},
}

// ask gets the answer to one request of a load, or, of a pipelined one, to all
// that are sent at once, which must be equal.
func ask(ctx context.Context, address string, l load) (answer, error) {
	conn, err := dial(ctx, address, l)
	if err != nil {
		return answer{}, fmt.Errorf("ask %s for %s: %w", address, l.path, err)
	}
	defer conn.Close()
	a, err := askOn(conn, bufio.NewReader(conn), address, l)
	if err != nil {
		return answer{}, fmt.Errorf("ask %s for %s: %w", address, l.path, err)
	}
	return a, nil
}

func dial(ctx context.Context, address string, l load) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if l.encrypted() {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) // our own certificate
	}
	return conn, conn.SetDeadline(time.Now().Add(10 * time.Second))
}

// askOn asks on a connection.
func askOn(conn io.Writer, r *bufio.Reader, address string, l load) (answer, error) {
	request := "GET " + l.path + " HTTP/1.1\r\nHost: " + address + "\r\n" // as wrk does
	if l.kind == closing || l.kind == shaking || l.kind == resuming {
		request += "Connection: close\r\n"
	}
	n := max(1, l.pipeline)
	if _, err := io.WriteString(conn, strings.Repeat(request+"\r\n", n)); err != nil {
		return answer{}, err
	}
	var first answer
	for i := range n {
		a, err := readAnswer(r, l.kind)
		if err != nil {
			return answer{}, err
		}
		if i == 0 {
			first = a
		}
		if !a.equal(first) {
			return answer{}, fmt.Errorf("answer %d of %d is %+v, and the first was %+v", i+1, n, a, first)
		}
	}
	return first, nil
}

func readAnswer(r *bufio.Reader, k kind) (answer, error) {
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{Status: resp.Status, Body: string(body)}
	if len(body) > 256 {
		a.Body = fmt.Sprintf("sha256 %x", sha256.Sum256(body))
	}
	optional := append(slices.Clone(beside[k]), beside[""]...)
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		switch {
		case slices.Contains(optional, name):
		case name == "Content-Type" || name == "Content-Length":
			a.Headers = append(a.Headers, name+": "+strings.ToLower(strings.Join(resp.Header[name], ", ")))
		default:
			a.Headers = append(a.Headers, name)
		}
	}
	return a, nil
}
