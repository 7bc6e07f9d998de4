package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"drover/config"
)

// route is a prefix and its upstreams.
type route struct {
	config.Proxy
	log       *slog.Logger
	reverse   *httputil.ReverseProxy
	transport *http.Transport
	upstreams []*upstream
	turn      atomic.Uint32 // who is looked at first: of equals each has its turn

	told   atomic.Int64 // when a failure was logged last, in ns of Unix time
	untold atomic.Int64 // failures since then
}

func newRoute(p config.Proxy, log *slog.Logger) *route {
	r := &route{Proxy: p, log: log, transport: newTransport(p)}
	for _, name := range p.Upstreams {
		u, err := url.Parse(name)
		if err != nil {
			panic(err) // it was checked
		}
		r.upstreams = append(r.upstreams, &upstream{name: name, url: *u, news: make(chan struct{}, 1)})
	}
	return r
}

// outAfter is how many failures without a success between take an upstream out.
const outAfter = 3

// upstream is one server.
type upstream struct {
	name   string
	url    url.URL
	active atomic.Int64  // requests that it has of us
	failed atomic.Int32  // in a row; from outAfter on it is out
	news   chan struct{} // has a token once it is out
}

func (u *upstream) out() bool { return u.failed.Load() >= outAfter }

// failure counts one, of a request or a check.
func (u *upstream) failure(r *route, err error) {
	if u.failed.Add(1) != outAfter {
		return
	}
	r.log.Warn("proxy: an upstream is out", "prefix", r.Prefix, "upstream", u.name, "error", err)
	select {
	case u.news <- struct{}{}:
	default: // not looked at yet
	}
}

// success ends a row of failures, and brings an upstream back that was out.
func (u *upstream) success(r *route) {
	if u.failed.Load() != 0 && u.failed.Swap(0) >= outAfter {
		r.log.Info("proxy: an upstream is back", "prefix", r.Prefix, "upstream", u.name)
	}
}

// watch checks an upstream until ctx ends: all the time where there is a path for
// it, else while it is out.
func (u *upstream) watch(ctx context.Context, r *route) {
	tick := time.NewTicker(r.Health.Interval)
	defer tick.Stop()
	for {
		due := tick.C
		if r.Health.Path == "" && !u.out() {
			due = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-u.news:
		case <-due:
			err := u.check(ctx, r)
			switch {
			case ctx.Err() != nil:
			case err != nil:
				u.failure(r, err)
			default:
				u.success(r)
			}
		}
	}
}

// check says what is wrong with an upstream right now, or nil.
func (u *upstream) check(ctx context.Context, r *route) error {
	ctx, cancel := context.WithTimeout(ctx, r.Health.Timeout)
	defer cancel()
	if r.Health.Path == "" {
		c, err := r.transport.DialContext(ctx, "tcp", hostPort(&u.url))
		if err != nil {
			return err
		}
		return c.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.name+r.Health.Path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "drover")
	res, err := r.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 4<<10) // so that its connection is kept, where that is all
	if res.StatusCode < 200 || res.StatusCode > 399 {
		return fmt.Errorf("GET %s answers %s: want 200 to 399", r.Health.Path, res.Status)
	}
	return nil
}

func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	port := "80"
	if u.Scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// choose gives the upstream with the fewest requests of those that are not out, or
// of all where all are; one that this request was tried with only where there is no
// other. The call has it until it is given another, or released.
func (r *route) choose(c *call, tried []*upstream) {
	c.release()
	rank := func(u *upstream) (rank int64) {
		if u.out() {
			rank = 2
		}
		if slices.Contains(tried, u) {
			rank++
		}
		return rank<<40 + u.active.Load()
	}
	begin := int(r.turn.Add(1))
	all := true
	var best *upstream
	least := int64(0)
	for i := range r.upstreams {
		u := r.upstreams[(begin+i)%len(r.upstreams)]
		all = all && u.out()
		if n := rank(u); best == nil || n < least {
			best, least = u, n
		}
	}
	c.upstream = best
	if tried == nil {
		c.allOut = all
	}
	best.active.Add(1)
}

// release takes a request off its upstream's count.
func (c *call) release() {
	if c.upstream != nil {
		c.upstream.active.Add(-1)
	}
}

// RoundTrip sends a request to an upstream, and to another where that has failed and
// it may be repeated.
func (r *route) RoundTrip(req *http.Request) (*http.Response, error) {
	c := callOf(req)
	// It is this request's own: the ReverseProxy made it.
	trace := httptrace.ContextClientTrace(req.Context())
	trace.GotConn = func(httptrace.GotConnInfo) { c.connected.Store(true) }
	trace.GotFirstResponseByte = func() { c.answered.Store(true) }
	var tried []*upstream
	for left := r.Retries; ; left-- {
		r.choose(c, tried)
		u := c.upstream
		to, target := *req, *req.URL
		target.Scheme, target.Host = u.url.Scheme, u.url.Host
		to.URL = &target
		if c.body != nil {
			to.Body = c.body
		}
		c.connected.Store(false)
		c.answered.Store(false)
		res, err := r.transport.RoundTrip(&to)
		if err == nil {
			u.success(r)
			return res, nil
		}
		if req.Context().Err() != nil || c.body.failure() != nil {
			return nil, err // it is the client's doing
		}
		u.failure(r, err)
		if left <= 0 || !c.repeatable(err) {
			return nil, err
		}
		tried = append(tried, u)
	}
}

// repeatable reports whether a request that has failed may be sent again.
func (c *call) repeatable(err error) bool {
	if !c.connected.Load() {
		return c.body == nil || !c.body.begun.Load() // nobody has seen anything of it
	}
	if c.body != nil || c.answered.Load() {
		return false
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return false // it may be what takes so long
	}
	switch c.Method { // RFC 9110, section 9.2.2
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}
