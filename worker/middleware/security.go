package middleware

import (
	"cmp"
	"net/http"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// Security are headers that tell browsers to be careful. The zero value is a good
// one for an API, or a site whose scripts and styles are files of its own. What a
// handler has set itself stays.
type Security struct {
	// CSP is the Content-Security-Policy (w3.org/TR/CSP3). Empty is
	// default-src 'self'; base-uri 'self'; form-action 'self'; object-src 'none'.
	CSP string
	// FrameAncestors are the sites that may frame a page, added to the policy. Empty is
	// 'none'.
	FrameAncestors string
	// HSTS is for how long browsers come by TLS only (RFC 6797); it is sent over TLS
	// alone. 0 is none: it cannot be taken back.
	HSTS time.Duration
	// HSTSSubdomains is for the host's subdomains too.
	HSTSSubdomains bool
	// Referrer is the Referrer-Policy. Empty is strict-origin-when-cross-origin.
	Referrer string
}

// fields are the headers, for an answer over TLS or not.
func (s Security) fields() (always, overTLS [][2]string) {
	ancestors := cmp.Or(s.FrameAncestors, "'none'")
	always = [][2]string{
		{"X-Content-Type-Options", "nosniff"},
		{"Content-Security-Policy", cmp.Or(s.CSP, "default-src 'self'; base-uri 'self'; form-action 'self'; object-src 'none'") + "; frame-ancestors " + ancestors},
		{"Referrer-Policy", cmp.Or(s.Referrer, "strict-origin-when-cross-origin")},
	}
	switch ancestors { // for browsers that know no frame-ancestors (RFC 7034)
	case "'none'":
		always = append(always, [2]string{"X-Frame-Options", "DENY"})
	case "'self'":
		always = append(always, [2]string{"X-Frame-Options", "SAMEORIGIN"})
	}
	if s.HSTS > 0 {
		value := "max-age=" + strconv.Itoa(int(s.HSTS/time.Second))
		if s.HSTSSubdomains {
			value += "; includeSubDomains"
		}
		overTLS = [][2]string{{"Strict-Transport-Security", value}}
	}
	return always, overTLS
}

// FastSecurity puts them around a fasthttp handler.
func FastSecurity(s Security, next fasthttp.RequestHandler) fasthttp.RequestHandler {
	always, overTLS := s.fields()
	return func(ctx *fasthttp.RequestCtx) {
		next(ctx)
		set := func(fields [][2]string) {
			for _, f := range fields {
				if ctx.Response.Header.Peek(f[0]) == nil {
					ctx.Response.Header.Set(f[0], f[1])
				}
			}
		}
		if set(always); ctx.IsTLS() {
			set(overTLS)
		}
	}
}

// NetSecurity puts them around a net/http handler.
func NetSecurity(s Security, next http.Handler) http.Handler {
	always, overTLS := s.fields()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, f := range always {
			w.Header().Set(f[0], f[1])
		}
		if r.TLS != nil {
			for _, f := range overTLS {
				w.Header().Set(f[0], f[1])
			}
		}
		next.ServeHTTP(w, r)
	})
}
