// Command peer serves the same answers by different servers: drover, and those
// in Go that it is compared with. The handlers are the same for all on fasthttp,
// and for all on net/http.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"net/http"
	"os"

	"drover"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/prefork"
)

// options are the command line.
type options struct {
	mode, listen     string
	workers          int
	certificate, key string // TLS, when not empty
	files            string // directory of /64k.bin and /1m.bin
	redis            string // address that /redis asks
}

func main() {
	var o options
	flag.StringVar(&o.mode, "mode", "fasthttp", "fasthttp, prefork, nethttp, drover or drover-nethttp")
	flag.StringVar(&o.listen, "listen", "127.0.0.1:3000", "address to serve, host:port")
	flag.IntVar(&o.workers, "workers", 1, "drover's; prefork has GOMAXPROCS, and the others one process")
	flag.StringVar(&o.certificate, "certificate", "", "PEM file, to serve TLS")
	flag.StringVar(&o.key, "key", "", "PEM file of the certificate's key")
	flag.StringVar(&o.files, "files", "", "directory whose files are served")
	flag.StringVar(&o.redis, "redis", "", "address of the Redis that /redis asks")
	flag.Parse()
	if err := serve(o); err != nil {
		fmt.Fprintf(os.Stderr, "peer: serve on %s as %s: %v\n", o.listen, o.mode, err)
		os.Exit(1)
	}
}

// serve returns only with an error. A signal ends the process.
func serve(o options) error {
	switch o.mode {
	case "fasthttp":
		s := &fasthttp.Server{Handler: fast(o), Name: "peer"}
		if o.certificate != "" {
			return s.ListenAndServeTLS(o.listen, o.certificate, o.key)
		}
		return s.ListenAndServe(o.listen)
	case "prefork":
		p := prefork.New(&fasthttp.Server{Handler: fast(o), Name: "peer"})
		p.Reuseport = true
		p.OnMasterDeath = func() { os.Exit(1) } // a signal ends the master alone
		if o.certificate != "" {
			return p.ListenAndServeTLS(o.listen, o.key, o.certificate) // in this order, unlike the server's own
		}
		return p.ListenAndServe(o.listen)
	case "nethttp":
		s := &http.Server{Addr: o.listen, Handler: std(o), TLSNextProto: noHTTP2}
		if o.certificate != "" {
			return s.ListenAndServeTLS(o.certificate, o.key)
		}
		return s.ListenAndServe()
	case "drover":
		return herd(o, func() drover.Engine { return drover.FastHTTP(fast(o)) })
	case "drover-nethttp":
		return herd(o, func() drover.Engine {
			return drover.NetHTTP(std(o))
		})
	}
	return fmt.Errorf("unknown mode: want fasthttp, prefork, nethttp, drover or drover-nethttp")
}

// noHTTP2 leaves a server with HTTP/1.1, which is what is measured.
var noHTTP2 = map[string]func(*http.Server, *tls.Conn, http.Handler){}

// herd serves an engine by drover, with every default that users get.
func herd(o options, engine func() drover.Engine) error {
	l := drover.Listen{Address: o.listen}
	if o.certificate != "" {
		l.TLS = &drover.TLS{Certificates: []drover.Certificate{{Certificate: o.certificate, Key: o.key}}}
	}
	c := drover.Config{Name: "peer", Workers: o.workers, Listen: []drover.Listen{l}}
	drover.Main(c, func(w *drover.Worker) error { return w.Serve(engine()) })
	return nil
}
