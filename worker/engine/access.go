package engine

import (
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"drover/config"

	"github.com/valyala/fasthttp"
)

// accessLog writes a line for each request, or for a sample of them. Whoever answers
// puts the line into a buffer; one goroutine writes what has gathered, so that no
// request waits for the disk. What does not fit is dropped and counted.
type accessLog struct {
	json   bool
	sample uint32 // of so many in 2^32 requests, at most; MaxUint32 is all
	path   string // "" is the standard output, which is the master's log
	log    *slog.Logger
	// trusted are proxies that name the client.
	trusted config.Trusted

	mu      sync.Mutex // appending a line takes less than a microsecond
	lines   []byte
	dropped int

	some    chan struct{} // has a token when there are lines
	many    chan struct{} // has one when they should be written now
	end     sync.Once
	ending  chan struct{}
	written chan struct{} // closed when the last are

	// The writing goroutine's.
	file    *os.File
	spare   []byte
	failing bool
}

const (
	accessEvery = 250 * time.Millisecond // a line waits for so long
	accessMany  = 32 << 10               // bytes that wait for no longer
	accessMost  = 1 << 20                // bytes that are kept while the last are written
)

// newAccessLog begins a log, or gives nil where there is to be none. Its error says
// what is wrong with the file.
func newAccessLog(c config.HTTP, trusted config.Trusted, log *slog.Logger) (*accessLog, error) {
	if c.AccessLog == "" {
		return nil, nil
	}
	a := &accessLog{
		json: c.AccessLog == config.AccessJSON, sample: math.MaxUint32, path: c.AccessFile, log: log, trusted: trusted,
		some: make(chan struct{}, 1), many: make(chan struct{}, 1), ending: make(chan struct{}), written: make(chan struct{}),
	}
	if c.AccessSample > 0 && c.AccessSample < 1 {
		a.sample = uint32(c.AccessSample * math.MaxUint32)
	}
	if a.path != "" {
		if err := a.open(); err != nil {
			return nil, fmt.Errorf("access log: %w", err)
		}
	}
	go a.run()
	return a, nil
}

// open opens the file. Workers share it: each write is one append (write(2),
// O_APPEND), so that no line is torn.
func (a *accessLog) open() error {
	f, err := os.OpenFile(a.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	if a.file != nil {
		a.file.Close()
	}
	a.file = f
	return nil
}

// run writes lines until close.
func (a *accessLog) run() {
	defer close(a.written)
	wait := time.NewTimer(0)
	<-wait.C
	for ended := false; !ended; {
		select {
		case <-a.some:
			wait.Reset(accessEvery)
			select {
			case <-wait.C:
			case <-a.many:
			case <-a.ending:
				ended = true
			}
		case <-a.ending:
			ended = true
		}
		a.flush()
	}
	if a.file != nil {
		a.file.Close()
	}
}

// flush writes what has gathered.
func (a *accessLog) flush() {
	a.mu.Lock()
	lines, dropped := a.lines, a.dropped
	a.lines, a.dropped = a.spare[:0], 0
	a.mu.Unlock()
	select {
	case <-a.many: // meant for these
	default:
	}
	a.spare = lines
	if len(lines) == 0 {
		return
	}
	err := a.write(lines)
	switch {
	case err != nil && !a.failing:
		a.log.Error("cannot write the access log: its lines are lost until that is mended", "file", a.path, "error", err)
	case dropped > 0:
		a.log.Warn("the access log is not written as fast as it grows", "lines lost", dropped)
	}
	a.failing = err != nil
}

func (a *accessLog) write(lines []byte) error {
	if a.path == "" {
		_, err := os.Stdout.Write(lines)
		return err
	}
	// It was moved away, or removed: so logs are rotated.
	there, err := os.Stat(a.path)
	here, hereErr := a.file.Stat()
	if err != nil || hereErr != nil || !os.SameFile(there, here) {
		if err := a.open(); err != nil {
			return err
		}
	}
	_, err = a.file.Write(lines)
	return err
}

// close writes what is left. Nobody puts lines in afterwards.
func (a *accessLog) close() {
	if a != nil {
		a.end.Do(func() { close(a.ending) })
		<-a.written
	}
}

// entry is what a line says of a request.
type entry struct {
	at                       time.Time // its begin
	took                     time.Duration
	remote                   net.Addr
	method, target, protocol []byte
	host, referer, agent     []byte
	requestID, trace         []byte // X-Request-Id of the answer, traceparent of the request
	status                   int
	bytes                    int64 // of the answer's body; -1 is unknown
}

// chosen reports whether a request is of the sample.
func (a *accessLog) chosen() bool { return a.sample == math.MaxUint32 || rand.Uint32() < a.sample }

// fast takes note of a fasthttp request that was answered.
func (a *accessLog) fast(ctx *fasthttp.RequestCtx, answer *fasthttp.Response, bytes int64) {
	if !a.chosen() {
		return
	}
	h := &ctx.Request.Header
	if answer.IsBodyStream() && answer.Header.ContentLength() < 0 {
		bytes = -1
	}
	remote := ctx.RemoteAddr()
	if a.trusted.Has(remote) {
		remote = a.client(remote, func(name string) (values []string) {
			for _, v := range h.PeekAll(name) {
				values = append(values, string(v))
			}
			return values
		})
	}
	a.put(&entry{
		at: ctx.Time(), took: time.Since(ctx.Time()), remote: remote, method: h.Method(), target: h.RequestURI(), protocol: h.Protocol(),
		host: h.Host(), referer: h.Referer(), agent: h.UserAgent(), requestID: answer.Header.Peek(RequestIDHeader), trace: h.Peek("Traceparent"),
		status: answer.StatusCode(), bytes: bytes,
	})
}

// net takes note of a net/http request that was answered.
func (a *accessLog) net(r *http.Request, answer http.Header, begun time.Time, status int, bytes int64) {
	if !a.chosen() {
		return
	}
	remote := config.PeerOf(r.RemoteAddr)
	if a.trusted.Has(remote) {
		remote = a.client(remote, r.Header.Values)
	}
	a.put(&entry{
		at: begun, took: time.Since(begun), remote: remote, method: []byte(r.Method), target: []byte(r.RequestURI), protocol: []byte(r.Proto),
		host: []byte(r.Host), referer: []byte(r.Referer()), agent: []byte(r.UserAgent()), requestID: []byte(answer.Get(RequestIDHeader)), trace: []byte(r.Header.Get("Traceparent")),
		status: status, bytes: bytes,
	})
}

// client is who a line is to name for a request that came from a proxy.
func (a *accessLog) client(peer net.Addr, fields func(name string) []string) net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.trusted.Client(peer, fields), 0))
}

