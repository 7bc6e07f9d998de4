package engine

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
)

// heading is what of a header its body's end depends on.
type heading struct {
	length  int64 // of the body
	chunked bool
	preface bool // of HTTP/2, to an engine that speaks it
	listed  bool // as the guard's

	old, host, lengths, codings bool // HTTP/1.0, and which fields there were
}

// scan reads the header that p begins with: n is its length, 0 if its end is not
// there yet.
func scan(p []byte, b *bounds) (h heading, n int, no *refusal) {
	end := bytes.IndexByte(p, '\n')
	switch {
	case end >= b.header || end < 0 && len(p) >= b.header:
		return h, 0, longLine
	case class[p[0]]&inToken == 0:
		return h, 0, badStart
	case end < 0:
		return h, 0, nil
	case end == 0 || p[end-1] != '\r':
		return h, 0, badLineEnd
	}
	if no := h.line(p[:end-1], b); no != nil || h.preface {
		return h, len(p), no
	}
	for i := end + 1; ; {
		size, no := h.field(p[i:])
		if no != nil {
			return h, 0, no
		}
		i += max(size, -size)
		switch {
		case i > b.header || size == 0 && len(p) >= b.header:
			return h, 0, longHeader
		case size == 0:
			return h, 0, nil
		case size < 0:
			if !h.host && !h.old {
				return h, 0, noHost
			}
			if h.length > b.body {
				return h, 0, largeBody
			}
			return h, i, nil
		}
	}
}

// line reads the request line.
func (h *heading) line(p []byte, b *bounds) *refusal {
	i := 0
	for i < len(p) && class[p[i]]&inToken != 0 {
		i++
	}
	if i == 0 || i >= len(p) || p[i] != ' ' {
		return badLine
	}
	method := p[:i]
	i++
	begin := i
	for i < len(p) && class[p[i]]&inTarget != 0 {
		if p[i] == '%' && (i+2 >= len(p) || unhex[p[i+1]] > 15 || unhex[p[i+2]] > 15) {
			return badEscape
		}
		i++
	}
	if i == begin || i >= len(p) {
		return badLine
	}
	if p[i] != ' ' {
		return badTarget
	}
	target, version := p[begin:i], p[i+1:]
	switch string(version) {
	case "HTTP/1.1":
	case "HTTP/1.0":
		h.old = true
	default:
		if len(version) != 8 || string(version[:5]) != "HTTP/" || version[6] != '.' || !digit(version[5]) || !digit(version[7]) {
			return badLine
		}
		if string(p) == "PRI * HTTP/2.0" {
			if h.preface = b.http2; h.preface {
				return nil
			}
			return http2Unasked
		}
		return badVersion
	}
	switch {
	case string(method) == "CONNECT":
		return noTunnel
	case target[0] == '/':
	case string(target) == "*":
		if string(method) != "OPTIONS" {
			return badTarget
		}
	default:
		return absolute(target)
	}
	return nil
}

// absolute checks a target that is a whole URI.
func absolute(target []byte) *refusal {
	scheme, rest, ok := bytes.Cut(target, []byte("://"))
	if !ok || !is(scheme, "http") && !is(scheme, "https") {
		return badTarget
	}
	if i := bytes.IndexAny(rest, "/?"); i >= 0 {
		rest = rest[:i]
	}
	if !validHost(rest) {
		return badTarget
	}
	return nil
}

// field reads a line of a header: its size, 0 if its end is not there yet, below 0 if
// it is the empty line that ends the header.
func (h *heading) field(p []byte) (int, *refusal) {
	name, value, size, no := fieldLine(p)
	if no != nil || size <= 0 {
		return size, no
	}
	switch len(name) {
	case len("Host"):
		if is(name, "host") {
			if h.host {
				return 0, twoHosts
			}
			if h.host = true; !validHost(value) {
				return 0, badHost
			}
		}
	case len("Expect"):
		if is(name, "expect") {
			switch {
			case h.old && len(value) == 0: // so it was left below, when less of the header was there
			case !is(value, "100-continue"):
				return 0, badExpect
			case h.old: // which has no such answer, and fasthttp gives it (RFC 9110, section 10.1.1)
				for i := range value {
					value[i] = ' '
				}
			default:
				copy(value, "100-continue") // in any case, and fasthttp knows one (as above)
			}
		}
	case len("Connection"):
		if is(name, "connection") && string(value) != "close" && string(value) != "keep-alive" {
			h.listed = true
		}
	case len("Content-Length"):
		if is(name, "content-length") {
			if h.lengths || h.codings {
				return 0, twoLengths
			}
			h.lengths = true
			if h.length, no = length(value); no != nil {
				return 0, no
			}
		}
	case len("Transfer-Encoding"):
		if is(name, "transfer-encoding") {
			switch {
			case h.lengths:
				return 0, twoLengths
			case h.old:
				return 0, oldCoding
			case h.codings:
				return 0, badCoding
			}
			h.codings = true
			if no := coding(value); no != nil {
				return 0, no
			}
			h.chunked = true
		}
	}
	return size, nil
}

