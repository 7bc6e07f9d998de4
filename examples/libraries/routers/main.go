// Command routers has the same three routes by four routers: ROUTER=servemux and chi
// on net/http, fasthttp and fiber on fasthttp. Any other that makes a http.Handler or
// a fasthttp.RequestHandler goes the same way.
//
//	GET  /hello/{name}?times=3
//	POST /items
//	GET  /files/{path…}
package main

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	"drover"

	"github.com/fasthttp/router"
	"github.com/go-chi/chi/v5"
	"github.com/gofiber/fiber/v3"
	"github.com/valyala/fasthttp"
)

func main() {
	c := drover.Config{Listen: []drover.Listen{{Address: ":" + cmp.Or(os.Getenv("PORT"), "3000")}}, Workers: 1}
	drover.Main(c, func(w *drover.Worker) error {
		switch name := os.Getenv("ROUTER"); name {
		case "", "servemux":
			return w.Serve(drover.NetHTTP(serveMux()))
		case "chi":
			return w.Serve(drover.NetHTTP(withChi()))
		case "fasthttp":
			return w.Serve(drover.FastHTTP(withRouter()))
		case "fiber":
			return w.Serve(drover.FastHTTP(withFiber()))
		default:
			return fmt.Errorf("ROUTER=%s: want servemux, chi, fasthttp or fiber", name)
		}
	})
}

// hello is the greeting, as often as the query says, or what is wrong with it.
func hello(name, times string) (string, int) {
	n, err := strconv.Atoi(cmp.Or(times, "1"))
	if err != nil || n < 1 || n > 10 {
		return "times: want a number from 1 to 10\n", http.StatusBadRequest
	}
	return strings.Repeat("hello "+name+"\n", n), http.StatusOK
}

func answer(res http.ResponseWriter, text string, status int) {
	res.Header().Set("Content-Type", "text/plain; charset=utf-8")
	res.WriteHeader(status)
	fmt.Fprint(res, text)
}

func serveMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello/{name}", func(res http.ResponseWriter, req *http.Request) {
		text, status := hello(req.PathValue("name"), req.URL.Query().Get("times"))
		answer(res, text, status)
	})
	mux.HandleFunc("POST /items", func(res http.ResponseWriter, req *http.Request) { answer(res, "made\n", http.StatusCreated) })
	mux.HandleFunc("GET /files/{path...}", func(res http.ResponseWriter, req *http.Request) {
		answer(res, "file "+req.PathValue("path")+"\n", http.StatusOK)
	})
	return mux
}

func withChi() http.Handler {
	r := chi.NewRouter()
	r.Get("/hello/{name}", func(res http.ResponseWriter, req *http.Request) {
		text, status := hello(chi.URLParam(req, "name"), req.URL.Query().Get("times"))
		answer(res, text, status)
	})
	r.Post("/items", func(res http.ResponseWriter, req *http.Request) { answer(res, "made\n", http.StatusCreated) })
	r.Get("/files/*", func(res http.ResponseWriter, req *http.Request) {
		answer(res, "file "+chi.URLParam(req, "*")+"\n", http.StatusOK)
	})
	return r
}

func withRouter() fasthttp.RequestHandler {
	r := router.New()
	r.GET("/hello/{name}", func(ctx *fasthttp.RequestCtx) {
		text, status := hello(ctx.UserValue("name").(string), string(ctx.QueryArgs().Peek("times")))
		ctx.SetStatusCode(status)
		ctx.WriteString(text)
	})
	r.POST("/items", func(ctx *fasthttp.RequestCtx) {
		ctx.SetStatusCode(http.StatusCreated)
		ctx.WriteString("made\n")
	})
	r.GET("/files/{path:*}", func(ctx *fasthttp.RequestCtx) {
		fmt.Fprintf(ctx, "file %s\n", ctx.UserValue("path"))
	})
	return r.Handler
}

func withFiber() fasthttp.RequestHandler {
	app := fiber.New()
	app.Get("/hello/:name", func(c fiber.Ctx) error {
		text, status := hello(c.Params("name"), c.Query("times"))
		return c.Status(status).SendString(text)
	})
	app.Post("/items", func(c fiber.Ctx) error { return c.Status(http.StatusCreated).SendString("made\n") })
	app.Get("/files/*", func(c fiber.Ctx) error { return c.SendString("file " + c.Params("*") + "\n") })
	return app.Handler()
}
