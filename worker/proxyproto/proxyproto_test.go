package proxyproto

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const v4 = "\x0a\x00\x00\x01\xc0\x00\x02\x01\x12\x34\x00\x50" // 10.0.0.1:4660 to 192.0.2.1:80

var v6 = "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01" + strings.Repeat("\x00", 16) + "\x00\x01\x00\x02"

// headers are good ones, and what they say.
var headers = map[string]string{
	"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n":                     "203.0.113.7:56324",
	"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n":         "255.255.255.255:65535",
	"PROXY TCP4 1.1.1.1 1.1.1.1 0 0\r\n":                                 "1.1.1.1:0",
	"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n":                         "[2001:db8::7]:1",
	"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n":                          "203.0.113.7:1",
	"PROXY UNKNOWN\r\n":                                                  "",
	"PROXY UNKNOWN ffff:: what ever\r\n":                                 "",
	signature + "\x21\x11\x00\x0c" + v4:                                  "10.0.0.1:4660",
	signature + "\x21\x11\x00\x12" + v4 + "\x04\x00\x03abc":              "10.0.0.1:4660",
	signature + "\x21\x21\x00\x24" + v6:                                  "[2001:db8::1]:1",
	signature + "\x20\x00\x00\x00":                                       "",
	signature + "\x20\x11\x00\x0c" + v4:                                  "", // LOCAL: who it names is nobody
	signature + "\x20\xff\x00\x01x":                                      "",
	signature + "\x21\x00\x00\x03abc":                                    "",
	signature + "\x21\x31\x00\xd8" + strings.Repeat("/", 216):            "",
	signature + "\x21\x11\xff\xff" + v4 + strings.Repeat("x", 0xffff-12): "10.0.0.1:4660",
	signature + "\x21\x21\x00\x27" + v6 + "\x04\x00\x00":                 "[2001:db8::1]:1",
}

// bad are none.
var bad = []string{
	"", "P", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "proxy tcp4 1.1.1.1 1.1.1.1 1 1\r\n",
	"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n", "PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n", "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
	"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n", "PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n", "PROXY TCP4 1.1.1.1 1.1.1.1 -1 1\r\n",
	"PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n", "PROXY TCP4 01.1.1.1 1.1.1.1 1 1\r\n", "PROXY TCP4 ::1 ::1 1 1\r\n",
	"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n", "PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n", "PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n",
	"PROXY UNKNOWN " + strings.Repeat("x", 107) + "\r\n", "PROXY TCP4 1.1.1.1",
	signature, signature + "\x21\x11\x00\x0c" + v4[:11], signature + "\x21\x11\x00\x0b" + v4, signature + "\x11\x11\x00\x0c" + v4,
	signature + "\x22\x11\x00\x0c" + v4, signature + "\x21\x12\x00\x0c" + v4, signature + "\x21\x41\x00\x0c" + v4,
	signature + "\x21\x21\x00\x0c" + v4, signature + "\x21\x11\x00\x0d" + v4, signature + "\x21\x31\x00\x01x",
	signature[:11] + "\x00\x21\x11\x00\x0c" + v4,
}

// What is written is read as it was meant.
func TestAppend(t *testing.T) {
	at := netip.MustParseAddrPort
	for _, c := range []struct {
		source, destination netip.AddrPort
		line                string
	}{
		{at("203.0.113.7:56324"), at("192.0.2.1:443"), "PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n"},
		{at("[::ffff:203.0.113.7]:1"), at("192.0.2.1:443"), "PROXY TCP4 203.0.113.7 192.0.2.1 1 443\r\n"},
		{at("[2001:db8::7]:1"), at("[2001:db8::1]:2"), "PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n"},
		{at("[fe80::1%eth0]:1"), at("192.0.2.1:443"), "PROXY TCP6 fe80::1 ::ffff:192.0.2.1 1 443\r\n"},
		{at("203.0.113.7:1"), at("[2001:db8::1]:2"), "PROXY TCP6 ::ffff:203.0.113.7 2001:db8::1 1 2\r\n"},
		{at("203.0.113.7:0"), netip.AddrPort{}, "PROXY TCP4 203.0.113.7 0.0.0.0 0 0\r\n"},
		{netip.AddrPort{}, at("192.0.2.1:443"), "PROXY UNKNOWN\r\n"},
	} {
		if got := string(Append(nil, 1, c.source, c.destination)); got != c.line {
			t.Errorf("from %v to %v: %q, want %q", c.source, c.destination, got, c.line)
		}
		want := netip.AddrPortFrom(c.source.Addr().Unmap().WithZone(""), c.source.Port())
		for _, version := range []int{1, 2} {
			r := bytes.NewReader(append(Append([]byte{}, version, c.source, c.destination), "rest"...))
			got, err := Read(r)
			if rest, _ := io.ReadAll(r); err != nil || got != want || string(rest) != "rest" {
				t.Errorf("version %d, from %v to %v: %v, %v, and %q is left", version, c.source, c.destination, got, err, rest)
			}
		}
	}
	if got := string(Append(nil, 2, at("10.0.0.1:4660"), at("192.0.2.1:80"))); got != signature+"\x21\x11\x00\x0c"+v4 {
		t.Errorf("%q", got)
	}
}

