package drover_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"drover/internal/load"
)

// asNobody copies a program to where every user may execute it, and gives the
// lines that run it as nobody, with few descriptors.
func asNobody(t *testing.T, program string) []string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "app")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	// Its directory is closed to nobody: it is executed by the descriptor.
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return []string{"run: [" + path + "]", "user: nobody", "no_new_privs: true", "oom_score_adj: 300", "rlimits: {nofile: 512, core: 0}"}
}

// credentials are lines of /proc/PID/status, and the score, of a process.
func credentials(t *testing.T, pid int) string {
	t.Helper()
	var found []string
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		for _, name := range []string{"Uid:", "Gid:", "Groups:", "NoNewPrivs:"} {
			if strings.HasPrefix(line, name) {
				found = append(found, strings.Join(strings.Fields(line), " "))
			}
		}
	}
	score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(found, ", ") + ", " + strings.TrimSpace(string(score))
}

const nobody = "Uid: 65534 65534 65534 65534, Gid: 65534 65534 65534 65534, Groups: 65534, NoNewPrivs: 1, 300"

// Workers that are another user have all that they need of a master that is root:
// sockets, channel, scoreboard, notify socket, output. The master stays what it is.
func TestWorkersAsAnotherUser(t *testing.T) {
	for _, kind := range []string{"drover", "foreign"} {
		t.Run(kind, func(t *testing.T) {
			h := newFileHerd(t)
			var lines []string
			if kind == "foreign" {
				lines = append(asNobody(t, accepting(t)), "ready: notify")
			} else {
				app, err := plainApp()
				if err != nil {
					t.Fatal(err)
				}
				lines = append(asNobody(t, app), "env: {HERD_ENGINE: fasthttp}")
			}
			h.configure(lines...)
			h.start()
			for _, w := range h.ready() {
				if got := credentials(t, w.PID); got != nobody {
					t.Errorf("%s, want %s", got, nobody)
				}
			}
			if got := credentials(t, h.master.Process.Pid); !strings.HasPrefix(got, "Uid: 0 0 0 0") {
				t.Errorf("the master is %s", got)
			}
			r, c := h.underLoad(func(r *load.Run) {
				if err := h.client().Reload(t.Context()); err != nil {
					t.Error(err)
				}
			})
			lost(t, r, c, 0)
			if kind == "drover" && h.status().Totals.Requests < uint64(c[load.OK]) {
				t.Errorf("%d requests counted, %d answered", h.status().Totals.Requests, c[load.OK])
			}
			if err := syscall.Kill(h.ready()[0].PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			h.await("successor", func(e []event) bool { return count(e, "ready") == 5 })
			h.stop()
		})
	}
}

// What cannot be is told at the start, and once.
func TestUnknownUserIsAConfigurationError(t *testing.T) {
	drover, err := command()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(drover, "serve", "--listen", "127.0.0.1:0", "--user", "no-such-user").CombinedOutput()
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != 2 || string(out) != "drover: user: \"no-such-user\": there is no such user: want a name that `getent passwd` lists, or a number\n" {
		t.Errorf("%v: %s", err, out)
	}
}
