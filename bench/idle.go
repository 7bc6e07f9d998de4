package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// crowd are connections that have asked once each, and are quiet since. Who
// makes one must close it.
type crowd struct {
	conns []net.Conn
}

// gather opens n connections, and asks once on each.
func gather(ctx context.Context, address string, l load) (*crowd, error) {
	c := &crowd{conns: make([]net.Conn, l.idle)}
	errs := make([]error, l.idle)
	var all sync.WaitGroup
	const hands = 16
	for hand := range hands {
		all.Go(func() {
			for i := hand; i < l.idle && ctx.Err() == nil; i += hands {
				c.conns[i], errs[i] = dial(ctx, address, l)
				if errs[i] == nil {
					_, errs[i] = askOn(c.conns[i], bufio.NewReaderSize(c.conns[i], 512), address, l)
				}
				if errs[i] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		c.close()
		return nil, fmt.Errorf("open %d idle connections: %w", l.idle, err)
	}
	return c, nil
}

// alive asks again on a hundredth of them: none may have been closed.
func (c *crowd) alive(address string, l load) error {
	for i := 0; i < len(c.conns); i += 100 {
		if _, err := askOn(c.conns[i], bufio.NewReaderSize(c.conns[i], 512), address, l); err != nil {
			return fmt.Errorf("idle connection %d of %d did not outlive the load: %w", i, len(c.conns), err)
		}
	}
	return nil
}

// close resets them, lest thousands of ports wait out their time.
func (c *crowd) close() {
	for _, conn := range c.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		if conn != nil {
			conn.Close()
		}
	}
}
