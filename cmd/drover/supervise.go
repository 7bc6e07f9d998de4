package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"drover"
	"drover/config"
	"drover/config/npm"
	"drover/master"
	"drover/master/admin"
	"drover/master/keyring"
	"drover/master/launch"
	"drover/master/listen"
	"drover/master/trigger"
	"drover/worker/serve"

	"github.com/spf13/cobra"
)

// appFlags are the flags of the commands that run an app.
type appFlags struct {
	config   drover.Config
	listen   []string
	steering string
	workers  string
	tls      config.Certificate
	proxied  bool
}

func (f *appFlags) add(cmd *cobra.Command, defaultListen []string) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.listen, "listen", defaultListen, "address to serve, host:port or unix:/PATH; may be given several times")
	flags.StringVar(&f.steering, "steering", config.Spread, "which worker a connection goes to: spread, sticky (by its source address), cpu, or shared (whoever is first)")
	flags.StringVar(&f.tls.Certificate, "tls-cert", "", "speak HTTPS on every --listen: PEM file of the certificate, and of those between it and its root")
	flags.StringVar(&f.tls.Key, "tls-key", "", "PEM file of the certificate's private key")
	flags.StringVar(&f.workers, "workers", "auto", "how many workers, or auto for one per CPU")
	flags.StringArrayVar(&f.config.TrustedProxies, "trusted-proxy", nil, "network of proxies before the app that are believed who the client is, such as 10.0.0.0/8; may be given several times")
	flags.BoolVar(&f.proxied, "proxy-protocol", false, "every --listen speaks the PROXY protocol, version 1 or 2, with each --trusted-proxy")
	flags.StringVar(&f.config.Name, "name", "", "name of the app for the other commands (default: the base name of what is run)")
	flags.StringVar(&f.config.User, "user", "", "who the workers run as, where drover runs as root")
	flags.IntVar(&f.config.Procs, "procs", 1, "GOMAXPROCS inside each worker")
	flags.DurationVar(&f.config.ReadyTimeout, "ready-timeout", 30*time.Second, "how long a worker may take to be ready")
	flags.DurationVar(&f.config.HangTimeout, "hang-timeout", 10*time.Second, "how long a worker may miss its heartbeat before it is replaced")
	flags.DurationVar(&f.config.Drain, "drain", 30*time.Second, "how long a leaving worker may take to finish its requests")
	flags.DurationVar(&f.config.StopDelay, "stop-delay", 0, "how long a stop serves on, with /healthz saying 503, before the listeners close")
	flags.StringArrayVar(&f.config.Reload.Watch, "watch", nil, "reload when this file, or anything below this directory, has changed; for developing; may be given several times")
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
	if err := config.CheckSteering(f.steering); err != nil {
		return c, usage(err)
	}
	var encrypted *drover.TLS
	if f.tls != (config.Certificate{}) {
		here, err := os.Getwd()
		if err != nil {
			return c, fmt.Errorf("find the working directory: %w", err)
		}
		encrypted = &drover.TLS{Certificates: []config.Certificate{f.tls}}
		encrypted = encrypted.Below(here)
	}
	for _, address := range f.listen {
		l := drover.Listen{Address: address, TLS: encrypted, ProxyProtocol: f.proxied}
		if _, unix := l.Unix(); !unix { // which is shared, whatever the others are
			l.Steering = f.steering
		}
		c.Listen = append(c.Listen, l)
	}
	return c, nil
}

func serveCommand() *cobra.Command {
	var f appFlags
	var proxies []string
	cmd := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "Serve a directory, or a welcome page",
		Long: `Serve the files of a directory on every core. Without one it serves a welcome
page, /plaintext, /json and /healthz. What is below a --proxy's prefix is asked of
another server, or of several in turn.`,
		Args: takes(0, 1, "at most one directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("listen") && listen.HasActivated() {
				c.Listen = nil // what the service manager gives is meant
			}
			file := config.File{Config: c, Serve: &config.Serve{}}
			if len(args) == 1 {
				if file.Serve.Root, err = filepath.Abs(args[0]); err != nil {
					return err
				}
			}
			for _, p := range proxies {
				one, err := config.ParseProxy(p)
				if err != nil {
					return usage(err)
				}
				file.Serve.Proxy = append(file.Serve.Proxy, one)
			}
			if err := config.CheckProxies(file.Serve.Proxy); err != nil {
				return usage(err)
			}
			if file.Dir, err = os.Getwd(); err != nil {
				return fmt.Errorf("find the working directory: %w", err)
			}
			return supervise(func() (*config.File, error) { return &file, nil })
		},
	}
	f.add(cmd, []string{":3000"})
	cmd.Flags().StringArrayVar(&proxies, "proxy", nil, "PREFIX=URL[,URL...]: ask these servers for what is below a path, such as /api=http://127.0.0.1:9000; may be given several times")
	return cmd
}

