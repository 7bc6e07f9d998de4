package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"drover/config"
	"drover/internal/journal"
)

// logged gives the lines of an access log, once there are so many.
func logged(t *testing.T, path string, n int) []string {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if lines := strings.SplitAfter(string(text), "\n"); len(lines) > n {
			return lines[:len(lines)-1]
		}
		if time.Now().After(deadline) {
			t.Fatalf("the access log has not %d lines:\n%s", n, text)
		}
	}
}

// withLog runs a test on both engines, with an access log in a file.
func withLog(t *testing.T, format string, test func(t *testing.T, s *server, path string)) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "access.log")
			s := newServer(t)
			s.engine, s.tracker = e.make(s)
			s.start(config.HTTP{AccessLog: format, AccessFile: path})
			test(t, s, path)
		})
	}
}

func loggerTo(l *journal.Journal) *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// nasty is what a client sends to write lines of its own.
const nasty = "a\"b\\c\xff\u00e9\x01"

func TestAccessLogAsJSON(t *testing.T) {
	withLog(t, config.AccessJSON, func(t *testing.T, s *server, path string) {
		c := s.dial()
		c.want("GET /hello?q=1 HTTP/1.1\r\nHost: example.org\r\nUser-Agent: "+strings.ReplaceAll(nasty, "\x01", "")+"\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n", 200, "hello")
		c.send(get("/panic"))
		c.receive("GET")
		var one, two struct {
			Time                                            time.Time
			Remote, Method, Target, Protocol, Host, Referer string
			UserAgent                                       string `json:"user_agent"`
			RequestID                                       string `json:"request_id"`
			Traceparent                                     string
			Status, Bytes                                   int
			Seconds                                         float64
		}
		lines := logged(t, path, 2)
		if err := errors.Join(json.Unmarshal([]byte(lines[0]), &one), json.Unmarshal([]byte(lines[1]), &two)); err != nil {
			t.Fatalf("%v: %q", err, lines)
		}
		if one.Remote != "127.0.0.1" || one.Method != "GET" || one.Target != "/hello?q=1" || one.Protocol != "HTTP/1.1" || one.Host != "example.org" || one.Referer != "" ||
			one.UserAgent != "a\"b\\c\ufffd\u00e9" || one.Traceparent != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" || one.Status != 200 || one.Bytes != 5 ||
			one.Seconds < 0 || one.Seconds > 60 || time.Since(one.Time).Abs() > time.Hour {
			t.Errorf("%+v of\n%s", one, lines[0])
		}
		if two.Status != 500 || len(two.RequestID) != 16 || !strings.Contains(s.log.String(), "id="+two.RequestID) {
			t.Errorf("a panic: %+v, and in the log\n%s", two, s.log)
		}
	})
}

func TestAccessLogAsCombined(t *testing.T) {
	withLog(t, config.AccessCombined, func(t *testing.T, s *server, path string) {
		c := s.dial()
		c.want("GET /hello?q=1 HTTP/1.1\r\nHost: a\r\nReferer: http://b/\r\nUser-Agent: x\"y\r\n\r\n", 200, "hello")
		c.want(get("/missing"), 404, "")
		lines := logged(t, path, 2)
		for i, want := range []string{
			`^127\.0\.0\.1 - - \[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /hello\?q=1 HTTP/1\.1" 200 5 "http://b/" "x\\x22y"\n$`,
			`^127\.0\.0\.1 - - \[[^\]]*\] "GET /missing HTTP/1\.1" 404 - "-" "-"\n$`,
		} {
			if !regexp.MustCompile(want).MatchString(lines[i]) {
				t.Errorf("%q, want %s", lines[i], want)
			}
		}
		// A log that was moved away is begun anew.
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		c.want(get("/hello"), 200, "hello")
		if line := logged(t, path, 1)[0]; !strings.Contains(line, "GET /hello ") {
			t.Errorf("%q", line)
		}
		if n := len(logged(t, path+".1", 2)); n != 2 {
			t.Errorf("%d lines in the one that was moved", n)
		}
	})
}

