package config

import (
	"cmp"
	"path/filepath"
)

// Logs says into which files goes what is printed: a line goes to each that is
// named for it, and where none is, to drover's own stdout or stderr. drover itself
// writes the files, as who it is, relative to its working directory, and makes them
// and their directories where they are missing. The zero value has none.
type Logs struct {
	// File has everything: drover's log and what the workers print.
	File string
	// OutFile and ErrorFile have what the workers print on stdout and on stderr. They
	// may be one file.
	OutFile, ErrorFile string
	// MaxSize is how large a file becomes, in bytes, before it is put aside under a
	// name with its time. 0 is 100 MiB, negative is no bound; else it is at least 1 MiB,
	// and rounded up to whole ones.
	MaxSize int
	// Keep is how many of those that were put aside stay, of each file. 0 is 5,
	// negative is all.
	Keep int
}

// minLogSize bounds Logs.MaxSize: what puts files aside counts in MiB.
const minLogSize = 1 << 20

// check says what is wrong with l, and what would be right.
func (l Logs) check() error {
	switch {
	case cmp.Or(l.File, l.OutFile, l.ErrorFile) == "" && (l.MaxSize != 0 || l.Keep != 0):
		return wrong("logs", "max_size or keep without a file: want file, out_file or error_file too")
	case l.MaxSize > 0 && l.MaxSize < minLogSize:
		return wrong("logs", "max_size is %d bytes: want at least 1MiB, or off", l.MaxSize)
	}
	return nil
}

// below gives l with relative paths below a directory.
func (l Logs) below(dir string) Logs {
	for _, path := range []*string{&l.File, &l.OutFile, &l.ErrorFile} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
	return l
}