func runCommand() *cobra.Command {
	var f appFlags
	var nodeArgs string
	var rr bool
	cmd := &cobra.Command{
		Use:   "run [flags] PROGRAM [ARG...]",
		Short: "Run a program, once per CPU",
		Long: `Run a program on every core. It is built on drover, or a Node.js server as it
is (app.js), or takes its listening sockets by LISTEN_FDS, as systemd passes them.`,
		Args: takes(1, -1, "a program and its arguments"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.resolve()
			if err != nil {
				return err
			}
			c.Node.Args = strings.Fields(nodeArgs)
			if rr {
				c.Node.Scheduling = config.SchedulingRR
			}
			if len(c.Listen) == 0 && f.steering != config.Spread { // the addresses are the program's
				c.Node.Steering = f.steering
			}
			if err := c.Node.Check(); err != nil {
				return usage(err)
			}
			file := config.File{Config: c, Run: args}
			if file.Dir, err = os.Getwd(); err != nil {
				return fmt.Errorf("find the working directory: %w", err)
			}
			return supervise(func() (*config.File, error) { return &file, nil })
		},
	}
	f.add(cmd, nil)
	cmd.Flags().StringVar(&f.config.Kind, "kind", config.KindAuto, "what PROGRAM is: drover, node, foreign (it takes sockets by LISTEN_FDS), or auto")
	cmd.Flags().StringVar(&f.config.Ready, "ready", config.ReadyAuto, "when a foreign program is ready: notify (it says READY=1), or auto (so, or once it has lived for a second)")
	cmd.Flags().BoolVar(&f.config.Nonblocking, "nonblocking", false, "leave the sockets of a foreign program non-blocking, for one with an event loop")
	cmd.Flags().StringVar(&f.config.StopSignal, "stop-signal", "TERM", "what a foreign program is told to leave by: TERM, INT, QUIT, HUP, USR1 or USR2")
	cmd.Flags().StringVar(&nodeArgs, "node-args", "", "flags for node itself, with blanks between them, such as --max-old-space-size=512")
	cmd.Flags().BoolVar(&rr, "round-robin", false, "of a Node program: drover accepts, and deals the connections out in turn")
	cmd.Flags().BoolVar(&f.config.Node.WaitReady, "wait-ready", false, "a Node program is ready when it calls process.send('ready'), instead of when it listens")
	cmd.Flags().BoolVar(&f.config.Node.NeverListens, "never-listens", false, "a Node program listens on nothing: it is ready once it has run for a second")
	cmd.Flags().StringVar(&f.config.Node.StopBy, "stop-by", config.StopDisconnect, "what a Node program is told to leave by: disconnect, INT, TERM, or shutdown (the message)")
	cmd.Flags().BoolVar(&f.config.Node.DrainHeader, "drain-header", false, "have a Node program that is about to leave answer with Connection: close, by a module loaded before it")
	cmd.Flags().SetInterspersed(false) // what follows PROGRAM is the program's
	return cmd
}

func checkCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "check -c FILE",
		Short: "Check a configuration file, and start nothing",
		Args:  takes(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := config.Load(path)
			if err == nil {
				var program *launch.Program
				if _, program, err = load(file); err == nil {
					program.Close()
				}
			}
			var ring *keyring.Ring
			if err == nil {
				ring, err = keyring.Read(file.Listen)
			}
			if err == nil {
				var watcher *trigger.Watcher
				watcher, err = trigger.Watch(file.Config.Reload.Watch, file.Config.Reload.Ignore, file.Config.Reload.Delay)
				watcher.Close()
			}
			for _, fact := range ring.Facts() {
				if warning := fact.Warning(time.Now()); warning != "" {
					fmt.Fprintf(cmd.ErrOrStderr(), "warn: tls on %s: %s\n", fact.Address, warning)
				}
			}
			if err != nil {
				return usage(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: good\n", path)
			return nil
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "drover.yaml", "the file")
	return cmd
}

// supervise is a master until the app is stopped. read gives what is asked for,
// at the start and anew for each reload.
func supervise(read func() (*config.File, error)) error {
	file, err := read()
	if err != nil {
		return usage(err)
	}
	_, program, err := load(file)
	if err != nil {
		return usage(err) // told once, here, and not by each worker
	}
	if file, err = seeThrough(file, os.Stderr); err != nil {
		return usage(err)
	}
	program.Close()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, master.Signals()...)
	return master.Supervise(context.Background(), master.Options{
		Load: func() (drover.Config, *launch.Program, error) {
			file, err := read()
			if err != nil {
				return drover.Config{}, nil, err
			}
			return load(file)
		},
		DefaultName: defaultName(file),
		Stdout:      os.Stdout,
		Stderr:      os.Stderr,
		Signals:     signals,
		RuntimeDir:  admin.RuntimeDir(),
	})
}

