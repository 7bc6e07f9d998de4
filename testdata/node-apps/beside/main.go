// Command beside measures drover beside Node's own primary and PM2, with the same
// app under the same load, and prints a Markdown table: go run
// ./testdata/node-apps/beside DROVER HERE, with the folder of node-apps.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"drover/internal/load"
)

const (
	faults = 3 // kills, and reloads, of each server
	rounds = 7 // of balance, and of requests/s
)

// peer is one who runs the app.
type peer struct {
	name   string
	start  []string       // the command, which serves until stop
	env    []string       // beside the common ones
	daemon string         // file with the pid of the primary, where it is not the command
	reload []string       // waits for the reload's end
	hangup *bufio.Scanner // or SIGHUP, and the line "reloaded"
	stop   []string       // or SIGTERM
}

type herd struct {
	peer
	addr    string
	environ []string
	cmd     *exec.Cmd
}

func (h *herd) run(args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = h.environ
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// pid asks over a connection of its own which process answers.
func (h *herd) pid() (int, error) {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return ask(&client, h.addr)
}

func ask(client *http.Client, addr string) (int, error) {
	resp, err := client.Get("http://" + addr + "/pid")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(body))
}

// two waits until two processes answer, none of which is gone.
func (h *herd) two(gone int) error {
	begun := time.Now()
	pids := map[int]bool{}
	for len(pids) < 2 {
		if time.Since(begun) > 20*time.Second {
			return fmt.Errorf("%s: after 20 s two workers do not answer", h.name)
		}
		if pid, err := h.pid(); err == nil && pid != gone {
			pids[pid] = true
		} else {
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

// rss is the resident memory of a process in MiB (VmRSS of proc_pid_status(5)).
func rss(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no VmRSS of process %d", pid)
	}
	kb, err := strconv.Atoi(string(m[1]))
	return float64(kb) / 1024, err
}

// balance is max/mean over two workers of 20 connections that are open at once.
func (h *herd) balance() (float64, error) {
	sum := 0.0
	for range rounds {
		per, most := map[int]int{}, 0
		var open []*http.Transport
		for range 20 {
			t := &http.Transport{}
			open = append(open, t)
			pid, err := ask(&http.Client{Transport: t, Timeout: 2 * time.Second}, h.addr)
			if err != nil {
				return 0, err
			}
			per[pid]++
			most = max(most, per[pid])
		}
		for _, t := range open {
			t.CloseIdleConnections()
		}
		sum += float64(most) / 10
	}
	return sum / rounds, nil
}

func (h *herd) wrk() (float64, error) {
	out, err := exec.Command("wrk", "-t1", "-c64", "-d2s", "http://"+h.addr+"/").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	if strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") {
		return 0, fmt.Errorf("%s: wrk had errors: %s", h.name, out)
	}
	m := regexp.MustCompile(`Requests/sec:\s+([\d.]+)`).FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("wrk printed no rate: %s", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// lost is what the load loses while fault is done so many times.
func (h *herd) lost(fault func() error) (load.Counts, error) {
	r := load.Start(load.Load{Addr: h.addr})
	defer r.Stop()
	for range faults {
		if err := r.AwaitOK(300); err != nil {
			return load.Counts{}, err
		}
		if err := fault(); err != nil {
			return load.Counts{}, err
		}
	}
	if err := r.AwaitOK(300); err != nil {
		return load.Counts{}, err
	}
	return r.Stop(), nil
}

func losses(c load.Counts) string {
	var kinds []string
	for k, n := range c {
		if load.Kind(k) != load.OK && n > 0 {
			kinds = append(kinds, fmt.Sprintf("%d %s", n, load.Kind(k)))
		}
	}
	if kinds == nil {
		return "0"
	}
	return strings.Join(kinds, ", ")
}

func (h *herd) kill() error {
	pid, err := h.pid()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	return h.two(pid)
}

func (h *herd) renew() error {
	if h.reload != nil {
		return h.run(h.reload)
	}
	if err := h.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	if !h.hangup.Scan() {
		return fmt.Errorf("%s ended in a reload", h.name)
	}
	return nil
}

// begin starts a server, and waits until both its workers answer.
func begin(p peer, common []string) (*herd, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &herd{peer: p, addr: l.Addr().String()}
	l.Close()
	_, port, _ := net.SplitHostPort(h.addr)
	h.environ = append(append(append(os.Environ(), common...), p.env...), "PORT="+port)
	h.cmd = exec.Command(p.start[0], p.start[1:]...)
	h.cmd.Env = h.environ
	if p.reload == nil {
		out, err := h.cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		h.hangup = bufio.NewScanner(out)
	}
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	if err := h.two(0); err != nil {
		return nil, errors.Join(err, h.end())
	}
	return h, nil
}

func (h *herd) end() error {
	var err error
	if h.stop != nil {
		err = h.run(h.stop)
	} else {
		_ = h.cmd.Process.Signal(syscall.SIGTERM)
	}
	_ = h.cmd.Wait()
	return err
}

// primary is the pid of the process that looks after the workers.
func (h *herd) primary() (int, error) {
	if h.daemon == "" {
		return h.cmd.Process.Pid, nil
	}
	text, err := os.ReadFile(h.daemon)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// measure is what is measured of one server, but for its rates: those are of all
// servers in turn, so that what else happens on the machine meets all alike.
func (h *herd) measure(rates, ratios []float64) (row string, err error) {
	uneven, err := h.balance()
	if err != nil {
		return "", err
	}
	pid, err := h.primary()
	if err != nil {
		return "", err
	}
	size, err := rss(pid) // after load
	if err != nil {
		return "", err
	}
	kills, err := h.lost(h.kill)
	if err != nil {
		return "", err
	}
	reloads, err := h.lost(h.renew)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("| %s | %s | %s | %.0f MiB | %.0f | %.2f (%.2f..%.2f) | %.2f |", h.name, losses(kills), losses(reloads), size,
		median(rates), median(ratios), slices.Min(ratios), slices.Max(ratios), uneven), nil
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: beside DROVER FOLDER")
	}
	dir, err := os.MkdirTemp("", "beside-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	drover, here := os.Args[1], os.Args[2]
	app := filepath.Join(here, "app/beside.js")
	pm2 := filepath.Join(here, "node_modules/pm2/bin/pm2")
	common := []string{"DROVER_RUNTIME_DIR=" + dir, "PM2_HOME=" + dir + "/pm2", "NODE_ENV=production"}
	run := func(title, name string, flags ...string) peer {
		return peer{name: title, start: append(append([]string{drover, "run", "--workers", "2", "--name", name}, flags...), app), reload: []string{drover, "reload", "--name", name}}
	}
	if err := compare([]peer{
		run("drover", "beside"),
		run("drover, `--drain-header`", "header", "--drain-header"),
		run("drover, `--round-robin`", "robin", "--round-robin"),
		{name: "Node's primary, round robin", start: []string{"node", filepath.Join(here, "beside/primary.js"), app}},
		{name: "PM2 7, `wait_ready`", start: []string{pm2, "start", app, "--name", "beside", "-i", "2", "--wait-ready"},
			daemon: dir + "/pm2/pm2.pid", reload: []string{pm2, "reload", "beside"}, stop: []string{pm2, "kill"}},
	}, common); err != nil {
		log.Print(err)
		os.RemoveAll(dir)
		os.Exit(1)
	}
}

// compare starts all servers, loads one after the other in each round, beginning with
// another each time, and prints the table.
func compare(peers []peer, common []string) (err error) {
	var herds []*herd
	defer func() {
		for _, h := range herds {
			err = errors.Join(err, h.end())
		}
	}()
	for _, p := range peers {
		h, err := begin(p, common)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		herds = append(herds, h)
	}
	rates, ratios := make([][]float64, len(herds)), make([][]float64, len(herds))
	for round := range rounds {
		of := make([]float64, len(herds))
		for n := range herds {
			i := (round + n) % len(herds)
			if of[i], err = herds[i].wrk(); err != nil {
				return fmt.Errorf("%s: %w", herds[i].name, err)
			}
		}
		for i := range herds {
			rates[i] = append(rates[i], of[i])
			ratios[i] = append(ratios[i], of[0]/of[i])
		}
	}
	fmt.Printf("| 2 workers | lost of %d `kill -9` | lost of %d reloads | RSS of the primary | requests/s | %s's requests/s to it | 20 connections, max/mean |\n|---|---|---|---|---|---|---|\n", faults, faults, herds[0].name)
	for i, h := range herds {
		row, err := h.measure(rates[i], ratios[i])
		if err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
		fmt.Println(row)
	}
	return nil
}
