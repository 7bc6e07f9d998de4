package serve

import (
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"drover/worker/middleware"
)

// What a worker keeps of files in memory.
const (
	smallFile = 64 << 10 // bytes; larger ones are sent by the kernel (sendfile(2))
	keptBytes = 16 << 20 // of small files, and of what files were compressed to
	keptFiles = 4096
	// idleHandles is how many open descriptors of a larger file wait for its next
	// request: opening it again costs as much as sending a small one.
	idleHandles = 8
)

// fresh is how long a file may be served as it was before it changed.
const fresh = time.Second

// cache keeps files that were asked for twice within fresh, and those that were
// compressed. After fresh a file is looked at before it is served again: one that
// was changed, replaced or removed is forgotten.
type cache struct {
	dir *os.Root

	mu    sync.RWMutex // every request looks a file up; few are kept or forgotten
	files map[string]*file
	bytes int // that all of them hold
}

// file is one that is served. Only what is atomic, or the cache's mu holds, changes
// once it is made.
type file struct {
	path     string       // as it is asked for
	name     string       // below the root
	looked   atomic.Int64 // when it was, in ns of Unix time
	info     fs.FileInfo  // nil: it is only known when it was asked for
	settled  bool         // it had not changed for fresh: else it may change, and its time stay the same
	kind     string       // Content-Type
	modified []byte       // Last-Modified
	tag      []byte       // ETag: weak where the file was not settled (RFC 9110, section 8.8.3)
	weak     []byte       // ETag of what is compressed
	body     []byte       // of a small file that is kept; never written to

	compressible bool
	// encoded is what the file comes to in each coding; empty where that is not worth
	// it, nil before it was tried.
	encoded [len(middleware.Codings)]atomic.Pointer[[]byte]

	// The cache's mu holds these.
	held int        // bytes of body and encoded
	idle []*os.File // of a larger file
}

func newCache(dir *os.Root) *cache { return &cache{dir: dir, files: map[string]*file{}} }

// find gives the file that is kept for a path, or nil.
func (c *cache) find(path []byte) *file {
	c.mu.RLock()
	f := c.files[string(path)]
	c.mu.RUnlock()
	if f == nil || f.info == nil {
		return nil
	}
	now := time.Now().UnixNano()
	// One request looks; others that come meanwhile take what is there.
	if was := f.looked.Load(); now-was > int64(fresh) && f.looked.CompareAndSwap(was, now) {
		if info, err := c.dir.Stat(f.name); err != nil || !same(info, f.info) {
			c.forget(f)
			return nil
		}
	}
	return f
}

// same reports whether a file is the one that was read.
func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// again reports whether a path was asked for within fresh before, and notes that
// it is now.
func (c *cache) again(path string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.files[path]; f != nil && f.info == nil {
		return now.UnixNano()-f.looked.Swap(now.UnixNano()) < int64(fresh)
	} else if f != nil {
		return false // another request has just kept it
	}
	f := &file{path: path}
	f.looked.Store(now.UnixNano())
	c.put(f)
	return false
}

// keep keeps a file for its path, unless it may still change unnoticed. h is open
// for it; a small one is read whole.
func (c *cache) keep(f *file, h *os.File) {
	if !f.settled {
		return
	}
	if f.info.Size() <= smallFile {
		body := make([]byte, f.info.Size())
		if n, _ := h.ReadAt(body, 0); n < len(body) {
			return // it has got shorter: it is served from the descriptor, as far as it goes
		}
		if after, err := h.Stat(); err != nil || !same(after, f.info) {
			return
		}
		f.body, f.held = body, len(body)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(f)
}

// put takes a file in, and forgets others, whichever, until it fits. mu is held.
func (c *cache) put(f *file) {
	if was := c.files[f.path]; was != nil {
		c.drop(was)
	}
	c.files[f.path] = f
	c.bytes += f.held
	c.fit(f)
}

// fit forgets files but one until the others fit. mu is held.
func (c *cache) fit(but *file) {
	for _, f := range c.files {
		if c.bytes <= keptBytes && len(c.files) <= keptFiles {
			return
		}
		if f != but {
			c.drop(f)
		}
	}
}

// drop forgets a file. mu is held.
func (c *cache) drop(f *file) {
	delete(c.files, f.path)
	c.bytes -= f.held
	for _, h := range f.idle {
		h.Close()
	}
	f.idle = nil
}

// forget drops a file, unless another has taken its place.
func (c *cache) forget(f *file) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files[f.path] == f {
		c.drop(f)
	}
}

// encodedAs keeps what a file was compressed to in a coding.
func (c *cache) encodedAs(f *file, coding int, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files[f.path] != f || !f.encoded[coding].CompareAndSwap(nil, &body) {
		return
	}
	f.held += len(body)
	c.bytes += len(body)
	c.fit(f)
}

// open gives a descriptor of a file, to be given back by release. The file may
// have become another since f was made: then it is an error.
func (c *cache) open(f *file) (*os.File, error) {
	c.mu.Lock()
	if n := len(f.idle); n > 0 {
		h := f.idle[n-1]
		f.idle = f.idle[:n-1]
		c.mu.Unlock()
		return h, nil
	}
	c.mu.Unlock()
	h, err := openRegular(c.dir, f.name)
	if err != nil {
		return nil, err
	}
	if info, err := h.Stat(); err != nil || !same(info, f.info) {
		h.Close()
		return nil, fs.ErrNotExist
	}
	return h, nil
}

// release takes a descriptor of a file back.
func (c *cache) release(f *file, h *os.File) {
	c.mu.Lock()
	if c.files[f.path] == f && f.body == nil && len(f.idle) < idleHandles {
		f.idle = append(f.idle, h)
		h = nil
	}
	c.mu.Unlock()
	if h != nil {
		h.Close()
	}
}
