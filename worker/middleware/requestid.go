package middleware

import (
	"fmt"
	"math/rand/v2"
	"net/http"

	"drover/config"

	"github.com/valyala/fasthttp"
)

const (
	requestID   = "X-Request-Id"
	traceparent = "Traceparent"
	tracestate  = "Tracestate"
)

// idKey finds a request's id among its values: RequestCtx.Error forgets the header.
type idKey struct{}

// identity is what a request is called, and the trace that it belongs to. keepState
// says that the trace is the client's.
func identity(id, trace string, trusted bool) (newID, newTrace string, keepState bool) {
	if !trusted || !goodID(id) {
		id = fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
	}
	if goodTrace(trace) {
		return id, trace, true
	}
	// Not sampled: whoever wants to records it (w3.org/TR/trace-context, section 3.2).
	return id, fmt.Sprintf("00-%016x%016x-%016x-00", rand.Uint64()|1, rand.Uint64(), rand.Uint64()|1), false
}

// goodID reports whether an id is one that can stand in a log: at most 128
// characters, of those that ids are made of.
func goodID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == ':', c == '/', c == '+', c == '=', c == '@':
		default:
			return false
		}
	}
	return true
}

// goodTrace reports whether a traceparent is well-formed
// (w3.org/TR/trace-context, section 3.2.2): version, trace, parent, flags.
func goodTrace(t string) bool {
	const length = len("00-00000000000000000000000000000000-0000000000000000-00")
	if len(t) < length || len(t) > length && (t[:2] == "00" || t[length] != '-') || t[:2] == "ff" {
		return false
	}
	zeroTrace, zeroParent := true, true
	for i := range length {
		c := t[i]
		switch {
		case i == 2 || i == 35 || i == 52:
			if c != '-' {
				return false
			}
		case !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f'):
			return false
		case i > 2 && i < 35:
			zeroTrace = zeroTrace && c == '0'
		case i > 35 && i < 52:
			zeroParent = zeroParent && c == '0'
		}
	}
	return !zeroTrace && !zeroParent
}

// FastRequestID names each request: X-Request-Id, as one of the trusted proxies has
// named it, or a new one. The handler finds it in its request's header, the client in
// the answer's, and it is in the access log and beside a panic. A traceparent of W3C's
// Trace Context that is well-formed is left for the handler to pass on; else a new one
// is begun.
func FastRequestID(trusted config.Trusted, next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		h := &ctx.Request.Header
		id, trace, keepState := identity(string(h.Peek(requestID)), string(h.Peek(traceparent)), trusted.Has(ctx.RemoteAddr()))
		h.Set(requestID, id)
		h.Set(traceparent, trace)
		if !keepState {
			h.Del(tracestate)
		}
		ctx.Response.Header.Set(requestID, id)
		ctx.SetUserValue(idKey{}, id)
		next(ctx)
		ctx.Response.Header.Set(requestID, id) // RequestCtx.Error has forgotten it
	}
}

// NetRequestID does as FastRequestID, for net/http.
func NetRequestID(trusted config.Trusted, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, trace, keepState := identity(r.Header.Get(requestID), r.Header.Get(traceparent), trusted.Has(config.PeerOf(r.RemoteAddr)))
		r.Header.Set(requestID, id)
		r.Header.Set(traceparent, trace)
		if !keepState {
			r.Header.Del(tracestate)
		}
		w.Header().Set(requestID, id)
		next.ServeHTTP(w, r)
	})
}
