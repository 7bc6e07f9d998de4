package drover_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// floors is the import table of ARCHITECTURE.md: a package imports only what is
// on a lower floor.
var floors = map[string]int{
	"drover/cmd/drover":              6,
	"drover/examples/cluster":        6,
	"drover/examples/streams":        6,
	"drover/examples/answers":        6,
	"drover/examples/middlewares":    6,
	"drover/examples/client":         6,
	"drover/examples/bodies":         6,
	"drover/examples/https":          6,
	"drover/examples/proxy":          6,
	"drover/examples/limits":         6,
	"drover/examples/files":          6,
	"drover":                         5,
	"drover/master":                  4,
	"drover/worker/serve":            4,
	"drover/master/fleet":            3,
	"drover/master/keyring":          3,
	"drover/master/launch":           3,
	"drover/master/listen":           3,
	"drover/master/output":           3,
	"drover/master/admin":            3,
	"drover/master/notify":           3,
	"drover/master/usage":            3,
	"drover/master/node":             3,
	"drover/master/bus":              3,
	"drover/master/trigger":          3,
	"drover/worker":                  3,
	"drover/worker/engine":           3,
	"drover/worker/middleware":       3,
	"drover/worker/body":             3,
	"drover/worker/proxy":            3,
	"drover/worker/fastnet":          2,
	"drover/worker/secure":           2,
	"drover/worker/proxyproto":       2,
	"drover/config":                  2,
	"drover/config/npm":              1,
	"drover/config/pm2":              3,
	"drover/ipc":                     2,
	"drover/ipc/scoreboard":          2,
	"drover/ipc/node":                2,
	"drover/internal/sys":            1,
	"drover/internal/load":           0, // for tests only: nobody imports it
	"drover/internal/authority":      0, // likewise
	"drover/internal/journal":        0, // likewise
	"drover/examples/internal/start": 0, // likewise
}

// only says which packages alone may import something.
var only = map[string][]string{
	"golang.org/x/sys/unix":                   {"drover/internal/sys"},
	"unsafe":                                  {"drover/internal/sys"},
	"github.com/libp2p/go-reuseport":          {"drover/master/listen"},
	"github.com/shirou/gopsutil/v3/process":   {"drover/master/usage"},
	"github.com/coreos/go-systemd/v22/daemon": {"drover/master/notify"},
	"github.com/DeRuina/timberjack":           {"drover/master/output"},
	"github.com/fsnotify/fsnotify":            {"drover/master/trigger"},
	"github.com/robfig/cron/v3":               {"drover/config"},
	"github.com/spf13/cobra":                  {"drover/cmd/drover"},
	"github.com/valyala/fasthttp":             {"drover", "drover/cmd/drover", "drover/worker/engine", "drover/worker/serve", "drover/worker/middleware", "drover/worker/body"},
}

// pure is what a package that only decides may not import.
var pure = map[string][]string{
	"drover/master/fleet": {"os", "net", "sync", "sync/atomic", "context", "math/rand", "math/rand/v2", "io", "log/slog"},
	"drover/master/node":  {"os", "net", "sync", "sync/atomic", "context", "math/rand", "math/rand/v2", "io", "log/slog"},
}

// objections are what is wrong with one package's imports.
func objections(pkg string, imports []string) []string {
	floor, known := floors[pkg]
	if !known {
		return []string{pkg + ": give it a floor in the table"}
	}
	var bad []string
	for _, i := range imports {
		if strings.HasPrefix(i, "drover") && strings.Split(i, "/")[0] == "drover" {
			if other, ok := floors[i]; !ok || other >= floor || other == 0 {
				bad = append(bad, pkg+" imports "+i+", which is not below it")
			}
			if side, otherSide := side(pkg), side(i); side != "" && otherSide != "" && side != otherSide {
				bad = append(bad, pkg+" imports "+i+": master and worker never meet")
			}
		}
		if allowed, ok := only[i]; ok && !slices.Contains(allowed, pkg) && !strings.HasPrefix(pkg, "drover/examples/") { // what users write
			bad = append(bad, pkg+" imports "+i+", which only "+strings.Join(allowed, ", ")+" may")
		}
		if slices.Contains(pure[pkg], i) {
			bad = append(bad, pkg+" imports "+i+", but it only decides")
		}
	}
	return bad
}

func side(pkg string) string {
	for _, s := range []string{"master", "worker"} {
		if pkg == "drover/"+s || strings.HasPrefix(pkg, "drover/"+s+"/") {
			return s
		}
	}
	return ""
}

func TestImportsPointDown(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		field := strings.Fields(line)
		for _, o := range objections(field[0], field[1:]) {
			t.Error(o)
		}
	}
}

// The control: each kind of breach is objected to.
func TestImportTableObjects(t *testing.T) {
	for _, breach := range [][2]string{
		{"drover/master/fleet", "drover/master/listen"},
		{"drover/master/fleet", "os"},
		{"drover/master/listen", "drover/master"},
		{"drover/worker", "drover/master/launch"},
		{"drover/worker/serve", "drover/master/launch"},
		{"drover/worker", "drover/worker/engine"},
		{"drover/config", "github.com/spf13/cobra"},
		{"drover/ipc", "golang.org/x/sys/unix"},
		{"drover/master", "github.com/valyala/fasthttp"},
		{"drover/master", "drover/internal/load"},
		{"drover/util", "fmt"},
	} {
		if len(objections(breach[0], []string{breach[1]})) == 0 {
			t.Errorf("nobody objects to %s importing %s", breach[0], breach[1])
		}
	}
	if o := objections("drover/master", []string{"drover/master/fleet", "os", "drover/config"}); len(o) != 0 {
		t.Errorf("what is right is objected to: %q", o)
	}
}
