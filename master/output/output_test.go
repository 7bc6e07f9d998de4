package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSinkNeverWaitsAndTellsWhatItDropped(t *testing.T) {
	r, w := io.Pipe() // blocks its writer until it is read
	s := NewSink(w)
	const lines = 3 * sinkLines
	for i := range lines {
		fmt.Fprintf(s, "line %d\n", i) // would block here for ever, were it to wait
	}
	got := make(chan []string)
	go func() {
		text, _ := io.ReadAll(r)
		got <- strings.Split(strings.TrimSpace(string(text)), "\n")
	}()
	// Write until the sink has had room to tell.
	for i := 0; ; i++ {
		s.mu.Lock()
		told := s.dropped == 0
		s.mu.Unlock()
		if told {
			break
		}
		fmt.Fprintf(s, "after\n")
	}
	s.Close(time.Minute)
	w.Close()
	text := <-got
	if text[0] != "line 0" || text[sinkLines-1] != fmt.Sprintf("line %d", sinkLines-1) {
		t.Errorf("the first lines are %q", text[:3])
	}
	if !slices.ContainsFunc(text, func(l string) bool { return strings.Contains(l, "lines were dropped") }) {
		t.Error("nothing tells of the dropped lines")
	}
}

func TestSinkCloseWritesWhatIsQueued(t *testing.T) {
	var out bytes.Buffer
	s := NewSink(&out)
	fmt.Fprintln(s, "last words")
	s.Close(time.Minute)
	fmt.Fprintln(s, "too late")
	if out.String() != "last words\n" {
		t.Errorf("%q", out.String())
	}
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for in, want := range map[string][]string{
		"":                    nil,
		"one\ntwo\n":          {"one", "two"},
		"\n\n":                {"", ""},
		"no newline":          {"no newline"},
		long + "tail\nnext\n": {long, "tail", "next"},
	} {
		s, w, err := Pipe()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			io.WriteString(w, in)
			w.Close()
		}()
		var got []string
		s.Lines(func(line []byte, _ bool) { got = append(got, string(line)) })
		s.Close()
		if !slices.Equal(got, want) {
			t.Errorf("%.20q: %d lines, want %d", in, len(got), len(want))
		}
	}
}

func TestTailKeepsTheLast(t *testing.T) {
	var tail Tail
	for i := range 3 * tailLines {
		tail.Add(fmt.Append(nil, i))
	}
	got := tail.Lines()
	if len(got) != tailLines || got[0] != fmt.Sprint(2*tailLines) || got[tailLines-1] != fmt.Sprint(3*tailLines-1) {
		t.Errorf("%q", got)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "app.log")
	file, err := OpenFile(path, 1<<20, 2, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	s := NewSink(file)
	line := append(bytes.Repeat([]byte("x"), 1<<20-1), '\n')
	for range 4 { // each fills it
		_, _ = s.Write(line)
	}
	_, _ = io.WriteString(s, "last\n")
	s.Close(time.Minute)
	if got, err := os.ReadFile(path); string(got) != "last\n" {
		t.Errorf("%.20q, %v", got, err)
	}
	aside, err := filepath.Glob(filepath.Join(filepath.Dir(path), "app-*-size.log"))
	if err != nil || len(aside) != 2 {
		t.Errorf("%q were kept, %v: want 2", aside, err)
	}
}

func TestFileIsOpenedAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.log")
	file, err := OpenFile(path, -1, -1, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer file.close()
	fmt.Fprintln(file, "one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(file, "two")
	file.reopen()
	fmt.Fprintln(file, "three")
	old, _ := os.ReadFile(path + ".1")
	now, _ := os.ReadFile(path)
	if string(old) != "one\ntwo\n" || string(now) != "three\n" {
		t.Errorf("%q, %q", old, now)
	}
}

// What a file does not take is told once, and once more when it takes lines again.
func TestFileThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	var told bytes.Buffer
	file, err := OpenFile(filepath.Join(dir, "app.log"), -1, -1, &told)
	if err != nil {
		t.Fatal(err)
	}
	defer file.close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // no directory
		t.Fatal(err)
	}
	fmt.Fprintln(file, "one")
	fmt.Fprintln(file, "two")
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(file, "three")
	lines := strings.Split(strings.TrimSpace(told.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "app.log: ") || !strings.HasSuffix(lines[0], "lines are lost until it can be written again") ||
		!strings.HasSuffix(lines[1], "it can be written again; 2 lines were lost") {
		t.Errorf("%q", lines)
	}
	for _, path := range []string{"/dev/null", t.TempDir()} {
		if f, err := OpenFile(path, -1, -1, io.Discard); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", path, f, err)
		}
	}
}