// fieldLine takes a field's line apart; size is as field gives it.
func fieldLine(p []byte) (name, value []byte, size int, no *refusal) {
	i := 0
	for i < len(p) && class[p[i]]&inToken != 0 {
		i++
	}
	if i == len(p) {
		return nil, nil, 0, nil
	}
	if p[i] != ':' || i == 0 {
		switch {
		case i > 0:
			return nil, nil, 0, badName
		case p[0] == ' ' || p[0] == '\t':
			return nil, nil, 0, badFold
		case p[0] != '\r' && p[0] != '\n':
			return nil, nil, 0, badName
		case p[0] == '\r' && len(p) == 1:
			return nil, nil, 0, nil
		case p[0] == '\r' && p[1] == '\n':
			return nil, nil, -2, nil
		}
		return nil, nil, 0, badLineEnd
	}
	name, p = p[:i], p[i+1:]
	end := bytes.IndexByte(p, '\n')
	if end < 0 {
		return nil, nil, 0, nil
	}
	if end == 0 || p[end-1] != '\r' {
		return nil, nil, 0, badLineEnd
	}
	value = p[:end-1]
	if !printable(value) {
		if bytes.IndexByte(value, '\r') >= 0 {
			return nil, nil, 0, badLineEnd
		}
		return nil, nil, 0, badValue
	}
	for len(value) > 0 && (value[0] == ' ' || value[0] == '\t') {
		value = value[1:]
	}
	for len(value) > 0 && (value[len(value)-1] == ' ' || value[len(value)-1] == '\t') {
		value = value[:len(value)-1]
	}
	return name, value, i + 1 + end + 1, nil
}

// printable reports whether p has no control characters but tabs.
func printable(p []byte) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for len(p) >= 8 {
		x := binary.LittleEndian.Uint64(p)
		below := (x - ' '*ones) & ^x & high // where a byte is below a space
		del := x ^ 0x7f*ones
		if del = (del - ones) & ^del & high; below|del != 0 { // or is DEL; or may be, above one that is
			for _, b := range p[:8] {
				if class[b]&inValue == 0 {
					return false
				}
			}
		}
		p = p[8:]
	}
	for _, b := range p {
		if class[b]&inValue == 0 {
			return false
		}
	}
	return true
}

// length reads a Content-Length. One beyond any limit is the largest there is.
func length(value []byte) (n int64, no *refusal) {
	if len(value) == 0 {
		return 0, badLength
	}
	for _, d := range value {
		switch {
		case !digit(d):
			return 0, badLength
		case n > (math.MaxInt64-9)/10:
			n = math.MaxInt64
		default:
			n = 10*n + int64(d-'0')
		}
	}
	if n == math.MaxInt64 {
		return 0, largeBody
	}
	return n, nil
}

// coding checks a Transfer-Encoding.
func coding(value []byte) *refusal {
	if is(value, "chunked") {
		return nil
	}
	last := value
	if i := bytes.LastIndexByte(value, ','); i >= 0 {
		last = bytes.Trim(value[i+1:], " \t")
		if bytes.Contains(bytes.ToLower(value[:i]), []byte("chunked")) {
			return badCoding
		}
	}
	if !is(last, "chunked") {
		return badCoding
	}
	return otherCoding
}

