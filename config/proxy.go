package config

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Proxy says where the requests below a prefix go: to one of several servers of
// HTTP/1.1, that with the fewest requests of this worker's.
type Proxy struct {
	// Prefix is a path without encoded bytes, as /api: it stands for itself and all
	// that is below, as /api/users. "/" is everything. The longest that fits is taken.
	Prefix string `json:"prefix"`
	// Upstreams are the servers: http://HOST:PORT, or https://, whose certificate
	// must be good by the machine's authorities.
	Upstreams []string `json:"upstreams"`
	// StripPrefix leaves the prefix out of what is asked of the upstream: /api/users
	// comes to /users. False asks for the path as it is.
	StripPrefix bool `json:"strip_prefix,omitempty"`
	// Retries is how often a request is tried again, with another upstream where
	// there is one: where no connection could be made; and where one broke before a
	// byte of the answer came, if the request is idempotent and has no body (RFC
	// 9110, section 9.2.2). 0 is 1; negative is never.
	Retries int `json:"retries,omitempty"`
	// DialTimeout bounds how long a connection may take to be made. 0 is 5 s;
	// negative is no limit.
	DialTimeout time.Duration `json:"dial_timeout,omitempty"`
	// ResponseTimeout bounds how long an upstream may take from the end of a request
	// to its answer's header, and for how long it may take nothing of a body that is
	// sent to it. 0 is 60 s; negative is no limit.
	ResponseTimeout time.Duration `json:"response_timeout,omitempty"`
	// ProxyProtocol has each connection to an upstream begin with a header of the PROXY
	// protocol of this version, 1 or 2, that says who the client is: whoever has
	// connected, or whom a trusted proxy names. Such a connection has one request: the
	// next may be another client's. 0 is no header.
	ProxyProtocol int `json:"proxy_protocol,omitempty"`
	// Health says how upstreams are asked whether they are well.
	Health ProxyHealth `json:"health,omitzero"`
}

// ProxyHealth says how upstreams are asked whether they are well. One that failed
// three times without a success between is out: it gets no request, unless all are.
type ProxyHealth struct {
	// Path is asked for each Interval; a status from 200 to 399 is good. Empty asks
	// for nothing: an upstream that is out is back once it takes a connection.
	Path string `json:"path,omitempty"`
	// Interval is the time between two checks. 0 is 2 s.
	Interval time.Duration `json:"interval,omitempty"`
	// Timeout is how long an answer may take. 0 is 1 s.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// maxRetries bounds Proxy.Retries: what fails costs that many times as much.
const maxRetries = 10

// WithDefaults returns p with every zero replaced by its default and every negative
// value by -1, which means off.
func (p Proxy) WithDefaults() Proxy {
	orDefault(&p.Retries, 1)
	orDefault(&p.DialTimeout, 5*time.Second)
	orDefault(&p.ResponseTimeout, 60*time.Second)
	orDefault(&p.Health.Interval, 2*time.Second)
	orDefault(&p.Health.Timeout, time.Second)
	return p
}

// ParseProxy reads PREFIX=URL[,URL…], as --proxy takes it.
func ParseProxy(s string) (Proxy, error) {
	prefix, upstreams, ok := strings.Cut(s, "=")
	if !ok {
		return Proxy{}, wrong("proxy", "%q: want PREFIX=URL, such as /api=http://127.0.0.1:9000; several URLs with ',' between them", s)
	}
	p := Proxy{Prefix: prefix, Upstreams: strings.Split(upstreams, ",")}
	return p, p.Check()
}

// Check says what is wrong with a Proxy, and what would be right.
func (p Proxy) Check() error {
	if err := checkPrefix(p.Prefix); err != nil {
		return err
	}
	if len(p.Upstreams) == 0 {
		return wrong("proxy", "%s has no upstream: want at least one, such as http://127.0.0.1:9000", p.Prefix)
	}
	for i, u := range p.Upstreams {
		if err := checkUpstream(u); err != nil {
			return err
		}
		if slices.Contains(p.Upstreams[:i], u) {
			return wrong("proxy", "%s has upstream %s twice: want each once", p.Prefix, u)
		}
	}
	switch {
	case p.Retries > maxRetries:
		return wrong("proxy", "%s has %d retries: want at most %d", p.Prefix, p.Retries, maxRetries)
	case p.ProxyProtocol < 0 || p.ProxyProtocol > 2:
		return wrong("proxy", "%s has version %d of the PROXY protocol: want 1 or 2, or 0 for none", p.Prefix, p.ProxyProtocol)
	case p.Health.Interval < 0 || p.Health.Timeout < 0:
		return wrong("proxy", "%s has a health interval of %v and a timeout of %v: want durations above 0", p.Prefix, p.Health.Interval, p.Health.Timeout)
	case p.Health.Path != "":
		return checkHealthPath(p.Health.Path)
	}
	return nil
}

// CheckProxies says what is wrong with several, which one server has.
func CheckProxies(all []Proxy) error {
	for i, p := range all {
		if err := p.Check(); err != nil {
			return err
		}
		for _, other := range all[:i] {
			if other.Prefix == p.Prefix {
				return wrong("proxy", "%s is given twice: want each prefix once, with all its upstreams", p.Prefix)
			}
		}
	}
	return nil
}

func checkPrefix(prefix string) error {
	const want = "want a path such as /api, or / for everything"
	switch {
	case !strings.HasPrefix(prefix, "/"):
		return wrong("proxy", "prefix %q does not begin with '/': %s", prefix, want)
	case prefix == "/":
		return nil
	case strings.HasSuffix(prefix, "/"):
		return wrong("proxy", "prefix %q ends with '/': want %s, which stands for all below it too", prefix, strings.TrimRight(prefix, "/"))
	case strings.ContainsAny(prefix, "%?#\\ \t\r\n\x00"):
		return wrong("proxy", "prefix %q holds what no plain path has: %s", prefix, want)
	}
	for _, segment := range strings.Split(prefix[1:], "/") {
		if segment == "" || segment == "." || segment == ".." {
			return wrong("proxy", "prefix %q has the segment %q: %s", prefix, segment, want)
		}
	}
	return nil
}

func checkUpstream(upstream string) error {
	const want = "want http://HOST:PORT or https://HOST:PORT"
	u, err := url.Parse(upstream)
	switch {
	case err != nil:
		return wrong("proxy", "upstream %q is no URL: %s", upstream, want)
	case u.Scheme != "http" && u.Scheme != "https":
		return wrong("proxy", "upstream %q: %s", upstream, want)
	case u.Hostname() == "":
		return wrong("proxy", "upstream %q names no host: %s", upstream, want)
	case u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil:
		return wrong("proxy", "upstream %q holds more than an address: %s: the path is the request's", upstream, want)
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return wrong("proxy", "upstream %q: port %q is not a number from 1 to 65535", upstream, port)
		}
	}
	return nil
}

func checkHealthPath(path string) error {
	if u, err := url.ParseRequestURI(path); !strings.HasPrefix(path, "/") || err != nil || u.Host != "" {
		return wrong("proxy", "health path %q: want a path, such as /healthz", path)
	}
	return nil
}
