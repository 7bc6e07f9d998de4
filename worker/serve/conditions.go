package serve

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// outcome is what a request's conditions come to.
type outcome int

const (
	proceed outcome = iota
	notModified
	failed // 412
)

// wishes are the fields of a request for a file that say more than its path. A list
// that came as several fields is one (RFC 9110, section 5.3).
type wishes struct {
	match, noneMatch               []byte // If-Match, If-None-Match
	unmodifiedSince, modifiedSince []byte
	part, ifPart                   []byte // Range, If-Range
	accepts                        []byte // Accept-Encoding
}

// wishesOf collects them in one walk: to look each up costs as much as all else of a
// small file's answer.
func wishesOf(h *fasthttp.RequestHeader) (w wishes) {
	for name, value := range h.All() {
		switch string(name) {
		case fasthttp.HeaderIfMatch:
			w.match = listOf(w.match, value)
		case fasthttp.HeaderIfNoneMatch:
			w.noneMatch = listOf(w.noneMatch, value)
		case fasthttp.HeaderAcceptEncoding:
			w.accepts = listOf(w.accepts, value)
		case fasthttp.HeaderIfUnmodifiedSince:
			w.unmodifiedSince = value
		case fasthttp.HeaderIfModifiedSince:
			w.modifiedSince = value
		case fasthttp.HeaderRange:
			w.part = value
		case fasthttp.HeaderIfRange:
			w.ifPart = value
		}
	}
	return w
}

func listOf(begun, more []byte) []byte {
	if begun == nil {
		return more
	}
	return slices.Concat(begun, []byte(", "), more)
}

// conditions looks at a request's preconditions in the order of RFC 9110, section
// 13.2.2. tag is the file's entity tag.
func (w *wishes) conditions(tag []byte, modified time.Time) outcome {
	modified = modified.Truncate(time.Second) // as precise as the header field is
	if len(w.match) > 0 {
		if !listed(string(w.match), string(tag), true) {
			return failed
		}
	} else if since := date(w.unmodifiedSince); !since.IsZero() && modified.After(since) {
		return failed
	}
	if len(w.noneMatch) > 0 {
		if listed(string(w.noneMatch), string(tag), false) {
			return notModified
		}
	} else if since := date(w.modifiedSince); !since.IsZero() && !modified.After(since) {
		return notModified
	}
	return proceed
}

// date reads a date of HTTP (RFC 9110, section 5.6.7); what is none is zero: the
// field is then ignored.
func date(field []byte) time.Time {
	if len(field) == 0 {
		return time.Time{}
	}
	t, err := http.ParseTime(string(field))
	if err != nil {
		return time.Time{}
	}
	return t
}

// listed reports whether a list of entity tags has one, by the strong or the weak
// comparison (RFC 9110, section 8.8.3.2). "*" is any.
func listed(list, tag string, strong bool) bool {
	if strings.TrimSpace(list) == "*" {
		return true
	}
	opaque := strings.TrimPrefix(tag, "W/")
	for {
		list = strings.TrimLeft(list, " \t,")
		weak := strings.HasPrefix(list, "W/")
		if weak {
			list = list[2:]
		}
		if !strings.HasPrefix(list, `"`) {
			return false // the end, or no tag
		}
		end := strings.IndexByte(list[1:], '"')
		if end < 0 {
			return false
		}
		if list[:end+2] == opaque && !(strong && (weak || opaque != tag)) {
			return true
		}
		list = list[end+2:]
	}
}

// sameFile reports whether an If-Range names the file as it is (RFC 9110, section
// 13.1.5): else the client wants all of it. A tag that is weak stands for a file
// that may change unnoticed: then a date is none to trust either.
func sameFile(ifRange, tag, modified []byte) bool {
	if bytes.HasPrefix(tag, []byte("W/")) {
		return false
	}
	return bytes.Equal(ifRange, tag) || bytes.Equal(ifRange, modified)
}

// span is a part of a file, in bytes.
type span struct{ start, length int64 }

// contentRange is its Content-Range.
func (s span) contentRange(size int64) string {
	b := strconv.AppendInt([]byte("bytes "), s.start, 10)
	b = strconv.AppendInt(append(b, '-'), s.start+s.length-1, 10)
	b = strconv.AppendInt(append(b, '/'), size, 10)
	return string(b)
}

// maxRanges bounds the parts of one answer: beyond, the whole file is cheaper (RFC
// 9110, section 17.15).
const maxRanges = 16

// ranges reads a Range (RFC 9110, section 14.1.2). Without any, the field is to be
// ignored: it is of another unit, no range at all, or asks for more than the file
// is. ok is false where none of them is in the file.
func ranges(field string, size int64) (parts []span, ok bool) {
	const unit = "bytes="
	if len(field) < len(unit) || !strings.EqualFold(field[:len(unit)], unit) {
		return nil, true
	}
	given, total := 0, int64(0)
	for _, one := range strings.Split(field[len(unit):], ",") {
		if one = strings.Trim(one, " \t"); one == "" {
			continue
		}
		if given++; given > maxRanges {
			return nil, true
		}
		from, to, has := strings.Cut(one, "-")
		start, last := number(from), number(to)
		switch {
		case !has || start == bad || last == bad || start == none && last == none:
			return nil, true
		case start == none: // the last bytes
			start, last = max(0, size-last), size-1
		case last == none:
			last = size - 1
		case last < start:
			return nil, true
		}
		last = min(last, size-1)
		if start > last {
			continue // not in the file
		}
		parts = append(parts, span{start, last - start + 1})
		total += last - start + 1
	}
	switch {
	case given == 0:
		return nil, true
	case len(parts) == 0:
		return nil, false
	case len(parts) > 1 && total > size:
		return nil, true
	}
	return parts, true
}

// What number gives besides numbers.
const (
	none = -1
	bad  = -2
)

// number reads digits; what does not fit is as large as can be.
func number(s string) int64 {
	if s == "" {
		return none
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return bad
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 1<<63 - 1
	}
	return n
}