// validHost reports whether h is uri-host [ ":" port ] of RFC 3986, section 3.2, and
// not empty, as an http URI's is not (RFC 9110, section 4.2.1). It has no user, whom
// fasthttp lets in, and nothing is escaped, which fasthttp knows not.
func validHost(h []byte) bool {
	i := 0
	if len(h) > 0 && h[0] == '[' {
		if i = bytes.IndexByte(h, ']') + 1; i == 0 {
			return false
		}
		if a, err := netip.ParseAddr(string(h[1 : i-1])); err != nil || !a.Is6() || a.Zone() != "" {
			return false
		}
	} else {
		for i < len(h) && class[h[i]]&inHost != 0 {
			i++
		}
	}
	if i == 0 {
		return false
	}
	if i == len(h) {
		return true
	}
	if h[i] != ':' {
		return false
	}
	port := 0
	for _, d := range h[i+1:] {
		if port = 10*port + int(d-'0'); !digit(d) || port > 65535 {
			return false
		}
	}
	return true
}

// trailerBytes bounds a trailer, in bytes: what net/http takes (net/http/transfer.go,
// seeUpcomingDoubleCRLF, and the buffer's size).
const trailerBytes = 4 << 10

// scanTrailer reads the trailer that p begins with: n is its length, 0 if its end is
// not there yet.
func scanTrailer(p []byte) (n int, no *refusal) {
	for i := 0; ; {
		name, _, size, no := fieldLine(p[i:])
		i += max(size, -size)
		switch {
		case no != nil:
			return 0, no
		case i > trailerBytes || size == 0 && len(p) >= trailerBytes:
			return 0, longTrailer
		case size < 0:
			return i, nil
		case size == 0:
			return 0, nil
		}
		for _, never := range notInTrailer {
			if is(name, never) {
				return 0, badTrailer
			}
		}
	}
}

// notInTrailer are fields that must be known before the body (RFC 9110, section 6.5.1);
// those that fasthttp refuses too.
var notInTrailer = []string{
	"authorization", "connection", "content-encoding", "content-length", "content-range", "content-type", "cookie", "expect", "host", "keep-alive",
	"location", "max-forwards", "proxy-authenticate", "proxy-authorization", "proxy-connection", "range", "set-cookie", "te", "trailer",
	"transfer-encoding", "www-authenticate",
}

// closes reports whether a Connection field lists close, in any case (RFC 9112, section
// 9.6). fasthttp knows it alone and in small letters.
func closes(connection []byte) bool {
	for len(connection) > 0 {
		option, rest, _ := bytes.Cut(connection, []byte(","))
		if is(bytes.Trim(option, " \t"), "close") {
			return true
		}
		connection = rest
	}
	return false
}

// is reports whether p is the word, which is in small letters, in any case.
func is(p []byte, word string) bool {
	if len(p) != len(word) {
		return false
	}
	for i, b := range p {
		if 'A' <= b && b <= 'Z' {
			b |= 0x20
		}
		if b != word[i] {
			return false
		}
	}
	return true
}

func digit(b byte) bool { return '0' <= b && b <= '9' }

// What a byte may be in.
const (
	inToken  = 1 << iota // RFC 9110, section 5.6.2
	inTarget             // visible, but for the # that begins what is never sent (RFC 9112, section 3.2)
	inHost               // a registered name (RFC 3986, section 3.2.2)
	inValue              // RFC 9110, section 5.5, and the white space around it
)

// class says what each byte may be in, and unhex what it is as a hexadecimal digit; 16
// is none.
var class, unhex = func() (class, unhex [256]uint8) {
	for i := range class {
		b := byte(i)
		letter := 'a' <= b|0x20 && b|0x20 <= 'z'
		among := func(s string) bool { return bytes.IndexByte([]byte(s), b) >= 0 }
		if letter || digit(b) || among("!#$%&'*+-.^_`|~") {
			class[i] |= inToken
		}
		if ' ' < b && b < 0x7f && b != '#' {
			class[i] |= inTarget
		}
		if letter || digit(b) || among("-._~!$&'()*+,;=") {
			class[i] |= inHost
		}
		if b >= ' ' && b != 0x7f || b == '\t' {
			class[i] |= inValue
		}
		switch unhex[i] = 16; {
		case digit(b):
			unhex[i] = b - '0'
		case 'a' <= b|0x20 && b|0x20 <= 'f':
			unhex[i] = b | 0x20 - 'a' + 10
		}
	}
	return class, unhex
}()
