package trigger

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTimetable(t *testing.T) {
	at := func(s string) time.Time {
		t.Helper()
		now, err := time.ParseInLocation("2006-01-02 15:04:05", s, time.Local)
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	table, err := NewTimetable("0 3 * * *", at("2026-11-26 14:00:00"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		now string
		due bool
	}{
		{"2026-11-27 02:59:59", false},
		{"2026-11-27 03:00:00", true},
		{"2026-11-27 03:00:00", false}, // asked again
		{"2026-11-27 03:10:00", false},
		{"2026-11-27 02:50:00", false}, // set back
		{"2026-11-27 03:00:01", false}, // and there once more
		{"2026-11-28 02:59:59", false},
		{"2026-12-02 12:00:00", true}, // slept over five of them
		{"2026-12-02 12:00:00", false},
		{"2026-12-03 03:00:10", true}, // late
		{"2040-01-01 00:00:00", true}, // set forth by mistake, with one on the way
		{"2040-01-01 00:00:01", false},
	} {
		if got := table.Due(at(c.now)); got != c.due {
			t.Errorf("%s: %v", c.now, got)
		}
	}
	early, err := NewTimetable("0 3 * * *", at("2040-01-01 00:00:00"))
	if err != nil {
		t.Fatal(err)
	}
	if early.Due(at("2026-11-26 02:00:00")) || !early.Due(at("2026-11-26 03:00:00")) { // the right time came late
		t.Error("a clock that was far ahead at the start is waited for")
	}
	if none, err := NewTimetable("", time.Now()); none.Due(time.Now()) || err != nil {
		t.Errorf("nothing is due: %v", err)
	}
	if _, err := NewTimetable("soon", time.Now()); err == nil {
		t.Error("soon is no time")
	}
}

// write makes or changes a file, and its directory.
func write(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// told is what a watcher tells next.
func told(t *testing.T, w *Watcher) string {
	t.Helper()
	select {
	case p := <-w.Changed():
		return p
	case err := <-w.Failed():
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("nothing is told")
	}
	return ""
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"src/app.js", "src/lib/a.js", "src/node_modules/x/index.js", "src/.git/HEAD", "src/public/img/a.png", "conf/app.json", "conf/other.json"} {
		write(t, in(name))
	}
	if err := os.Symlink(in("src"), in("current")); err != nil {
		t.Fatal(err)
	}
	w, err := Watch([]string{in("current"), in("conf/app.json")}, []string{"*.log", "public/img"}, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ignored := []string{"src/app.log", "src/.env", "src/node_modules/x/index.js", "src/.git/HEAD", "src/public/img/a.png", "conf/other.json"}
	expect := func(name string, change func()) {
		t.Helper()
		for _, name := range ignored { // these would be told first
			write(t, in(name))
		}
		if err := os.Chmod(in("src/app.js"), 0o644); err != nil {
			t.Fatal(err)
		}
		change()
		for got := ""; got != in(name); {
			got = told(t, w)
			if slices.ContainsFunc(ignored, func(name string) bool { return got == in(name) }) {
				t.Fatalf("%s is told", got)
			}
		}
	}
	expect("src/lib/a.js", func() { write(t, in("src/lib/a.js")) })
	expect("src/new", func() { write(t, in("src/new/b.js")) })
	expect("conf/app.json", func() { // as an editor does
		write(t, in("conf/.app.json.new"))
		if err := os.Rename(in("conf/.app.json.new"), in("conf/app.json")); err != nil {
			t.Fatal(err)
		}
	})
	expect("src/app.js", func() {
		if err := os.Remove(in("src/app.js")); err != nil {
			t.Fatal(err)
		}
	})
	if err := os.RemoveAll(in("src")); err != nil {
		t.Fatal(err)
	}
	if err := <-w.Failed(); !strings.Contains(err.Error(), in("src")+" is gone") {
		t.Errorf("%v", err)
	}
}

func TestWatchNothing(t *testing.T) {
	w, err := Watch(nil, nil, time.Second)
	if err != nil || w.Changed() != nil || w.Failed() != nil {
		t.Errorf("%v, %v", w, err)
	}
	w.Close()
	if w, err := Watch([]string{filepath.Join(t.TempDir(), "missing")}, nil, time.Second); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "missing") {
		t.Errorf("%v, %v", w, err)
	}
}
