// Package middleware has what stands around handlers of both engines: compression,
// CORS, security headers, request ids, error pages. Each is a function from handler
// to handler, Fast… for fasthttp and Net… for net/http.
package middleware

import (
	"bytes"
	"strings"
)

// The content codings that there are, by their names in Accept-Encoding and
// Content-Encoding; the registry is that of RFC 9110, section 18.6.
const (
	Brotli = "br"
	Zstd   = "zstd"
	Gzip   = "gzip"
)

// Codings are all, those first that are to be had where a client likes several
// equally.
var Codings = [...]string{Brotli, Zstd, Gzip}

// MinCompressed is the least that is worth compressing, in bytes: below, what is
// saved fits the packet that is sent anyway.
const MinCompressed = 1024

// Negotiate chooses a content coding by an Accept-Encoding (RFC 9110, section
// 12.5.3): the one with the highest weight, or "" for none: where there is no such
// field, nothing known is accepted, or the client prefers identity.
func Negotiate(accept []byte) string {
	if len(accept) == 0 {
		return ""
	}
	weights := [len(Codings)]int{}
	for i := range weights {
		weights[i] = -1
	}
	any, identity := -1, 0
	for more := true; more; {
		var one []byte
		one, accept, more = bytes.Cut(accept, []byte(","))
		name, parameter, _ := bytes.Cut(one, []byte(";"))
		name = bytes.TrimSpace(name)
		switch q := weight(bytes.TrimSpace(parameter)); {
		case bytes.EqualFold(name, []byte("*")):
			any = q
		case bytes.EqualFold(name, []byte("identity")):
			identity = q
		case bytes.EqualFold(name, []byte("x-gzip")): // the same (RFC 9110, section 8.4.1.3)
			weights[len(weights)-1] = q
		default:
			for i, coding := range Codings {
				if len(name) == len(coding) && bytes.EqualFold(name, []byte(coding)) {
					weights[i] = q
				}
			}
		}
	}
	best, most := "", max(0, identity-1) // as good as identity is better
	for i, q := range weights {
		if q < 0 {
			q = any
		}
		if q > most {
			best, most = Codings[i], q
		}
	}
	return best
}

// weight is a qvalue in thousandths (RFC 9110, section 12.4.2); 1000 without one,
// 0 where it is none.
func weight(parameter []byte) int {
	if len(parameter) == 0 {
		return 1000
	}
	if len(parameter) < 3 || parameter[0]|0x20 != 'q' || parameter[1] != '=' {
		return 0
	}
	digits := parameter[2:]
	if len(digits) > 5 || digits[0] != '0' && digits[0] != '1' || len(digits) > 1 && digits[1] != '.' {
		return 0
	}
	q := int(digits[0]-'0') * 1000
	for i, scale := 2, 100; i < len(digits); i, scale = i+1, scale/10 {
		if digits[i] < '0' || digits[i] > '9' {
			return 0
		}
		q += int(digits[i]-'0') * scale
	}
	if q > 1000 {
		return 0
	}
	return q
}

// Compressible reports whether bodies of a Content-Type get smaller: text, and what
// is written as text; not what is compressed already, nor events, which are to be
// sent as they come.
func Compressible(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	switch kind {
	case "text/event-stream":
		return false
	case "application/json", "application/javascript", "application/xml", "application/wasm", "application/manifest+json",
		"application/x-ndjson", "application/x-javascript", "application/vnd.ms-fontobject", "application/rtf",
		"font/ttf", "font/otf", "image/svg+xml", "image/x-icon", "image/vnd.microsoft.icon", "image/bmp":
		return true
	}
	return strings.HasPrefix(kind, "text/") || strings.HasSuffix(kind, "+json") || strings.HasSuffix(kind, "+xml")
}