func defaultName(f *config.File) string {
	switch {
	case f.Run != nil && launch.ForNode(f.Run[0], f.Dir):
		script, _ := launch.NodeScript(f.Run)
		base := filepath.Base(script)
		return strings.TrimSuffix(base, filepath.Ext(base))
	case f.Run != nil:
		return filepath.Base(f.Run[0])
	case f.Serve.Root != "":
		return filepath.Base(f.Serve.Root)
	}
	return "drover"
}

// servingEnv is how a worker of the built-in server knows what it serves.
const servingEnv = "DROVER_SERVE"

// serving is what servingEnv holds, as JSON.
type serving struct {
	Root    string         `json:"root"`
	HTTP    drover.HTTP    `json:"http"`
	Proxy   []config.Proxy `json:"proxy,omitempty"`
	Trusted []string       `json:"trusted,omitempty"`
}

// load pins what a file runs. The built-in server is this program itself, which
// is told what to serve by its environment: what the file says later is for
// later generations.
func load(f *config.File) (drover.Config, *launch.Program, error) {
	f, err := seeThrough(f, io.Discard)
	if err != nil {
		return drover.Config{}, nil, err
	}
	c := f.Config
	if _, err := launch.AttributesOf(c); err != nil {
		return c, nil, err
	}
	if err := f.CheckTrusted(); err != nil {
		return c, nil, err
	}
	if f.Serve == nil {
		node := c.Kind == config.KindNode || (c.Kind == "" || c.Kind == config.KindAuto) && launch.ForNode(f.Run[0], f.Dir)
		if err := c.CheckForNode(node); err != nil {
			return c, nil, err
		}
		if node {
			if err := c.CheckForeign(f.Run[0]); err != nil {
				return c, nil, err
			}
			p, err := launch.PinNode(c.Node, f.Run, os.Environ(), f.Dir)
			return c, p, err
		}
		path, err := launch.Resolve(f.Run[0], f.Dir)
		if err != nil {
			return c, nil, err
		}
		p, err := launch.Pin(path, f.Run, os.Environ(), f.Dir)
		if err == nil {
			p.Foreign = c.Kind == config.KindForeign || c.Kind != config.KindDrover && !p.OnDrover()
			if p.Foreign {
				if err = c.CheckForeign(f.Run[0]); err != nil {
					p.Close()
				}
			}
		}
		return c, p, err
	}
	if _, err := serve.Server(serve.Config{Root: f.Serve.Root}); err != nil {
		return c, nil, err
	}
	path, _, err := launch.Self()
	if err != nil {
		return c, nil, err
	}
	text, err := json.Marshal(serving{f.Serve.Root, c.HTTP, f.Serve.Proxy, c.TrustedProxies})
	if err != nil {
		return c, nil, err
	}
	p, err := launch.Pin(path, os.Args, append(os.Environ(), servingEnv+"="+string(text)), f.Dir)
	return c, p, err
}

// seeThrough gives a file that runs what a package manager's command comes to, and
// tells of it; any other as it is. A package manager is a Node program too: as a
// worker it would take the channel that is the app's.
func seeThrough(f *config.File, tell io.Writer) (*config.File, error) {
	if !npm.Is(f.Run) || f.Kind != "" && f.Kind != config.KindAuto && f.Kind != config.KindNode {
		return f, nil
	}
	p, err := npm.Resolve(os.DirFS("/"), f.Dir, f.Run)
	if err != nil {
		return nil, err
	}
	if f.LogFormat != "json" { // where all lines are to be of one kind
		fmt.Fprintf(tell, "%s comes to: %s\n", strings.Join(f.Run, " "), p.Command())
		for _, note := range p.Notes {
			fmt.Fprintln(tell, note)
		}
	}
	through := *f
	through.Kind, through.Run = config.KindNode, p.Run
	through.Node.Args = slices.Concat(p.Args, f.Node.Args)
	through.Env = map[string]string{}
	maps.Copy(through.Env, f.Env)
	maps.Copy(through.Env, p.Env)
	return &through, nil
}

// serveAsWorker is the whole life of a worker of the built-in server.
func serveAsWorker() error {
	text, ok := os.LookupEnv(servingEnv)
	if !ok {
		return errors.New("this program serves only what its own master tells it to: run another program, or use drover serve")
	}
	if err := os.Unsetenv(servingEnv); err != nil {
		return err
	}
	var s serving
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return fmt.Errorf("%s: %w", servingEnv, err)
	}
	return drover.Run(context.Background(), drover.Config{HTTP: s.HTTP, TrustedProxies: s.Trusted}, func(w *drover.Worker) error {
		trusted, err := config.Trust(s.Trusted...)
		if err != nil {
			return err
		}
		e, err := serve.Engine(serve.Config{Root: s.Root, Stopping: w.Stopping(), Proxy: s.Proxy, Trusted: trusted, Draining: w.Draining()})
		if err != nil {
			return err
		}
		return w.Serve(e)
	})
}
