package trigger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watcher looks at files (inotify(7)). The zero *Watcher, nil, looks at none.
type Watcher struct {
	changed chan string
	failed  chan error
	files   *fsnotify.Watcher
	done    chan struct{}

	// What follows is the goroutine's, once it runs.
	only   map[string]bool   // files, whose directories are looked at for them
	below  map[string]string // directories that are looked at, and below which of those that were asked for
	ignore []string
}

// Watch begins to look at files and directories, with all that is below these but
// what ignore names, what begins with a dot, and node_modules. A change is told once
// nothing has changed for the delay. Close ends it. No path gives nil.
func Watch(paths, ignore []string, delay time.Duration) (*Watcher, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	files, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch: %w", hint(err))
	}
	w := &Watcher{
		changed: make(chan string, 1), failed: make(chan error, 1), files: files, done: make(chan struct{}),
		only: map[string]bool{}, below: map[string]string{}, ignore: ignore,
	}
	for _, p := range paths {
		if err := w.ask(p); err != nil {
			files.Close()
			return nil, fmt.Errorf("watch %s: %w", p, hint(err))
		}
	}
	go w.run(delay)
	return w, nil
}

// hint says what to do about an error that tells only whom knows inotify.
func hint(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w: more directories than fs.inotify.max_user_watches allows (inotify(7)): raise it, or watch fewer", err)
	case errors.Is(err, syscall.EMFILE):
		return fmt.Errorf("%w: more watchers than fs.inotify.max_user_instances allows (inotify(7)), or descriptors than RLIMIT_NOFILE", err)
	}
	return err
}

// Changed tells what changed, the first of several. Nil has no such channel.
func (w *Watcher) Changed() <-chan string {
	if w == nil {
		return nil
	}
	return w.changed
}

// Failed tells what cannot be looked at.
func (w *Watcher) Failed() <-chan error {
	if w == nil {
		return nil
	}
	return w.failed
}

// Close ends the watcher, and waits for it.
func (w *Watcher) Close() {
	if w != nil {
		w.files.Close()
		<-w.done
	}
}

// ask begins with one path that was asked for.
func (w *Watcher) ask(asked string) error {
	real, err := filepath.EvalSymlinks(asked)
	if err != nil {
		return err
	}
	info, err := os.Stat(real)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return w.add(real, real)
	}
	// An editor puts a new file in the place of the old: the directory is what hears
	// of it, and the name that was asked for what is replaced.
	if asked, err = filepath.Abs(asked); err != nil {
		return err
	}
	for _, p := range []string{asked, real} {
		w.only[p] = true
		if err := w.files.Add(filepath.Dir(p)); err != nil {
			return err
		}
	}
	return nil
}

// add looks at a directory, which is top or below it, and at all below.
func (w *Watcher) add(dir, top string) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && p != top: // removed meanwhile
			return nil
		case err != nil:
			return err
		case !e.IsDir():
			return nil
		case w.ignored(p, top):
			return fs.SkipDir
		}
		w.below[p] = top
		if err := w.files.Add(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// ignored reports whether a path below top is not looked at.
func (w *Watcher) ignored(p, top string) bool {
	rel, err := filepath.Rel(top, p)
	if err != nil || rel == "." {
		return false
	}
	for at := rel; at != "."; at = path.Dir(at) {
		name := path.Base(at)
		if strings.HasPrefix(name, ".") || name == "node_modules" {
			return true
		}
		for _, pattern := range w.ignore {
			for _, s := range []string{name, at, filepath.Join(top, at)} {
				if ok, _ := path.Match(pattern, s); ok {
					return true
				}
			}
		}
	}
	return false
}

// run tells of changes, until files is closed.
func (w *Watcher) run(delay time.Duration) {
	defer close(w.done)
	quiet := time.NewTimer(delay)
	quiet.Stop()
	defer quiet.Stop()
	first := ""
	note := func(p string) {
		if first == "" {
			first = p
		}
		quiet.Reset(delay)
	}
	for {
		select {
		case e, more := <-w.files.Events:
			if !more {
				return
			}
			if w.heed(e) {
				note(e.Name)
			}
		case err, more := <-w.files.Errors:
			switch {
			case !more:
				return
			case errors.Is(err, fsnotify.ErrEventOverflow):
				note("more than could be told apart")
			default:
				w.fail(err)
			}
		case <-quiet.C:
			select {
			case w.changed <- first:
			default: // the one before has not been taken yet
			}
			first = ""
		}
	}
}

// heed reports whether an event is a change that is looked for. Of a directory that
// is new it looks at all.
func (w *Watcher) heed(e fsnotify.Event) bool {
	top, ok := w.below[filepath.Dir(e.Name)]
	switch {
	case e.Op == fsnotify.Chmod:
		return false
	case w.below[e.Name] == e.Name && (e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename)):
		w.fail(fmt.Errorf("%s is gone: nothing below it is looked at before the next reload", e.Name))
		return true
	case !ok:
		return w.only[e.Name]
	case w.only[e.Name]:
		return true
	case w.ignored(e.Name, top):
		return false
	}
	if e.Has(fsnotify.Create) {
		if info, err := os.Lstat(e.Name); err == nil && info.IsDir() {
			if err := w.add(e.Name, top); err != nil {
				w.fail(err)
			}
		}
	}
	return true
}

// fail tells an error, unless another waits to be.
func (w *Watcher) fail(err error) {
	select {
	case w.failed <- fmt.Errorf("watch: %w", hint(err)):
	default:
	}
}
