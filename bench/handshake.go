package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// handshakes loads a server with a connection over TLS 1.3 for each request, all with
// the same key exchange. wrk cannot resume; the client here does where the load asks
// for it, and fails where the server lets fewer than 99 of 100 do so.
func (l load) handshakes(ctx context.Context, address string, duration time.Duration) (wrkReport, error) {
	ctx, cancel := context.WithTimeout(ctx, duration+10*time.Second)
	defer cancel()
	var (
		all     sync.WaitGroup
		mu      sync.Mutex
		took    []time.Duration
		resumed int
		errs    []error
	)
	begun := time.Now()
	for range l.connections {
		all.Go(func() {
			config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}} // our own certificate
			if l.kind == resuming {
				config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
				config.ServerName = "localhost" // what a session is kept by
			}
			var own []time.Duration
			again := 0
			var err error
			for err == nil && time.Since(begun) < duration {
				at, did := time.Now(), false
				if did, err = l.handshake(ctx, address, config); err == nil {
					own = append(own, time.Since(at))
				}
				if did {
					again++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			took, resumed = append(took, own...), resumed+again
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	all.Wait()
	wall := time.Since(begun)
	if err := errors.Join(errs...); err != nil {
		return wrkReport{}, fmt.Errorf("shake hands with %s: %w", address, err)
	}
	if n := len(took) - l.connections; l.kind == resuming && resumed*100 < n*99 { // each client's first is none
		return wrkReport{}, fmt.Errorf("%d of %d connections were resumed", resumed, n)
	}
	slices.Sort(took)
	return wrkReport{
		requests: int64(len(took)), perSecond: float64(len(took)) / wall.Seconds(),
		p50: took[len(took)/2], p99: took[len(took)*99/100],
	}, nil
}

// handshake connects and asks once.
func (l load) handshake(ctx context.Context, address string, config *tls.Config) (resumed bool, err error) {
	conn, err := dial(ctx, address, load{})
	if err != nil {
		return false, err
	}
	defer conn.Close()
	t := tls.Client(conn, config)
	a, err := askOn(t, bufio.NewReader(t), address, l)
	if err == nil && a.Status != "200 OK" {
		err = fmt.Errorf("%+v", a)
	}
	return t.ConnectionState().DidResume, err
}