// put puts a line into the buffer.
func (a *accessLog) put(e *entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := len(a.lines)
	if before > accessMost {
		a.dropped++
		return
	}
	if a.json {
		a.lines = e.appendJSON(a.lines)
	} else {
		a.lines = e.appendCombined(a.lines)
	}
	if before == 0 {
		nudge(a.some)
	}
	if before < accessMany && len(a.lines) >= accessMany {
		nudge(a.many)
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // a token is there already
	}
}

// appendAddress appends a client's IP address, or "-" for one without.
func appendAddress(b []byte, addr net.Addr) []byte {
	if t, ok := addr.(*net.TCPAddr); ok {
		if ip := t.AddrPort().Addr().Unmap(); ip.IsValid() {
			return ip.AppendTo(b)
		}
	}
	return append(b, '-')
}

// appendCombined appends a line in the combined format, as Apache and nginx have it
// (httpd.apache.org/docs/2.4/logs.html#combined).
func (e *entry) appendCombined(b []byte) []byte {
	b = appendAddress(b, e.remote)
	b = append(b, " - - ["...)
	b = e.at.AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "`...)
	if len(e.method) > 0 {
		b = appendEscaped(b, e.method)
		b = appendEscaped(append(b, ' '), e.target)
		b = appendEscaped(append(b, ' '), e.protocol)
	} else {
		b = append(b, '-') // it was none that could be read
	}
	b = strconv.AppendInt(append(b, `" `...), int64(e.status), 10)
	b = append(b, ' ')
	if e.bytes > 0 {
		b = strconv.AppendInt(b, e.bytes, 10)
	} else {
		b = append(b, '-')
	}
	for _, field := range [][]byte{e.referer, e.agent} {
		b = append(b, ` "`...)
		if len(field) == 0 {
			b = append(b, '-')
		}
		b = append(appendEscaped(b, field), '"')
	}
	return append(b, '\n')
}

// appendEscaped appends what a client has sent, so that it can neither end its
// field nor begin a line: as nginx escapes it.
func appendEscaped(b, field []byte) []byte {
	const hex = "0123456789ABCDEF"
	for _, c := range field {
		if c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

// appendJSON appends an object, and the end of the line.
func (e *entry) appendJSON(b []byte) []byte {
	b = e.at.UTC().AppendFormat(append(b, `{"time":"`...), "2006-01-02T15:04:05.000Z")
	b = append(appendAddress(append(b, `","remote":"`...), e.remote), '"')
	for _, f := range []struct {
		name  string
		value []byte
	}{
		{`,"method":`, e.method}, {`,"target":`, e.target}, {`,"protocol":`, e.protocol}, {`,"host":`, e.host}, {`,"referer":`, e.referer},
		{`,"user_agent":`, e.agent}, {`,"request_id":`, e.requestID}, {`,"traceparent":`, e.trace},
	} {
		if len(f.value) > 0 {
			b = appendJSONString(append(b, f.name...), f.value)
		}
	}
	b = strconv.AppendInt(append(b, `,"status":`...), int64(e.status), 10)
	if e.bytes >= 0 {
		b = strconv.AppendInt(append(b, `,"bytes":`...), e.bytes, 10)
	}
	b = strconv.AppendFloat(append(b, `,"seconds":`...), e.took.Seconds(), 'f', 6, 64)
	return append(b, "}\n"...)
}

// appendJSONString appends a string of JSON (RFC 8259, section 7); what is no UTF-8
// becomes U+FFFD.
func appendJSONString(b, s []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for len(s) > 0 {
		c := s[0]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, size := utf8.DecodeRune(s)
			b = utf8.AppendRune(b, r)
			s = s[size:]
			continue
		}
		s = s[1:]
	}
	return append(b, '"')
}
