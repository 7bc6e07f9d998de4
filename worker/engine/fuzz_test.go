package engine

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/ipc/scoreboard"

	"github.com/valyala/fasthttp"
)

// script is a connection whose client sends what it has to, and ends.
type script struct {
	in     *bytes.Reader
	piece  int // bytes that come at once; 0: all
	out    bytes.Buffer
	closed chan struct{}
}

func (s *script) Read(p []byte) (int, error) {
	if s.piece > 0 && len(p) > s.piece {
		p = p[:s.piece]
	}
	return s.in.Read(p)
}
func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { close(s.closed); return nil } // once, as the tracker has it
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// scripts is a listener that accepts them.
type scripts chan net.Conn

func (s scripts) Accept() (net.Conn, error) {
	if c, ok := <-s; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (s scripts) Close() error   { return nil }
func (s scripts) Addr() net.Addr { return &net.TCPAddr{} }

// play gives the statuses of the answers to what a client sends, and what the mirrors
// have understood.
func (s scripts) play(t *testing.T, text []byte, piece byte) (seen []string) {
	t.Helper()
	c := &script{in: bytes.NewReader(text), piece: int(piece), closed: make(chan struct{})}
	s <- c
	select {
	case <-c.closed:
	case <-time.After(patience):
		t.Fatalf("%q: the connection is never closed", text)
	}
	for r := bufio.NewReader(&c.out); ; {
		answer, err := http.ReadResponse(r, nil)
		if err == io.ErrUnexpectedEOF {
			return seen
		}
		if err != nil {
			t.Fatalf("%q: %v after %q", text, err, seen)
		}
		if answer.StatusCode == 100 {
			continue
		}
		understood := answer.Header.Get("Understood")
		if !strings.HasPrefix(understood, "HEAD ") {
			// A HEAD that is refused is answered without a body, and by nothing behind it.
			if _, err := io.Copy(io.Discard, answer.Body); err != nil && err != io.ErrUnexpectedEOF {
				t.Fatalf("%q: %v after %q", text, err, seen)
			}
		}
		seen = append(seen, fmt.Sprint(answer.StatusCode, " ", understood))
	}
}

// What one engine serves the other does, and what one refuses the other does, however it
// comes.
func FuzzEngines(f *testing.F) {
	for _, r := range requests(f) {
		for _, piece := range []byte{0, 1, 7} {
			f.Add([]byte(r.text+"GET /second HTTP/1.1\r\nHost: second\r\n\r\n"), piece)
		}
	}
	understood := func(method, host string, body []byte) string {
		return fmt.Sprintf("%s %s %x", method, strings.ToLower(host), body)
	}
	fast := func(ctx *fasthttp.RequestCtx) {
		body, err := bodyOf(ctx)
		if err != nil {
			ctx.SetStatusCode(BodyStatus(err))
			return
		}
		ctx.Response.Header.Set("Understood", understood(string(ctx.Method()), string(ctx.Host()), body))
	}
	all := []scripts{make(scripts), make(scripts), make(scripts)}
	for i, e := range []answering{
		FastHTTP(fast),
		FastHTTPServer(&fasthttp.Server{Handler: fast, StreamRequestBody: true}),
		Server(&http.Server{DisableGeneralOptionsHandler: true, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				w.WriteHeader(BodyStatus(err))
				return
			}
			w.Header().Set("Understood", understood(r.Method, r.Host, body))
		})}),
	} {
		e.Attach(scoreboard.Private(), guardLimits, nil, slog.New(slog.DiscardHandler))
		served := make(chan error)
		go func() { served <- e.Serve(all[i]) }()
		f.Cleanup(func() {
			close(all[i])
			if err := <-served; err != nil {
				f.Error(err)
			}
		})
	}
	f.Fuzz(func(t *testing.T, text []byte, piece byte) {
		first := all[0].play(t, text, 0)
		for i, s := range all {
			if seen := s.play(t, text, piece); !slices.Equal(seen, first) {
				t.Errorf("%q:\n%s: %q\n%s, by %d bytes: %q", text, mirrorNames[0], first, mirrorNames[i], piece, seen)
			}
		}
	})
}
