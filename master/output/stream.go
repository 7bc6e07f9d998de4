package output

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"sync"
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
// that has the writing end has closed it, or Close. The bytes are valid during
// the call.
func (s *Stream) Lines(line func([]byte)) {
	r := bufio.NewReaderSize(s.file, maxLine)
	for {
		text, err := r.ReadSlice('\n')
		if n := len(text); n > 0 && text[n-1] == '\n' {
			line(text[:n-1])
		} else if n > 0 {
			line(text)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// Close ends Lines. A worker that writes afterwards gets EPIPE.
func (s *Stream) Close() error { return s.file.Close() }

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
