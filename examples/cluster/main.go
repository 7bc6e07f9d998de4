// Command cluster is the program of cluster.js, on drover.
package main

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"drover"
)

func main() {
	// What the primary does there is drover's: it forks two workers, answers their
	// exit by another, carries their messages, and has them disconnect at SIGTERM.
	c := drover.Config{Listen: []drover.Listen{{Address: ":" + cmp.Or(os.Getenv("PORT"), "3000")}}, Workers: 2}
	drover.Main(c, func(w *drover.Worker) error {
		var cache sync.Map
		var made atomic.Int64
		forget, _, err := w.Subscribe("forget")
		if err != nil {
			return err
		}
		go func() {
			for page := range forget {
				cache.Delete(string(page.Data))
			}
		}()

		return w.Serve(drover.NetHTTP(http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
			switch req.Method {
			case http.MethodGet:
				page, ok := cache.Load(req.URL.Path)
				if !ok {
					page, _ = cache.LoadOrStore(req.URL.Path, made.Add(1))
				}
				fmt.Fprintf(res, "%d made this page %d", os.Getpid(), page)
			case http.MethodPut:
				if err := w.Publish("forget", []byte(req.URL.Path)); err != nil { // every worker forgets the page
					http.Error(res, err.Error(), http.StatusServiceUnavailable)
				}
			case http.MethodDelete:
				os.Exit(1)
			}
		})))
	})
}
