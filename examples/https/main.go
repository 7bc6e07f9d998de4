// HTTPS on port $PORT, with the certificate and key of the files $CERTIFICATE and
// $KEY. Clients may show a certificate of the authority in $CLIENT_CA, and are greeted
// by its name. The engine is $ENGINE: fasthttp, or nethttp, which speaks HTTP/2 too.
//
//	https.createServer({key, cert, ca, requestCert: true}, (req, res) => …)
package main

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"

	"drover"

	"github.com/valyala/fasthttp"
)

func main() {
	encrypted := &drover.TLS{Certificates: []drover.Certificate{{Certificate: os.Getenv("CERTIFICATE"), Key: os.Getenv("KEY")}}}
	if encrypted.ClientCA = os.Getenv("CLIENT_CA"); encrypted.ClientCA != "" {
		encrypted.ClientAuth = "optional" // without: who shows none is refused
	}
	c := drover.Config{Workers: 2, Listen: []drover.Listen{{Address: ":" + cmp.Or(os.Getenv("PORT"), "3000"), TLS: encrypted}}}
	drover.Main(c, func(w *drover.Worker) error {
		if os.Getenv("ENGINE") == "nethttp" {
			return w.Serve(drover.NetHTTP(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				fmt.Fprintln(rw, greeting(r.Proto, r.TLS))
			})))
		}
		return w.Serve(drover.FastHTTP(func(ctx *fasthttp.RequestCtx) {
			fmt.Fprintln(ctx, greeting(string(ctx.Request.Header.Protocol()), ctx.TLSConnectionState()))
		}))
	})
}

// greeting says who came, and how.
func greeting(protocol string, state *tls.ConnectionState) string {
	who := "stranger"
	if shown := state.PeerCertificates; len(shown) > 0 && len(shown[0].DNSNames) > 0 {
		who = shown[0].DNSNames[0]
	}
	return fmt.Sprintf("hello %s, by %s over %s", who, protocol, tls.VersionName(state.Version))
}
