package drover_test

import (
	"io"
	"net/http"
	"sync"

	"drover"

	"github.com/valyala/fasthttp"
)

// The program of the README.
func Example() {
	drover.Main(drover.Config{Listen: []drover.Listen{{Address: ":3000"}}}, func(w *drover.Worker) error {
		return w.Serve(drover.FastHTTP(func(ctx *fasthttp.RequestCtx) {
			ctx.WriteString("hello\n")
		}))
	})
}

// Any net/http handler will do, and so will a *http.Server with settings of its
// own.
func ExampleNetHTTP() {
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello\n")
	})
	drover.Main(drover.Config{Listen: []drover.Listen{{Address: ":3000"}}}, func(w *drover.Worker) error {
		return w.Serve(drover.NetHTTP(hello))
	})
}

// Workers are processes that share nothing: what one learns it tells the others.
func Example_messages() {
	drover.Main(drover.Config{Listen: []drover.Listen{{Address: ":3000"}}}, func(w *drover.Worker) error {
		var cache sync.Map
		forget, _, err := w.Subscribe("forget")
		if err != nil {
			return err
		}
		go func() {
			for m := range forget { // what this worker publishes comes too
				cache.Delete(string(m.Data))
			}
		}()
		return w.Serve(drover.NetHTTP(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				if err := w.Publish("forget", []byte(r.URL.Path)); err != nil {
					http.Error(rw, err.Error(), http.StatusServiceUnavailable)
				}
				return
			}
			page, _ := cache.LoadOrStore(r.URL.Path, "a page that took long to make\n")
			io.WriteString(rw, page.(string))
		})))
	})
}