func TestFormats(t *testing.T) {
	var out bytes.Buffer
	NewLogger(&out, "text").Warn("worker 0 exited: signal: killed", "slot", 0)
	if got := out.String(); !strings.HasSuffix(got, " warn: worker 0 exited: signal: killed\n") || strings.Count(got, "\n") != 1 {
		t.Errorf("text: %q", got)
	}
	out.Reset()
	NewLogger(&out, "json").Info("worker 0 ready", "event", "ready", "slot", 0)
	var obj map[string]any
	if err := json.Unmarshal(out.Bytes(), &obj); err != nil || obj["event"] != "ready" || obj["slot"] != 0.0 {
		t.Errorf("json: %q, %v", out.String(), err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	if got := string(WorkerLine("text", at, 3, "stderr", []byte("panic: no"))); got != "03:04:05.006 [3] panic: no\n" {
		t.Errorf("%q", got)
	}
	if got := string(WorkerLine(Dated, at, 3, "stderr", []byte("panic: no"))); got != "2026-01-02 03:04:05.006 [3] panic: no\n" {
		t.Errorf("%q", got)
	}
	if err := json.Unmarshal(WorkerLine("json", at, 3, "stderr", []byte(`a "b"`)), &obj); err != nil || obj["msg"] != `a "b"` || obj["stream"] != "stderr" {
		t.Errorf("%v, %v", obj, err)
	}
}

func TestStreamSurvivesItsWriterBeingKilled(t *testing.T) {
	s, w, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	s.Lines(func([]byte, bool) { t.Error("a line from nobody") })
	if err := s.Close(); err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestIsSchedTrace(t *testing.T) {
	for line, want := range map[string]bool{
		"SCHED 0ms: gomaxprocs=1 idleprocs=0 threads=5 spinningthreads=0 needspinning=1 idlethreads=0 runqueue=0 [ 3 ] schedticks=[ 1 ]": true,
		"  P0: status=1 schedtick=151 syscalltick=51 m=8 runqsize=0 gfreecnt=0 timerslen=4":                                              true,
		"  M0: p=nil curg=nil mallocing=1 throwing=2 preemptoff= locks=2 dying=1 spinning=false blocked=true lockedg=7":                  true,
		"  G42: status=2(chan receive) m=8 lockedm=nil":                                                                                  true,
		"SCHED is a word":         false,
		"  Given: a line":         false,
		"panic: SCHED 0ms: more":  false,
		"goroutine 42 [running]:": false,
	} {
		if got := IsSchedTrace([]byte(line)); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func TestHabits(t *testing.T) {
	var h Habits
	at := time.Unix(1000, 0)
	see := func(bytes int, cut bool, after time.Duration, want string) {
		t.Helper()
		at = at.Add(after)
		if got := h.See(make([]byte, bytes), cut, at); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%q, want %q", got, want)
		}
	}
	see(6<<20, false, 0, "")
	see(6<<20, false, time.Second, "") // another second
	see(16<<10, true, 0, "more than 16 KiB")
	see(16<<10, true, 0, "") // once
	see(6<<20, false, 100*time.Millisecond, "more than 10 MiB in a second")
	see(60<<20, false, 2*time.Second, "") // once
}
