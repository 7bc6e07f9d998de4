package engine

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"drover/config"
	"drover/ipc/scoreboard"

	"github.com/valyala/fasthttp"
)

// request is a line of testdata/requests.txt.
type request struct {
	line             int
	section          string
	status           int
	close, head, end bool
	text             string
}

var repeated = regexp.MustCompile(`\{([^{}*]+)\*(\d+)\}`)

func requests(t testing.TB) (all []request) {
	t.Helper()
	file, err := os.ReadFile("testdata/requests.txt")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(file), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		section, rest, _ := strings.Cut(line, " ")
		outcome, quoted, _ := strings.Cut(strings.TrimSpace(rest), " ")
		number, how, _ := strings.Cut(outcome, "-")
		r := request{line: i + 1, section: section, close: how == "close", head: how == "head", end: how == "end"}
		r.status, err = strconv.Atoi(number)
		if err == nil {
			r.text, err = strconv.Unquote(strings.TrimSpace(quoted))
		}
		if err != nil {
			t.Fatalf("line %d: %v", i+1, err)
		}
		r.text = repeated.ReplaceAllStringFunc(r.text, func(s string) string {
			m := repeated.FindStringSubmatch(s)
			n, _ := strconv.Atoi(m[2]) // digits, as the pattern has it
			what, err := strconv.Unquote(`"` + m[1] + `"`)
			if err != nil {
				t.Fatalf("line %d: %v", i+1, err)
			}
			return strings.Repeat(what, n)
		})
		all = append(all, r)
	}
	return all
}

// guardLimits are those that the table means.
var guardLimits = config.HTTP{BodyBytes: 1000, HeaderBytes: 16 << 10, HeaderTimeout: long, BodyTimeout: long}

// mirrors answer with what they have understood, on each engine.
func mirrors(t testing.TB) []*server {
	t.Helper()
	all := []*server{newServer(t), newServer(t), newServer(t)}
	fast := FastHTTP(mirrorFast)
	stream := FastHTTPServer(&fasthttp.Server{Handler: mirrorFast, StreamRequestBody: true})
	net := NetHTTP(http.HandlerFunc(mirrorNet))
	all[0].engine, all[0].tracker = fast, fast.tracker
	all[1].engine, all[1].tracker = stream, stream.tracker
	all[2].engine, all[2].tracker = net, net.tracker
	for _, s := range all {
		s.start(guardLimits)
	}
	return all
}

var mirrorNames = []string{"fasthttp", "fasthttp, streaming", "net/http"}

// bodyOf reads a request's body, streamed or not.
func bodyOf(ctx *fasthttp.RequestCtx) ([]byte, error) {
	if in := ctx.RequestBodyStream(); in != nil {
		return io.ReadAll(in)
	}
	return ctx.PostBody(), nil
}

func mirrorFast(ctx *fasthttp.RequestCtx) {
	body, err := bodyOf(ctx)
	if err != nil {
		ctx.SetStatusCode(BodyStatus(err))
		return
	}
	fmt.Fprintf(ctx, "%s %s %d", ctx.Method(), ctx.Host(), len(body))
}

func mirrorNet(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(BodyStatus(err))
		return
	}
	fmt.Fprintf(w, "%s %s %d", r.Method, r.Host, len(body))
}

// outcome is what a client saw: the statuses and bodies, and whether the connection was
// closed behind them.
func (s *server) outcome(text string, head, end bool) (seen []string, closed bool) {
	s.t.Helper()
	c := s.dial()
	defer c.Close()
	const second = "GET /second HTTP/1.1\r\nHost: second\r\n\r\n"
	if !end {
		text += second
	}
	var sent sync.WaitGroup
	sent.Go(func() {
		_, _ = io.WriteString(c, text) // it may be cut before all is sent
		if end {
			_ = c.CloseWrite()
		}
	})
	defer sent.Wait()
	for range 3 {
		method := "GET"
		if head && len(seen) == 0 {
			method = "HEAD"
		}
		r, err := http.ReadResponse(c.r, &http.Request{Method: method})
		if err != nil {
			if err != io.ErrUnexpectedEOF && err != io.EOF {
				s.t.Errorf("%.200q: %v after %q", text, err, seen)
			}
			return seen, true
		}
		if r.StatusCode == 100 {
			continue
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			s.t.Errorf("%.200q: a torn answer %d: %v", text, r.StatusCode, err)
			return seen, true
		}
		if r.StatusCode != 200 {
			body = nil
		}
		seen = append(seen, fmt.Sprint(r.StatusCode, " ", string(body)))
		if strings.Contains(string(body), " second ") {
			return seen, false
		}
		if r.Close {
			if n, err := io.Copy(io.Discard, c.r); n > 0 || err != nil {
				s.t.Errorf("%.200q: %d bytes and %v behind %q, which is the last", text, n, err, seen)
			}
			return seen, true
		}
	}
	return seen, false
}

// Each request of the table has its outcome, on each engine, and none is smuggled.
func TestRequestsOfTheTable(t *testing.T) {
	t.Parallel()
	all := mirrors(t)
	table := requests(t)
	if len(table) < 200 {
		t.Errorf("%d requests", len(table))
	}
	for i, s := range all {
		t.Run(mirrorNames[i], func(t *testing.T) {
			t.Parallel()
			for _, r := range table {
				seen, closed := s.outcome(r.text, r.head, r.end)
				served := r.status == 200 && !r.close
				switch {
				case len(seen) == 0 || !strings.HasPrefix(seen[0], fmt.Sprint(r.status, " ")):
					t.Errorf("line %d: %q, want %d (%s): %.120q", r.line, seen, r.status, r.section, r.text)
				case served && (closed || len(seen) != 2 || seen[1] != "200 GET second 0"):
					t.Errorf("line %d: %q, closed: %v, want the second request served (%s): %.120q", r.line, seen, closed, r.section, r.text)
				case !served && (!closed || len(seen) != 1):
					t.Errorf("line %d: %q, closed: %v, want an end behind the first answer (%s): %.120q", r.line, seen, closed, r.section, r.text)
				}
			}
		})
	}
}

