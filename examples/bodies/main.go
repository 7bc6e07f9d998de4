// Command bodies takes JSON, forms, and files to the disk, on both engines:
// ENGINE=nethttp, or fasthttp.
//
//	curl -d name=you http://localhost:3000/
//	curl --json '{"name": "you"}' http://localhost:3000/
//	curl -F name=you -F photo=@photo.jpg http://localhost:3000/
package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"os"

	"drover"
	"drover/worker/body"

	"github.com/valyala/fasthttp"
)

const most = 1 << 30 // a gigabyte, of which a hundred kilobytes are in memory at most

func main() {
	c := drover.Config{
		Listen: []drover.Listen{{Address: ":" + cmp.Or(os.Getenv("PORT"), "3000")}}, Workers: 1,
		HTTP: drover.HTTP{BodyBytes: most},
	}
	limits := body.Limits{Bytes: most, Memory: 100 << 10, Dir: os.Getenv("UPLOADS")}
	drover.Main(c, func(w *drover.Worker) error {
		if os.Getenv("ENGINE") == "nethttp" {
			return w.Serve(drover.NetHTTP(http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
				b, err := body.Net(req, limits)
				if err == nil {
					err = greet(res, b)
				}
				if err != nil {
					http.Error(res, err.Error(), body.Status(err))
				}
			})))
		}
		return w.Serve(drover.FastHTTPServer(&fasthttp.Server{
			Handler: func(ctx *fasthttp.RequestCtx) {
				b, err := body.Fast(ctx, limits)
				if err == nil {
					err = greet(ctx, b)
				}
				if err != nil {
					ctx.Error(err.Error()+"\n", body.Status(err))
				}
			},
			StreamRequestBody: true, DisablePreParseMultipartForm: true, // else all of it is in memory before
		}))
	})
}

// greet answers with what a body has.
func greet(to io.Writer, b *body.Body) error {
	defer b.Close() // what was not moved away is removed
	name := b.Values.Get("name")
	if b.JSON != nil {
		var in struct{ Name string }
		if err := b.Decode(&in); err != nil {
			return err
		}
		name = in.Name
	}
	fmt.Fprintf(to, "hello %s\n", name)
	for _, f := range b.Files {
		fmt.Fprintf(to, "%s: %d bytes\n", f.Name, f.Size) // os.Rename(f.Path, …) keeps it
	}
	return nil
}
