// Package journal is a log for tests.
package journal

import (
	"bytes"
	"sync"
)

// Journal is what was written to it, which may be read meanwhile. The zero value is
// empty, and ready.
type Journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write appends p. It never fails.
func (j *Journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// String is all that was written so far.
func (j *Journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
