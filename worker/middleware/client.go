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
	return trusted.Client(peerOf(r), r.Header.Values("X-Forwarded-For")...)
}

// peerOf is whoever has connected.
func peerOf(r *http.Request) net.Addr {
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return net.TCPAddrFromAddrPort(a)
	}
	return &net.UnixAddr{Name: r.RemoteAddr, Net: "unix"}
}

// FastClient is NetClient of a request of fasthttp's.
func FastClient(ctx *fasthttp.RequestCtx, trusted config.Trusted) netip.Addr {
	var fields []string
	for _, field := range ctx.Request.Header.PeekAll("X-Forwarded-For") {
		fields = append(fields, string(field))
	}
	return trusted.Client(ctx.RemoteAddr(), fields...)
}