// The client that a trusted proxy names is who the line is about, and nobody's word else.
func TestAccessLogBehindAProxy(t *testing.T) {
	for _, e := range engines {
		for proxy, want := range map[string]string{"127.0.0.0/8": "203.0.113.7", "10.0.0.0/8": "127.0.0.1"} {
			t.Run(e.name+", "+proxy, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "access.log")
				s := newServer(t)
				s.engine, s.tracker = e.make(s)
				trusted, err := config.Trust(proxy)
				if err != nil {
					t.Fatal(err)
				}
				s.engine.(interface{ Trust(config.Trusted) }).Trust(trusted)
				s.start(config.HTTP{AccessLog: config.AccessCombined, AccessFile: path})
				c := s.dial()
				c.want("GET /hello HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 8.8.8.8\r\nX-Forwarded-For: 203.0.113.7, 127.0.0.9\r\n\r\n", 200, "hello")
				c.want("GET /hello HTTP/1.1\r\nHost: a\r\nForwarded: for=203.0.113.7\r\n\r\n", 200, "hello")
				for _, line := range logged(t, path, 2) {
					if !strings.HasPrefix(line, want+" - ") {
						t.Errorf("%q, want %s", line, want)
					}
				}
			})
		}
	}
}

func TestAccessLogThatCannotBe(t *testing.T) {
	s := newServer(t)
	f := FastHTTP(s.fast)
	f.Attach(s.board, config.HTTP{AccessLog: config.AccessJSON, AccessFile: filepath.Join(t.TempDir(), "none", "a.log")}, nil, f.log)
	l := listen(t)
	defer l.Close()
	if err := f.Serve(l); err == nil || !strings.Contains(err.Error(), "access log: open ") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v", err)
	}
}

// Nobody writes: what waits is bounded, and what is lost is told.
func TestAccessLogThatIsNotWritten(t *testing.T) {
	var log journal.Journal
	path := filepath.Join(t.TempDir(), "a.log")
	a := &accessLog{path: path, log: loggerTo(&log), some: make(chan struct{}, 1), many: make(chan struct{}, 1)}
	if err := a.open(); err != nil {
		t.Fatal(err)
	}
	defer func() { a.file.Close() }()
	e := &entry{method: []byte("GET"), target: []byte(strings.Repeat("/", 1000)), status: 200}
	for range 3000 {
		a.put(e)
	}
	if len(a.lines) > accessMost+2000 || a.dropped < 1000 {
		t.Fatalf("%d bytes wait, %d lines are dropped", len(a.lines), a.dropped)
	}
	dropped := a.dropped
	a.flush()
	if got := log.String(); !strings.Contains(got, fmt.Sprintf(`"lines lost"=%d`, dropped)) {
		t.Errorf("the log: %s", got)
	}
	if n := len(logged(t, path, 1)); n != 3000-dropped {
		t.Errorf("%d lines are written, %d dropped, of 3000", n, dropped)
	}
	if a.put(e); len(a.lines) == 0 || len(a.some) != 1 {
		t.Error("a line after that is not taken")
	}
}

func TestAccessSample(t *testing.T) {
	a := &accessLog{sample: uint32(1 << 30)}
	n := 0
	for range 10_000 {
		if a.chosen() {
			n++
		}
	}
	if n < 2000 || n > 3000 { // 2500, 43 is the standard deviation
		t.Errorf("%d of 10000, want about a quarter", n)
	}
}

func TestAddresses(t *testing.T) {
	for want, addr := range map[string]net.Addr{
		"127.0.0.1": &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, "::1": config.PeerOf("[::1]:80"), "2001:db8::1": &net.TCPAddr{IP: net.ParseIP("2001:db8::1")},
		"-": &net.UnixAddr{Name: "@"},
	} {
		if got := string(appendAddress(nil, addr)); got != want {
			t.Errorf("%v is %s, want %s", addr, got, want)
		}
	}
}

func BenchmarkAccessLog(b *testing.B) {
	for _, format := range []string{config.AccessCombined, config.AccessJSON} {
		b.Run(format, func(b *testing.B) {
			a := &accessLog{json: format == config.AccessJSON, some: make(chan struct{}, 1), many: make(chan struct{}, 1)}
			e := &entry{
				at: time.Now(), remote: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, method: []byte("GET"), target: []byte("/some/path?and=query"), protocol: []byte("HTTP/1.1"),
				host: []byte("example.org"), agent: []byte("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"), status: 200, bytes: 1234,
			}
			b.ReportAllocs()
			for b.Loop() {
				if a.put(e); len(a.lines) > accessMany {
					a.lines = a.lines[:0] // as if it were written
				}
			}
		})
	}
}