// A client that sends on while it is refused can still read why, behind all that it
// sends.
func TestRefusedClientsReadTheirAnswer(t *testing.T) {
	t.Parallel()
	rest := strings.Repeat("x", 8<<20)
	for _, c := range []struct {
		name, request string
		status        int
	}{
		{"a large body", post("/", rest), 413},
		{"large chunks", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n800000\r\n" + rest + "\r\n0\r\n\r\n", 413},
		{"a large header", "GET / HTTP/1.1\r\nHost: a\r\nX: " + rest + "\r\n\r\n", 431},
		{"a long line", "GET /" + rest + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
		{"no Host, and a body", "POST / HTTP/1.1\r\nContent-Length: 8388608\r\n\r\n" + rest, 400},
		{"no version", "GET /\r\n" + rest, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for i, s := range mirrors(t) {
				conn := s.dial()
				conn.send(c.request) // all of it, before anything is read
				r, _ := conn.receive("POST")
				if r.StatusCode != c.status || !r.Close {
					t.Errorf("%s: %d, says that it closes: %v; want %d and so", mirrorNames[i], r.StatusCode, r.Close, c.status)
				}
				conn.closed(false)
				s.until("counted, and at rest", func(n scoreboard.Snapshot) bool { return n.Status[4] == 1 && n.Connections == 0 })
			}
		})
	}
}

// What the guard costs a request.
// What is said of requests that come together is what is said of each alone, also where
// one is the same as the one before.
func TestGuardOfAPipeline(t *testing.T) {
	bounds := &bounds{header: 1 << 10, body: 1 << 10}
	const (
		plain = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
		other = "GET /b HTTP/1.1\r\nHost: a\r\n\r\n"
		sized = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 26\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n"
		empty = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
		wrong = "GET /a HTTP/1.1\r\nHost: a\r\n\n"
		part  = "GET /a HTTP/1.1\r\nHost: a\r\n\r"
	)
	for _, all := range [][]string{
		{plain, plain, plain}, {plain, other, plain, plain}, {plain, "\r\n", plain}, {empty, empty, plain, empty},
		{sized, sized, plain}, {plain, sized, plain}, {plain, plain, wrong}, {plain, plain, part}, {plain, "\r\n\r\n\r\n\r\n\r\n", plain},
	} {
		var alone, together guard
		var want int
		for _, one := range all {
			ok, end := alone.admit([]byte(one), bounds)
			if want += ok; ok < end {
				break
			}
		}
		got, _ := together.admit([]byte(strings.Join(all, "")), bounds)
		if got != want || together.refused != alone.refused || together.at != alone.at || together.blank != alone.blank {
			t.Errorf("%.120q: %d bytes, %v; one by one %d, %v", all, got, together.refused, want, alone.refused)
		}
	}
}

func BenchmarkGuard(b *testing.B) {
	bounds := &bounds{header: 16 << 10, body: 4 << 20}
	for name, text := range map[string]string{
		"small":            "GET /h.txt HTTP/1.1\r\nHost: 127.0.0.1:18771\r\n\r\n",
		"16 of a pipeline": strings.Repeat("GET /h.txt HTTP/1.1\r\nHost: 127.0.0.1:18771\r\n\r\n", 16),
		"browser":          "GET /index.html HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36\r\nAccept-Encoding: gzip, deflate, br\r\nAccept-Language: en-US,en;q=0.9\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\r\n",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var g guard
			p := []byte(text)
			for b.Loop() {
				if ok, _ := g.admit(p, bounds); ok != len(p) {
					b.Fatalf("%d of %d bytes, %v", ok, len(p), g.refused)
				}
			}
		})
	}
}

// The guards are above TLS.
func TestRequestsOfTheTableOverTLS(t *testing.T) {
	t.Parallel()
	fast, net := newServer(t), newServer(t)
	f, n := FastHTTP(mirrorFast), NetHTTP(http.HandlerFunc(mirrorNet))
	fast.engine, fast.tracker = f, f.tracker
	net.engine, net.tracker = n, n.tracker
	table := requests(t)
	for name, s := range map[string]*server{"fasthttp": fast, "net/http": net} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.keys = keysFor(t, "a.test")
			s.start(guardLimits)
			for i, r := range table {
				if i%9 > 0 || r.end || r.head { // some of all kinds
					continue
				}
				s.overTLS(t, r)
			}
		})
	}
}

// overTLS asks as a line of the table says, on a connection of its own.
func (s *server) overTLS(t *testing.T, r request) {
	t.Helper()
	c := s.dialTLS()
	defer c.Close()
	if _, err := io.WriteString(c, r.text); err != nil {
		t.Errorf("line %d: %v", r.line, err)
	}
	answer, _, err := c.try("GET")
	if err == nil && answer.StatusCode == 100 {
		answer, _, err = c.try("GET")
	}
	if err != nil || answer.StatusCode != r.status {
		t.Errorf("line %d: %v, %v, want %d (%s): %.120q", r.line, answer, err, r.status, r.section, r.text)
	}
	if r.status != 200 || r.close {
		if n, err := io.Copy(io.Discard, c.r); n > 0 || err != nil {
			t.Errorf("line %d: %d bytes and %v behind the answer (%s): %.120q", r.line, n, err, r.section, r.text)
		}
	}
}
