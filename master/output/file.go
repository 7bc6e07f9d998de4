package output

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/DeRuina/timberjack"
)

// File is a log file: one that is full is put aside, and the oldest of those are
// removed. One goroutine uses it, its sink's.
type File struct {
	path          string
	maxSize, keep int
	tell          io.Writer
	logger        *timberjack.Logger
	lost          int // lines, since it could last be written
}

// OpenFile makes a log file, and its directory, where they are missing. maxSize is
// in bytes, rounded up to whole MiB; keep is how many stay that were put aside; of both
// a negative value is no bound. What is wrong with the file later is told to tell,
// once for as long as it lasts. The file belongs to the sink that it is given to.
func OpenFile(path string, maxSize, keep int, tell io.Writer) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("log file %s: %w", path, err)
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("log file: %w", err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() { // it would be put aside
		return nil, fmt.Errorf("log file %s: it is no regular file: want the path of one, or leave it out for drover's own stdout and stderr", path)
	}
	const mebi = 1 << 20
	f := &File{path: path, maxSize: (maxSize + mebi - 1) / mebi, keep: max(0, keep), tell: tell}
	if maxSize < 0 {
		f.maxSize = 1 << 40 // MiB
	}
	f.reopen()
	return f, nil
}

// Write appends a line.
func (f *File) Write(line []byte) (int, error) {
	n, err := f.logger.Write(line)
	switch {
	case err != nil:
		if f.lost++; f.lost == 1 {
			fmt.Fprintf(f.tell, "drover: log file %s: %v: lines are lost until it can be written again\n", f.path, err)
		}
	case f.lost > 0:
		fmt.Fprintf(f.tell, "drover: log file %s: it can be written again; %d lines were lost\n", f.path, f.lost)
		f.lost = 0
	}
	return n, err
}

// reopen has the next write open the path anew.
func (f *File) reopen() {
	f.close()
	if f != nil {
		f.logger = &timberjack.Logger{Filename: f.path, MaxSize: f.maxSize, MaxBackups: f.keep, LocalTime: true}
	}
}

// close ends what removes old files, too. The zero *File has nothing to close.
func (f *File) close() {
	if f != nil && f.logger != nil {
		_ = f.logger.Close() // what it wrote is written: nothing is buffered
	}
}
