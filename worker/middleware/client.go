package middleware

import (
	"net"
	"net/http"
	"net/netip"

	"drover/config"

	"github.com/valyala/fasthttp"
)

// NetClient is the address of the client of a request: of one that a trusted proxy
// has sent, who its X-Forwarded-For says (see config.Trusted); of any other, whoever
// has connected. It is the zero Addr where nobody knows, as behind a unix socket.
func NetClient(r *http.Request, trusted config.Trusted) netip.Addr {
	var peer net.Addr = &net.UnixAddr{Name: r.RemoteAddr, Net: "unix"}
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		peer = net.TCPAddrFromAddrPort(a)
	}
	return trusted.Client(peer, r.Header.Values("X-Forwarded-For")...)
}

// FastClient is NetClient of a request of fasthttp's.
func FastClient(ctx *fasthttp.RequestCtx, trusted config.Trusted) netip.Addr {
	var fields []string
	for _, field := range ctx.Request.Header.PeekAll("X-Forwarded-For") {
		fields = append(fields, string(field))
	}
	return trusted.Client(ctx.RemoteAddr(), fields...)
}
