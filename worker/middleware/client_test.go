package middleware

import (
	"net"
	"net/http"
	"testing"

	"drover/config"

	"github.com/valyala/fasthttp"
)

func TestClient(t *testing.T) {
	trusted, err := config.Trust("10.0.0.0/8", "unix")
	if err != nil {
		t.Fatal(err)
	}
	for remote, want := range map[string]string{"10.0.0.1:80": "203.0.113.7", "[2001:db8::1]:80": "2001:db8::1", "@": "203.0.113.7"} {
		r := &http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": {"8.8.8.8", "203.0.113.7, 10.0.0.2"}}}
		if got := NetClient(r, trusted); got.String() != want {
			t.Errorf("net/http, of %s: %v, want %s", remote, got, want)
		}
		var request fasthttp.Request
		request.Header.Add("X-Forwarded-For", "8.8.8.8")
		request.Header.Add("X-Forwarded-For", "203.0.113.7, 10.0.0.2")
		var peer net.Addr = &net.UnixAddr{Name: remote, Net: "unix"}
		if tcp, err := net.ResolveTCPAddr("tcp", remote); err == nil {
			peer = tcp
		}
		var ctx fasthttp.RequestCtx
		ctx.Init(&request, peer, nil)
		if got := FastClient(&ctx, trusted); got.String() != want {
			t.Errorf("fasthttp, of %s: %v, want %s", remote, got, want)
		}
	}
}
