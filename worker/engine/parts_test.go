package engine

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"drover/config"

	"github.com/valyala/fasthttp"
)

// Of an answer that fasthttp writes in two parts the first waits for the second, and
// none waits for what does not come: whatever their lengths, kept, pipelined or the
// last of a connection, with a body or a status and method that have none.
func TestPartsOfAnAnswer(t *testing.T) {
	t.Parallel()
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	s := newServer(t)
	f := FastHTTP(func(ctx *fasthttp.RequestCtx) {
		n, _ := strconv.Atoi(string(ctx.Path()[1:]))
		ctx.Response.SetBodyRaw(text[:n])
		if status := ctx.QueryArgs().GetUintOrZero("status"); status != 0 {
			ctx.SetStatusCode(status)
		}
	})
	s.engine, s.tracker = f, f.tracker
	s.start(config.HTTP{})
	c := s.dial()
	in := bufio.NewReader(c)
	type asked struct {
		method string
		n      int
		status int
	}
	ask := func(last bool, all ...asked) {
		t.Helper()
		var b strings.Builder
		for i, a := range all {
			closing := ""
			if last && i == len(all)-1 {
				closing = "Connection: close\r\n"
			}
			fmt.Fprintf(&b, "%s /%d?status=%d HTTP/1.1\r\nHost: a\r\n%s\r\n", a.method, a.n, a.status, closing)
		}
		c.send(b.String())
		for _, a := range all {
			r, err := http.ReadResponse(in, &http.Request{Method: a.method})
			if err != nil {
				t.Fatalf("%+v: %v", a, err)
			}
			body, err := io.ReadAll(r.Body)
			want := text[:a.n]
			if a.method == "HEAD" || a.status == 204 || a.status == 304 {
				want = nil
			}
			if err != nil || !bytes.Equal(body, want) || r.StatusCode != a.status {
				t.Fatalf("%+v: status %d, %d bytes, %v", a, r.StatusCode, len(body), err)
			}
		}
	}
	for n := 3800; n < 4300; n++ { // a header has some 130 bytes, a buffer 4096
		ask(false, asked{"GET", n, 200})
	}
	random := rand.New(rand.NewPCG(1, 2))
	some := func() asked {
		a := asked{"GET", random.IntN(1 << random.IntN(17)), 200}
		switch random.IntN(8) {
		case 0:
			a.method = "HEAD"
		case 1:
			a.status = 304
		case 2:
			a.status = 204
		}
		return a
	}
	for range 300 {
		var all []asked
		for range 1 + random.IntN(16) {
			all = append(all, some())
		}
		ask(false, all...)
	}
	ask(true, some(), asked{"GET", 5000, 200})
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("after the last answer: %v, want the end", err)
	}
}
