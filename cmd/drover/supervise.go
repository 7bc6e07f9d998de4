package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"drover"
	"drover/master"
	"drover/master/admin"
	"drover/master/launch"
	"drover/worker"
	"drover/worker/serve"

	"github.com/spf13/cobra"
)

// appFlags are the flags of the commands that run an app.
type appFlags struct {
	config  drover.Config
	listen  []string
	workers string
}

func (f *appFlags) add(cmd *cobra.Command, defaultListen []string) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.listen, "listen", defaultListen, "address to serve, host:port; may be given several times")
	flags.StringVar(&f.workers, "workers", "auto", "how many workers, or auto for one per CPU")
	flags.StringVar(&f.config.Name, "name", "", "name of the app for the other commands (default: the base name of what is run)")
	flags.IntVar(&f.config.Procs, "procs", 1, "GOMAXPROCS inside each worker")
	flags.DurationVar(&f.config.ReadyTimeout, "ready-timeout", 30*time.Second, "how long a worker may take to be ready")
	flags.DurationVar(&f.config.Drain, "drain", 30*time.Second, "how long a leaving worker may take to finish its requests")
	flags.DurationVar(&f.config.StopDelay, "stop-delay", 0, "how long a stop serves on, with /healthz saying 503, before the listeners close")
	flags.StringVar(&f.config.LogFormat, "log-format", "text", "text or json")
}

// resolve makes the configuration of the flags.
func (f *appFlags) resolve() (drover.Config, error) {
	c := f.config
	if f.workers != "auto" {
		n, err := strconv.Atoi(f.workers)
		if err != nil || n < 1 {
			return c, usage(fmt.Errorf("--workers %q: want a number of at least 1, or auto", f.workers))
		}
		c.Workers = n
	}
	for _, address := range f.listen {
		c.Listen = append(c.Listen, drover.Listen{Address: address})
	}
	return c, nil
}

func serveCommand() *cobra.Command {
	var f appFlags
	cmd := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "Serve a directory, or a welcome page",
		Long: `Serve the files of a directory on every core. Without one it serves a welcome
page, /plaintext, /json and /healthz.`,
		Args: takes(0, 1, "at most one directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			dir, name := "", "drover"
			if len(args) == 1 {
				if dir, err = filepath.Abs(args[0]); err != nil {
					return err
				}
				name = filepath.Base(dir)
			}
			if worker.Started() {
				return drover.Run(cmd.Context(), c, func(w *drover.Worker) error { return serveIn(w, dir) })
			}
			if _, err := serve.Handler(serve.Config{Root: dir}); err != nil {
				return usage(err) // told once, here, and not by each worker
			}
			path, wd, err := launch.Self()
			if err != nil {
				return err
			}
			return supervise(c, name, path, os.Args, wd)
		},
	}
	f.add(cmd, []string{":3000"})
	return cmd
}

// serveIn is what each worker of `drover serve` does.
func serveIn(w *drover.Worker, dir string) error {
	h, err := serve.Handler(serve.Config{Root: dir, Stopping: w.Stopping()})
	if err != nil {
		return err
	}
	return w.Serve(drover.FastHTTP(h))
}

func runCommand() *cobra.Command {
	var f appFlags
	cmd := &cobra.Command{
		Use:   "run [flags] PROGRAM [ARG...]",
		Short: "Run a program that is built on drover, once per CPU",
		Args:  takes(1, -1, "a program and its arguments"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			wd, err := os.Getwd()
			if err != nil {
				return fmt.Errorf("find the working directory: %w", err)
			}
			path, err := launch.Resolve(args[0], wd)
			if err != nil {
				return usage(err)
			}
			return supervise(c, filepath.Base(path), path, args, wd)
		},
	}
	f.add(cmd, nil)
	cmd.Flags().SetInterspersed(false) // what follows PROGRAM is the program's
	return cmd
}

// supervise is a master until the app is stopped.
func supervise(c drover.Config, name, path string, argv []string, dir string) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	return master.Supervise(context.Background(), master.Options{
		Config:      c,
		DefaultName: name,
		Program:     func() (*launch.Program, error) { return launch.Pin(path, argv, os.Environ(), dir) },
		Stdout:      os.Stdout,
		Stderr:      os.Stderr,
		Signals:     signals,
		RuntimeDir:  admin.RuntimeDir(),
	})
}
