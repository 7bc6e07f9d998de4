package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A file that never comes to an end is given up, and leaves no process.
func TestEvaluateEnds(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("no node")
	}
	path := filepath.Join(t.TempDir(), "loop.config.js")
	if err := os.WriteFile(path, []byte("for (;;);"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if data, err := evaluate(ctx, path); err == nil || !strings.Contains(err.Error(), "want a file that only says what the apps are") {
		t.Errorf("%q, %v", data, err)
	}
}

// Values come through the pipe, at any size that a file
// may have, and no further.
func TestEvaluateSizes(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("no node")
	}
	for size, want := range map[string]string{"3e6": "", "5e6": "its value has more than 4194304 bytes"} {
		path := filepath.Join(t.TempDir(), "large.config.js")
		if err := os.WriteFile(path, []byte("module.exports = 'x'.repeat("+size+");"), 0o600); err != nil {
			t.Fatal(err)
		}
		data, err := evaluate(context.Background(), path)
		switch {
		case want == "" && (err != nil || len(data) != 3e6+2):
			t.Errorf("%s: %d bytes, %v", size, len(data), err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %d bytes, %v: want %q", size, len(data), err, want)
		}
	}
}
