package output

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// maxLine bounds a line of a worker's, in bytes; a longer one is cut in pieces.
const maxLine = 16 << 10

// Stream is the reading end of a worker's stdout or stderr.
type Stream struct{ file *os.File }

// Pipe makes a stream and the raw writing end for the worker, which the caller
// closes once the worker has it.
func Pipe() (*Stream, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pipe for a worker's output: %w", err)
	}
	return &Stream{r}, w, nil
}

// Lines calls line with each line, without its newline, until every process
// that has the writing end has closed it, or Close. cut says that the line goes
// on in the next call, since it has more than 16 KiB. The bytes are valid during
// the call.
func (s *Stream) Lines(line func(text []byte, cut bool)) {
	r := bufio.NewReaderSize(s.file, maxLine)
	for {
		text, err := r.ReadSlice('\n')
		if n := len(text); n > 0 && text[n-1] == '\n' {
			line(text[:n-1], false)
		} else if n > 0 {
			line(text, errors.Is(err, bufio.ErrBufferFull))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// IsSchedTrace reports whether a line of stderr is one of those that the Go
// runtime prints of its scheduler (runtime/proc.go, schedtrace): one every
// interval, and before the report of a fatal error one for each processor, thread
// and goroutine.
func IsSchedTrace(line []byte) bool {
	if rest, ok := bytes.CutPrefix(line, []byte("SCHED ")); ok {
		return bytes.Contains(rest, []byte("ms: gomaxprocs="))
	}
	if len(line) < 3 || !bytes.HasPrefix(line, []byte("  ")) || !bytes.ContainsAny(line[2:3], "PMG") {
		return false
	}
	number, rest, ok := bytes.Cut(line[3:], []byte(": "))
	_, err := strconv.Atoi(string(number))
	return ok && err == nil && (bytes.HasPrefix(rest, []byte("status=")) || bytes.HasPrefix(rest, []byte("p=")))
}

// Close ends Lines. A worker that writes afterwards gets EPIPE.
func (s *Stream) Close() error { return s.file.Close() }

// flood is how many bytes a worker may print in a second before the log says so:
// some ten times what a busy server logs.
const flood = 10 << 20

// Habits notices how a worker prints. Its zero value is ready; one goroutine uses
// it.
type Habits struct {
	second            time.Time // when the one under way began
	bytes             int       // printed in it
	toldCut, toldMuch bool
}

// See takes note of a line printed at now. It returns what an operator should
// know of the worker, each thing once, or "".
func (h *Habits) See(line []byte, cut bool, now time.Time) string {
	if cut && !h.toldCut {
		h.toldCut = true
		return fmt.Sprintf("prints a line of more than %d KiB: it is cut in pieces", maxLine>>10)
	}
	if now.Sub(h.second) >= time.Second {
		h.second, h.bytes = now, 0
	}
	if h.bytes += len(line); h.bytes > flood && !h.toldMuch {
		h.toldMuch = true
		return fmt.Sprintf("prints more than %d MiB in a second: the master is kept busy with it", flood>>20)
	}
	return ""
}

// Tail keeps the last lines that a life printed, for the report of its end.
type Tail struct {
	mu    sync.Mutex // stdout and stderr are read by a goroutine each
	lines []string
}

// tailLines is how many lines a Tail keeps.
const tailLines = 20

// Add appends a line and forgets the oldest.
func (t *Tail) Add(line []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == tailLines {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.lines = append(t.lines, string(line))
}

// Lines are the last lines, oldest first.
func (t *Tail) Lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}
