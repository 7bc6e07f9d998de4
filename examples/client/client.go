package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Client asks other servers. It keeps connections: make one for each worker, in the
// function of drover.Main, and use it for all requests. Zero times are no limit.
type Client struct {
	Dial   time.Duration // to be connected, name resolution included
	TLS    time.Duration // for the handshake
	Header time.Duration // from the request's last byte to the answer's header
	Body   time.Duration // for which the answer's body may make no progress
	Total  time.Duration // for all of it, tries and the answer's body included
	Tries  int           // of a request that may be repeated; 0 is 1
	Pause  time.Duration // before the second try; doubled before each further one

	http *http.Client
}

// errBody and errTotal are the limits that net/http does not have by itself.
var (
	errBody  = errors.New("the answer's body makes no progress")
	errTotal = errors.New("the request took too long")
)

// start makes the connections' pool. Config, which may be nil, is for TLS.
func (c *Client) start(config *tls.Config, resolver *net.Resolver) *Client {
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: c.Dial, Resolver: resolver}).DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   c.TLS,
		ResponseHeaderTimeout: c.Header,
		MaxIdleConnsPerHost:   64, // 2 by default: too few for a server
		IdleConnTimeout:       30 * time.Second,
		ForceAttemptHTTP2:     true,
	}}
	return c
}

// Do sends a request, and again where that is safe: it is idempotent (RFC 9110,
// section 9.2.2), its body can be sent anew (Request.GetBody), and it failed before
// an answer, or was told to come again (503). The caller closes the answer's body,
// which it reads as it arrives.
func (c *Client) Do(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	over := func() bool { return true }
	if c.Total > 0 {
		over = time.AfterFunc(c.Total, func() { cancel(errTotal) }).Stop
	}
	end := func() { over(); cancel(context.Canceled) }
	for try := 1; ; try++ {
		answer, err := c.http.Do(r.Clone(ctx))
		again := try < c.Tries && repeatable(r) && (err != nil && Kind(err) != TLS || err == nil && answer.StatusCode == http.StatusServiceUnavailable)
		if !again || context.Cause(ctx) != nil {
			if err != nil {
				defer end()
				return nil, because(ctx, err)
			}
			answer.Body = c.watch(ctx, cancel, end, answer.Body)
			return answer, nil
		}
		pause := time.Duration(0)
		if err == nil {
			pause = retryAfter(answer)
			_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection is kept
			answer.Body.Close()
		}
		// Everybody's second try at the same time would be the next overload.
		half := c.Pause << (try - 1) / 2
		pause = max(pause, half+rand.N(half+1))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			defer end()
			return nil, because(ctx, ctx.Err())
		}
		if r.GetBody != nil {
			if r.Body, err = r.GetBody(); err != nil {
				defer end()
				return nil, err
			}
		}
	}
}

// because puts the reason in the place of a mere cancellation.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && cause != context.Canceled && err != io.EOF {
		return cause
	}
	return err
}

func repeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete, http.MethodTrace, "":
		return r.Body == nil || r.Body == http.NoBody || r.GetBody != nil
	}
	return false
}

// retryAfter is what a 503 asks for, in seconds; a date is not looked at.
func retryAfter(answer *http.Response) time.Duration {
	seconds, err := strconv.Atoi(answer.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, 60)) * time.Second
}

// watched is an answer's body that has to make progress.
type watched struct {
	io.ReadCloser
	ctx   context.Context
	timer *time.Timer // nil: no limit
	limit time.Duration
	end   func()
}

func (c *Client) watch(ctx context.Context, cancel context.CancelCauseFunc, end func(), body io.ReadCloser) io.ReadCloser {
	w := &watched{ReadCloser: body, ctx: ctx, limit: c.Body, end: end}
	if c.Body > 0 {
		w.timer = time.AfterFunc(c.Body, func() { cancel(errBody) })
	}
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	if w.timer != nil {
		w.timer.Reset(w.limit)
	}
	n, err := w.ReadCloser.Read(p)
	if w.timer != nil {
		w.timer.Stop() // the caller may take its time
	}
	if err != nil {
		err = because(w.ctx, err)
	}
	return n, err
}

func (w *watched) Close() error {
	if w.timer != nil {
		w.timer.Stop()
	}
	err := w.ReadCloser.Close()
	w.end()
	return err
}

// Failure is how a request failed.
type Failure string

// What Kind tells apart: what req.on('error') has as ECONNREFUSED, ECONNRESET,
// ETIMEDOUT, ENOTFOUND and the codes of OpenSSL.
const (
	Refused  Failure = "refused" // nobody listens
	Reset    Failure = "reset"   // the connection ended too early
	TimedOut Failure = "timeout"
	TLS      Failure = "TLS" // a certificate, or no TLS at all
	DNS      Failure = "DNS" // no such name, or nobody to ask
	Canceled Failure = "canceled"
	Other    Failure = "other"
)

// Kind tells errors of Do, and of its answers' bodies, apart.
func Kind(err error) Failure {
	var dns *net.DNSError
	var record tls.RecordHeaderError
	var certificate *tls.CertificateVerificationError
	var alert tls.AlertError
	var unknown x509.UnknownAuthorityError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, errBody), errors.Is(err, errTotal), errors.Is(err, context.DeadlineExceeded):
		return TimedOut
	case errors.As(err, &dns):
		return DNS
	case errors.As(err, &record), errors.As(err, &certificate), errors.As(err, &alert), errors.As(err, &unknown), errors.Is(err, http.ErrSchemeMismatch):
		return TLS
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		return TimedOut
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Reset
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Other
}
