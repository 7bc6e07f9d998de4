package middleware

import (
	"net/http"
	"net/netip"

	"drover/config"

	"github.com/valyala/fasthttp"
)

// NetClient is the address of the client of a request: of one that a trusted proxy
// has sent, who its X-Forwarded-For or Forwarded says (see config.Trusted); of any
// other, whoever has connected. It is the zero Addr where nobody knows, as behind a unix socket.
func NetClient(r *http.Request, trusted config.Trusted) netip.Addr {
	return trusted.Client(config.PeerOf(r.RemoteAddr), r.Header.Values)
}

// FastClient is NetClient of a request of fasthttp's.
func FastClient(ctx *fasthttp.RequestCtx, trusted config.Trusted) netip.Addr {
	return trusted.Client(ctx.RemoteAddr(), func(name string) (values []string) {
		for _, v := range ctx.Request.Header.PeekAll(name) {
			values = append(values, string(v))
		}
		return values
	})
}
