package middleware

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"drover/config"

	"github.com/valyala/fasthttp"
)

// plain is a handler that says hello, or an error, on both engines.
func plainFast(ctx *fasthttp.RequestCtx) {
	switch string(ctx.Path()) {
	case "/":
		ctx.SetBodyString("hello")
	case "/json":
		ctx.SetStatusCode(404)
		ctx.SetContentType("application/json")
		ctx.SetBodyString("{}")
	case "/panic":
		panic("boom")
	case "/names":
		ctx.SetBodyString(string(ctx.Request.Header.Peek("X-Request-Id")) + " " + string(ctx.Request.Header.Peek("Traceparent")) + " " + string(ctx.Request.Header.Peek("Tracestate")))
	case "/own":
		ctx.Response.Header.Set("Content-Security-Policy", "default-src *")
	default:
		ctx.Error("nothing here", 404)
	}
}

func plainNet(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/":
		_, _ = io.WriteString(w, "hello")
	case "/json":
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(404)
		_, _ = io.WriteString(w, "{}")
	case "/panic":
		panic("boom")
	case "/names":
		_, _ = io.WriteString(w, r.Header.Get("X-Request-Id")+" "+r.Header.Get("Traceparent")+" "+r.Header.Get("Tracestate"))
	case "/own":
		w.Header().Set("Content-Security-Policy", "default-src *")
	default:
		http.Error(w, "nothing here", 404)
	}
}

var plain = http.HandlerFunc(plainNet)