func TestRead(t *testing.T) {
	for text, want := range headers {
		r := strings.NewReader(text + "rest")
		got, err := Read(r)
		if rest, _ := io.ReadAll(r); err != nil || want != "" && got.String() != want || want == "" && got.IsValid() || string(rest) != "rest" {
			t.Errorf("%.60q: %v, %v, and %q is left, want %s and the rest", text, got, err, rest, want)
		}
	}
	for _, text := range bad {
		if got, err := Read(strings.NewReader(text)); !errors.Is(err, ErrHeader) || got.IsValid() {
			t.Errorf("%.60q: %v, %v, want ErrHeader", text, got, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	for text := range headers {
		f.Add([]byte(text))
	}
	for _, text := range bad {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		source, err := Read(r)
		if err != nil && (!errors.Is(err, ErrHeader) || source.IsValid()) {
			t.Fatalf("%v, %v", source, err)
		}
		if err != nil {
			return
		}
		if source.Addr().Zone() != "" || source.Addr().Is4In6() {
			t.Errorf("%v is no plain address", source)
		}
		// What was taken is a header by itself, and all of it is needed.
		taken := data[:len(data)-r.Len()]
		if again, err := Read(bytes.NewReader(taken)); err != nil || again != source {
			t.Errorf("%q alone: %v, %v, want %v", taken, again, err, source)
		}
		if _, err := Read(bytes.NewReader(taken[:len(taken)-1])); err == nil {
			t.Errorf("%q is taken without its last byte", taken)
		}
	})
}

// told is a connection that remembers who its client is.
type told struct {
	net.Conn
	source netip.AddrPort
}

func (c *told) SetRemoteAddr(a netip.AddrPort) { c.source = a }

type tells struct{ net.Listener }

func (l tells) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &told{Conn: c}, nil
}

func TestListener(t *testing.T) {
	below, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 10)
	trusted := true
	l := &Listener{Listener: tells{below}, Trusted: func(net.Addr) bool { return trusted }, Refused: func(_ net.Addr, err error) { refused <- err }}
	dial := func(text string) net.Conn {
		c, err := net.Dial("tcp", below.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, text)
		t.Cleanup(func() { c.Close() })
		return c
	}
	expect := func(source, text string) {
		t.Helper()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got := make([]byte, len(text))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
			t.Errorf("%q, %v, want %q", got, err, text)
		}
		if a := c.(*told).source; a.IsValid() && a.String() != source || !a.IsValid() && source != "" {
			t.Errorf("from %v, want %s", a, source)
		}
	}
	dial("PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\nhello")
	expect("203.0.113.7:56324", "hello")
	// One whose header comes slowly does not keep the others waiting.
	slow := dial("PROXY TCP4 203.0.113.7")
	dial(signature + "\x21\x11\x00\x0c" + v4 + "hello")
	expect("10.0.0.1:4660", "hello")
	// One that has none is closed, and told of.
	none := dial("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if err := <-refused; !errors.Is(err, ErrHeader) {
		t.Errorf("refused for %v", err)
	}
	_ = none.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := none.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("%d, %v, want the end", n, err)
	}
	// After Close those that were accepted before come first.
	l.Close()
	_, _ = io.WriteString(slow, " 192.0.2.1 1 2\r\nlate")
	expect("203.0.113.7:1", "late")
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want net.ErrClosed", err)
	}
}

// Who is no proxy is taken as it is, and not believed.
func TestStrangers(t *testing.T) {
	below, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Listener{Listener: tells{below}, Trusted: func(net.Addr) bool { return false }}
	defer l.Close()
	out, err := net.Dial("tcp", below.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	const text = "PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n"
	_, _ = io.WriteString(out, text)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text || c.(*told).source.IsValid() {
		t.Errorf("%q, %v, of %v", got, err, c.(*told).source)
	}
}
