// Command files serves the files of $ROOT on port $PORT, as drover serve does, from a
// program of one's own: ranges, conditions, compression, no listing, no dotfiles.
//
//	app.use(compression(), express.static(root))
package main

import (
	"cmp"
	"os"

	"drover"
	"drover/worker/serve"
)

func main() {
	c := drover.Config{Listen: []drover.Listen{{Address: ":" + cmp.Or(os.Getenv("PORT"), "3000")}}, Workers: 1}
	drover.Main(c, func(w *drover.Worker) error {
		e, err := serve.Engine(serve.Config{Root: cmp.Or(os.Getenv("ROOT"), "."), Stopping: w.Stopping()})
		if err != nil {
			return err
		}
		return w.Serve(e)
	})
}
