// Command client is a server that asks another, $UPSTREAM, and passes bodies on as
// they arrive, both ways. client.go is what http.request and http.get are in Node:
// a pool of connections, a time limit for each phase, tries, errors told apart.
package main

import (
	"cmp"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"drover"
)

func main() {
	c := drover.Config{
		Listen: []drover.Listen{{Address: ":" + cmp.Or(os.Getenv("PORT"), "3000")}}, Workers: 1,
		HTTP: drover.HTTP{BodyBytes: -1},
	}
	upstream := cmp.Or(os.Getenv("UPSTREAM"), "http://localhost:3001")
	drover.Main(c, func(w *drover.Worker) error {
		client := (&Client{
			Dial: 2 * time.Second, TLS: 2 * time.Second, Header: 10 * time.Second, Body: 10 * time.Second,
			Total: time.Hour, Tries: 3, Pause: 20 * time.Millisecond,
		}).start(nil, nil)
		return w.Serve(drover.NetHTTP(http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
			// Its context ends when our client leaves, and so does our request.
			ask, err := http.NewRequestWithContext(req.Context(), req.Method, upstream+req.URL.RequestURI(), req.Body)
			if err != nil {
				http.Error(res, err.Error(), http.StatusBadRequest)
				return
			}
			if ask.ContentLength = req.ContentLength; req.ContentLength == 0 {
				ask.Body = nil
			}
			ask.Header.Set("Content-Type", req.Header.Get("Content-Type"))
			answer, err := client.Do(ask)
			if err != nil {
				status := http.StatusBadGateway
				if Kind(err) == TimedOut {
					status = http.StatusGatewayTimeout
				}
				http.Error(res, string(Kind(err)), status)
				return
			}
			defer answer.Body.Close()
			res.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
			res.WriteHeader(answer.StatusCode)
			if _, err := io.Copy(res, answer.Body); err != nil {
				log.Printf("the answer was cut: %s: %v", Kind(err), err)
				panic(http.ErrAbortHandler) // ours shall not look whole
			}
		})))
	})
}