func TestCORS(t *testing.T) {
	c := CORS{Origins: []string{"https://a.example", "http://localhost:5173"}, Methods: []string{"PUT", "DELETE"}, Headers: []string{"X-Token"}, Expose: []string{"X-Count"}, Credentials: true, MaxAge: time.Hour}
	both(t, FastCORS(c, plainFast), NetCORS(c, plain), func(t *testing.T, handler any) {
		for _, c := range []struct {
			method, origin, asks string
			status               int
			want                 map[string]string
		}{
			{"GET", "https://a.example", "", 200, map[string]string{"Access-Control-Allow-Origin": "https://a.example", "Access-Control-Allow-Credentials": "true", "Access-Control-Expose-Headers": "X-Count", "Vary": "Origin", "Access-Control-Allow-Methods": ""}},
			{"GET", "https://b.example", "", 200, map[string]string{"Access-Control-Allow-Origin": "", "Access-Control-Allow-Credentials": "", "Vary": "Origin"}},
			{"GET", "https://a.example.evil", "", 200, map[string]string{"Access-Control-Allow-Origin": ""}},
			{"GET", "null", "", 200, map[string]string{"Access-Control-Allow-Origin": ""}},
			{"GET", "", "", 200, map[string]string{"Access-Control-Allow-Origin": "", "Vary": "Origin"}},
			{"OPTIONS", "https://a.example", "PUT", 204, map[string]string{"Access-Control-Allow-Origin": "https://a.example", "Access-Control-Allow-Methods": "PUT, DELETE", "Access-Control-Allow-Headers": "X-Token", "Access-Control-Max-Age": "3600"}},
			{"OPTIONS", "https://b.example", "PUT", 204, map[string]string{"Access-Control-Allow-Origin": "", "Access-Control-Allow-Methods": "", "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}},
			{"OPTIONS", "https://a.example", "", 200, map[string]string{"Access-Control-Allow-Origin": "https://a.example", "Access-Control-Allow-Methods": ""}}, // no preflight
		} {
			fields := []string{}
			if c.origin != "" {
				fields = append(fields, "Origin", c.origin)
			}
			if c.asks != "" {
				fields = append(fields, "Access-Control-Request-Method", c.asks)
			}
			r, _ := ask(t, handler, c.method, "/", fields...)
			if r.StatusCode() != c.status {
				t.Errorf("%s of %q: %d, want %d", c.method, c.origin, r.StatusCode(), c.status)
			}
			for name, want := range c.want {
				if got := string(r.Header.Peek(name)); got != want {
					t.Errorf("%s of %q: %s %q, want %q", c.method, c.origin, name, got, want)
				}
			}
		}
		if r, _ := ask(t, handler, "GET", "/missing", "Origin", "https://a.example"); r.StatusCode() != 404 || string(r.Header.Peek("Access-Control-Allow-Origin")) != "https://a.example" {
			t.Errorf("an error: %d, of which the script learns nothing: %s", r.StatusCode(), r.Header.String())
		}
	})
	everybody := CORS{Origins: []string{"*"}}
	both(t, FastCORS(everybody, plainFast), NetCORS(everybody, plain), func(t *testing.T, handler any) {
		if r, _ := ask(t, handler, "GET", "/", "Origin", "https://x.example"); string(r.Header.Peek("Access-Control-Allow-Origin")) != "*" || string(r.Header.Peek("Vary")) != "" {
			t.Errorf("any origin: %s", r.Header.String())
		}
	})
	for want, bad := range map[string]CORS{
		"no origins": {}, "alone": {Origins: []string{"*", "https://a.example"}}, "credentials": {Origins: []string{"*"}, Credentials: true},
		`"a.example": want scheme`: {Origins: []string{"a.example"}}, `"https://a.example/": want`: {Origins: []string{"https://a.example/"}},
	} {
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", bad, err, want)
		}
	}
}

func TestSecurity(t *testing.T) {
	s := Security{HSTS: 24 * time.Hour, HSTSSubdomains: true}
	both(t, FastSecurity(s, plainFast), NetSecurity(s, plain), func(t *testing.T, handler any) {
		for _, path := range []string{"/", "/missing"} {
			r, _ := ask(t, handler, "GET", path)
			for name, want := range map[string]string{
				"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "strict-origin-when-cross-origin", "Strict-Transport-Security": "",
				"Content-Security-Policy": "default-src 'self'; base-uri 'self'; form-action 'self'; object-src 'none'; frame-ancestors 'none'",
			} {
				if got := string(r.Header.Peek(name)); got != want {
					t.Errorf("%s: %s %q, want %q", path, name, got, want)
				}
			}
		}
		if r, _ := ask(t, handler, "GET", "/own"); string(r.Header.Peek("Content-Security-Policy")) != "default-src *" {
			t.Errorf("the handler's own policy is %q", r.Header.Peek("Content-Security-Policy"))
		}
	})
	r := httptest.NewRequest("GET", "https://a/", nil)
	r.TLS = &tls.ConnectionState{}
	w := httptest.NewRecorder()
	if NetSecurity(s, plain).ServeHTTP(w, r); w.Header().Get("Strict-Transport-Security") != "max-age=86400; includeSubDomains" {
		t.Errorf("over TLS: %v", w.Header())
	}
	always, overTLS := Security{CSP: "default-src 'none'", FrameAncestors: "'self'"}.fields()
	if always[1][1] != "default-src 'none'; frame-ancestors 'self'" || always[3][1] != "SAMEORIGIN" || overTLS != nil {
		t.Errorf("%q, %q", always, overTLS)
	}
}

func TestRequestID(t *testing.T) {
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	// httptest's requests are from 192.0.2.1, fasthttp's of no connection from 0.0.0.0.
	known, err := config.Trust("192.0.2.0/24", "0.0.0.0")
	if err != nil {
		t.Fatal(err)
	}
	both(t, FastRequestID(known, plainFast), NetRequestID(known, plain), func(t *testing.T, handler any) {
		r, body := ask(t, handler, "GET", "/names", "X-Request-Id", "abc-1", "Traceparent", trace, "Tracestate", "v=1")
		if string(r.Header.Peek("X-Request-Id")) != "abc-1" || body != "abc-1 "+trace+" v=1" {
			t.Errorf("a trusted proxy's: %q, the handler sees %q", r.Header.Peek("X-Request-Id"), body)
		}
		if r, _ := ask(t, handler, "GET", "/missing", "X-Request-Id", "abc-1"); string(r.Header.Peek("X-Request-Id")) != "abc-1" {
			t.Errorf("an error has the id %q", r.Header.Peek("X-Request-Id"))
		}
		for _, bad := range []string{"", "a b", "a\"b", strings.Repeat("x", 129)} {
			r, body := ask(t, handler, "GET", "/names", "X-Request-Id", bad, "Traceparent", "00-x", "Tracestate", "v=1")
			id := string(r.Header.Peek("X-Request-Id"))
			names := strings.Split(body, " ")
			if len(id) != 32 || names[0] != id || !goodTrace(names[1]) || !strings.HasSuffix(names[1], "-00") || names[2] != "" {
				t.Errorf("for %.20q the id is %q, and the handler sees %q", bad, id, body)
			}
		}
	})
	both(t, FastRequestID(config.Trusted{}, plainFast), NetRequestID(config.Trusted{}, plain), func(t *testing.T, handler any) {
		if r, body := ask(t, handler, "GET", "/names", "X-Request-Id", "abc-1", "Traceparent", trace); strings.Contains(body, "abc-1") || !strings.Contains(body, trace) || len(r.Header.Peek("X-Request-Id")) != 32 {
			t.Errorf("a stranger's: %q", body)
		}
	})
}

func TestTraceparent(t *testing.T) {
	for trace, want := range map[string]bool{
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":      true,
		"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what": true, // of a later version
		"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01what":  false,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x":    false,
		"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":      false,
		"00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":      false,
		"00-00000000000000000000000000000000-b7ad6b7169203331-01":      false,
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01":      false,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0":       false,
		"000af7651916cd43dd8448eb211c80319c0b7ad6b7169203331001xxxx":   false,
		"": false,
	} {
		if goodTrace(trace) != want {
			t.Errorf("%q: %v", trace, !want)
		}
	}
}

func TestPages(t *testing.T) {
	p := Pages{404: []byte("<p>lost: {id}"), 0: []byte("<p>sorry")}
	both(t, FastRequestID(config.Trusted{}, FastPages(p, plainFast)), NetRequestID(config.Trusted{}, NetPages(p, plain)), func(t *testing.T, handler any) {
		r, body := ask(t, handler, "GET", "/missing")
		if id := string(r.Header.Peek("X-Request-Id")); r.StatusCode() != 404 || body != "<p>lost: "+id || string(r.Header.ContentType()) != html {
			t.Errorf("%d %q %q", r.StatusCode(), r.Header.ContentType(), body)
		}
		if r, body := ask(t, handler, "GET", "/"); r.StatusCode() != 200 || body != "hello" {
			t.Errorf("no error: %d %q", r.StatusCode(), body)
		}
		if r, body := ask(t, handler, "GET", "/json"); r.StatusCode() != 404 || body != "{}" {
			t.Errorf("an error that has a body of its own: %d %q", r.StatusCode(), body)
		}
		func() {
			defer func() {
				f, ok := recover().(interface {
					Answer(string) (any, string, []byte)
				})
				if !ok {
					t.Fatal("the panic does not go on with a page")
				}
				if v, kind, page := f.Answer("7"); v != "boom" || kind != html || string(page) != "<p>sorry" {
					t.Errorf("a panic: %v, %s, %q", v, kind, page)
				}
			}()
			ask(t, handler, "GET", "/panic")
		}()
	})
	defer func() {
		if v := recover(); !errors.Is(v.(error), http.ErrAbortHandler) {
			t.Errorf("an abort goes on as %v", v)
		}
	}()
	ask(t, NetPages(p, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })), "GET", "/")
}
