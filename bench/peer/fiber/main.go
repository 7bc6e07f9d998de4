// Command fiber answers by fiber under its prefork.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/gofiber/fiber/v3"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:3000", "address to serve, host:port")
	flag.Parse()
	app := fiber.New(fiber.Config{ServerHeader: "fiber"})
	app.Get("/plaintext", func(c fiber.Ctx) error {
		c.Set("Content-Type", "text/plain; charset=utf-8")
		return c.SendString("Hello, World!")
	})
	app.Get("/json", func(c fiber.Ctx) error {
		return c.JSON(struct {
			Message string `json:"message"`
		}{"Hello, World!"}, "application/json")
	})
	if err := app.Listen(*listen, fiber.ListenConfig{EnablePrefork: true, DisableStartupMessage: true}); err != nil {
		fmt.Fprintf(os.Stderr, "fiber: serve on %s: %v\n", *listen, err)
		os.Exit(1)
	}
}
