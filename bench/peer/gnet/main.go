// Command gnet is a minimal responder on gnet: its loops, no HTTP engine. It
// knows one answer, and parses where a request ends and whether it asks to close.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
)

type responder struct {
	gnet.BuiltinEventEngine
	answer, last atomic.Pointer[[]byte] // renewed each second; last says that the connection closes
}

func (r *responder) renew() {
	for more, to := range map[string]*atomic.Pointer[[]byte]{"": &r.answer, "Connection: close\r\n": &r.last} {
		b := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: gnet\r\nDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 13\r\n%s\r\nHello, World!",
			time.Now().UTC().Format(http.TimeFormat), more)
		to.Store(&b)
	}
}

func (r *responder) OnTick() (time.Duration, gnet.Action) {
	r.renew()
	return time.Second, gnet.None
}

func (r *responder) OnTraffic(c gnet.Conn) gnet.Action {
	data, err := c.Peek(-1)
	if err != nil {
		return gnet.Close
	}
	var out [16 << 10]byte
	answers, used := out[:0], 0
	answer := &r.answer
	closing := bytes.Contains(data, []byte("\r\nConnection: close\r\n"))
	for {
		end := bytes.Index(data[used:], []byte("\r\n\r\n"))
		if end < 0 {
			break
		}
		used += end + 4
		if closing {
			answer = &r.last
		}
		answers = append(answers, *answer.Load()...)
	}
	if _, err := c.Discard(used); err != nil {
		return gnet.Close
	}
	if used > 0 {
		if _, err := c.Write(answers); err != nil {
			return gnet.Close
		}
		if closing {
			return gnet.Close
		}
	}
	return gnet.None
}

func main() {
	listen := flag.String("listen", "127.0.0.1:3000", "address to serve, host:port")
	loops := flag.Int("loops", 1, "event loops, each with its own socket")
	flag.Parse()
	r := new(responder)
	r.renew()
	if err := gnet.Run(r, "tcp://"+*listen, gnet.WithNumEventLoop(*loops), gnet.WithReusePort(true), gnet.WithTicker(true)); err != nil {
		fmt.Fprintf(os.Stderr, "gnet: serve on %s: %v\n", *listen, err)
		os.Exit(1)
	}
}
