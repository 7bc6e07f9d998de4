package middleware

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// CORS says which scripts of other sites may use an API (the CORS protocol of the
// Fetch standard, fetch.spec.whatwg.org).
type CORS struct {
	// Origins are the sites, as browsers name them: scheme, host, and a port that is
	// not the scheme's own, such as https://app.example. Or "*" alone, any.
	Origins []string
	// Methods beside GET, HEAD and POST.
	Methods []string
	// Headers of requests that scripts may set, beside those that they always may.
	Headers []string
	// Expose are headers of answers that scripts may see, beside those that they
	// always may.
	Expose []string
	// Credentials lets cookies along. Not with "*".
	Credentials bool
	// MaxAge is for how long a browser need not ask again. 0 leaves it to the browser:
	// 5 s.
	MaxAge time.Duration
}

// Check says what is wrong, and what would be right.
func (c CORS) Check() error {
	any := slices.Contains(c.Origins, "*")
	switch {
	case len(c.Origins) == 0:
		return fmt.Errorf("CORS: no origins: want at least one, such as https://app.example")
	case any && len(c.Origins) > 1:
		return fmt.Errorf("CORS: origins %q: want \"*\" alone, or sites", c.Origins)
	case any && c.Credentials:
		return fmt.Errorf("CORS: credentials for any origin: browsers refuse that: want sites by name")
	}
	for _, o := range c.Origins {
		scheme, host, ok := strings.Cut(o, "://")
		if o != "*" && o != "null" && (!ok || scheme == "" || host == "" || strings.ContainsAny(host, "/*?# ")) {
			return fmt.Errorf("CORS: origin %q: want scheme and host, such as https://app.example", o)
		}
	}
	return nil
}

// fields are the headers of an answer, and whether it is one to a preflight, which
// no handler sees.
func (c CORS) fields(method, origin, asks string) (fields [][2]string, preflight bool) {
	any := c.Origins[0] == "*"
	preflight = method == http.MethodOptions && origin != "" && asks != ""
	switch {
	case !any && preflight:
		fields = append(fields, [2]string{"Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"})
	case !any:
		fields = append(fields, [2]string{"Vary", "Origin"}) // also where there is none: caches keep the answer
	}
	if origin == "" || !any && !slices.Contains(c.Origins, origin) {
		return fields, preflight
	}
	add := func(name, value string) {
		if value != "" {
			fields = append(fields, [2]string{name, value})
		}
	}
	if any {
		origin = "*"
	}
	add("Access-Control-Allow-Origin", origin)
	if c.Credentials {
		add("Access-Control-Allow-Credentials", "true")
	}
	if !preflight {
		add("Access-Control-Expose-Headers", strings.Join(c.Expose, ", "))
		return fields, false
	}
	add("Access-Control-Allow-Methods", strings.Join(c.Methods, ", "))
	add("Access-Control-Allow-Headers", strings.Join(c.Headers, ", "))
	if c.MaxAge > 0 {
		add("Access-Control-Max-Age", strconv.Itoa(int(c.MaxAge/time.Second)))
	}
	return fields, true
}

// FastCORS puts it around a fasthttp handler. It panics where Check objects.
func FastCORS(c CORS, next fasthttp.RequestHandler) fasthttp.RequestHandler {
	if err := c.Check(); err != nil {
		panic(err)
	}
	return func(ctx *fasthttp.RequestCtx) {
		h := &ctx.Request.Header
		fields, preflight := c.fields(string(h.Method()), string(h.Peek("Origin")), string(h.Peek("Access-Control-Request-Method")))
		if preflight {
			ctx.SetStatusCode(fasthttp.StatusNoContent)
		} else {
			next(ctx)
		}
		for _, f := range fields { // afterwards: RequestCtx.Error forgets what was set before
			if f[0] == "Vary" {
				ctx.Response.Header.Add(f[0], f[1])
			} else {
				ctx.Response.Header.Set(f[0], f[1])
			}
		}
	}
}

// NetCORS puts it around a net/http handler. It panics where Check objects.
func NetCORS(c CORS, next http.Handler) http.Handler {
	if err := c.Check(); err != nil {
		panic(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fields, preflight := c.fields(r.Method, r.Header.Get("Origin"), r.Header.Get("Access-Control-Request-Method"))
		for _, f := range fields {
			w.Header().Add(f[0], f[1])
		}
		if preflight {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}
