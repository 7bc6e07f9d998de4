package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestMain is the example itself where the test has started it.
func TestMain(m *testing.M) {
	if os.Getenv("CLUSTER_EXAMPLE") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// patience bounds what the test waits for: the machine may be busy.
const patience = 60 * time.Second

// program is one of the two, running.
type program struct {
	t       *testing.T
	url     string
	client  http.Client
	ctx     context.Context
	process *exec.Cmd
	out     bytes.Buffer
}

// start runs a command with a free port.
func start(t *testing.T, args ...string) *program {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	p := &program{t: t, ctx: ctx, url: "http://127.0.0.1:" + port + "/page", process: exec.Command(args[0], args[1:]...),
		client: http.Client{Transport: &http.Transport{DisableKeepAlives: true}}} // a new connection may meet another worker
	p.process.Stdout, p.process.Stderr = &p.out, &p.out
	p.process.Env = append(os.Environ(), "CLUSTER_EXAMPLE=1", "PORT="+port, "DROVER_RUNTIME_DIR="+t.TempDir())
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.process.ProcessState == nil {
			p.process.Process.Kill()
			p.process.Wait()
		}
		if t.Failed() {
			t.Logf("it printed:\n%s", p.out.Bytes())
		}
	})
	return p
}

// ask sends a request, and gives the worker that answered and how many pages it
// has made.
func (p *program) ask(method string) (pid, made int, err error) {
	req, err := http.NewRequestWithContext(p.ctx, method, p.url, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	res, err := p.client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK {
		p.t.Fatalf("%s is answered %s %q", method, res.Status, text)
	}
	fmt.Sscanf(string(text), "%d made this page %d", &pid, &made)
	return pid, made, err
}

// await asks for the page until the workers that answered are as they should be:
// the pages that each has made, by pid.
func (p *program) await(what string, done func(workers map[int]int) bool) map[int]int {
	p.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	workers := map[int]int{}
	var last error
	for {
		pid, made, err := p.ask(http.MethodGet)
		if last = err; err == nil {
			workers[pid] = made
		}
		if done(workers) {
			return workers
		}
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			p.t.Fatalf("not within %v: %s: the workers are %v, %v", patience, what, workers, last)
		}
	}
}

// Both programs are the same to whoever uses them.
func TestSideBySide(t *testing.T) {
	programs := map[string][]string{"drover": {os.Args[0]}}
	if node, err := exec.LookPath("node"); err == nil {
		programs["node"] = []string{node, "cluster.js"}
	}
	for name, args := range programs {
		t.Run(name, func(t *testing.T) {
			p := start(t, args...)

			// fork
			before := p.await("two workers, each with a page", func(workers map[int]int) bool { return len(workers) == 2 })
			for pid, made := range before {
				if made != 1 {
					t.Errorf("%d has made %d pages, want 1: it keeps them", pid, made)
				}
			}

			// messages
			if _, _, err := p.ask(http.MethodPut); err != nil {
				t.Fatal(err)
			}
			p.await("both workers have forgotten the page", func(workers map[int]int) bool {
				for pid := range before {
					if workers[pid] < 2 {
						return false
					}
				}
				return true
			})

			// exit → restart
			if _, _, err := p.ask(http.MethodDelete); err == nil {
				t.Error("a worker answered that was to exit")
			}
			p.await("another worker", func(workers map[int]int) bool {
				for pid := range workers {
					if before[pid] == 0 {
						return true
					}
				}
				return false
			})

			// disconnect
			if err := p.process.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := p.process.Wait(); err != nil {
				t.Errorf("it ended with %v, want exit status 0", err)
			}
			if _, _, err := p.ask(http.MethodGet); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("after its end: %v", err)
			}
		})
	}
}
