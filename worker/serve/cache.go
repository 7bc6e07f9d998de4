package serve

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// What a worker keeps of files in memory.
const (
	smallFile = 64 << 10 // bytes; larger ones are sent by the kernel (sendfile(2))
	keptBytes = 16 << 20
	keptFiles = 4096
)

// cache keeps small files that were asked for twice within fresh. After fresh a
// file is looked at before it is served again: one that was changed, replaced or
// removed is forgotten.
type cache struct {
	dir *os.Root

	mu    sync.RWMutex // every request looks a file up; few are kept or forgotten
	files map[string]*file
	bytes int // of all bodies
}

// file is one that is kept; until it has a body, only known to have been asked for.
type file struct {
	name     string       // below the root
	looked   atomic.Int64 // when it was, in ns of Unix time; without a body, when it was asked for
	info     fs.FileInfo
	kind     string // Content-Type
	modified string // Last-Modified
	body     []byte // never written to
}

func newCache(dir *os.Root) *cache { return &cache{dir: dir, files: map[string]*file{}} }

// whole reports whether all of a file is asked for.
func whole(ctx *fasthttp.RequestCtx) bool {
	return ctx.IsGet() && len(ctx.Request.Header.Peek(fasthttp.HeaderRange)) == 0
}

// serve answers with a file that is kept, or reports that there is none.
func (c *cache) serve(ctx *fasthttp.RequestCtx) bool {
	if !whole(ctx) {
		return false
	}
	f := c.find(ctx.Path())
	if f == nil {
		return false
	}
	if !ctx.IfModifiedSince(f.info.ModTime()) {
		ctx.NotModified()
		return true
	}
	ctx.SetContentType(f.kind)
	ctx.Response.Header.Set(fasthttp.HeaderAcceptRanges, "bytes")
	ctx.Response.Header.Set(fasthttp.HeaderLastModified, f.modified)
	ctx.Response.SetBodyRaw(f.body)
	return true
}

// find gives the file of a request's path, or nil.
func (c *cache) find(path []byte) *file {
	c.mu.RLock()
	f := c.files[string(path)]
	c.mu.RUnlock()
	if f == nil || f.body == nil {
		return nil
	}
	now := time.Now().UnixNano()
	// One request looks; others that come meanwhile take what is there.
	if was := f.looked.Load(); now-was > int64(fresh) && f.looked.CompareAndSwap(was, now) {
		if info, err := c.dir.Stat(f.name); err != nil || !same(info, f.info) {
			c.forget(string(path), f)
			return nil
		}
	}
	return f
}

// same reports whether a file is the one that was read.
func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// answered takes note that all of a file was answered otherwise, and keeps it
// when that is worth it.
func (c *cache) answered(ctx *fasthttp.RequestCtx) {
	if length := ctx.Response.Header.ContentLength(); !whole(ctx) || ctx.Response.StatusCode() != fasthttp.StatusOK || length < 0 || length > smallFile {
		return
	}
	path := string(ctx.Path())
	now := time.Now()
	if !c.again(path, now) {
		return
	}
	f := c.read(bytes.TrimPrefix(ctx.Path(), []byte("/")), now)
	if f == nil {
		return
	}
	f.kind = string(ctx.Response.Header.ContentType())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(path, f)
}

// again reports whether a path was asked for within fresh before, and notes that
// it is now.
func (c *cache) again(path string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.files[path]; f != nil && f.body == nil {
		return now.UnixNano()-f.looked.Swap(now.UnixNano()) < int64(fresh)
	} else if f != nil {
		return false // another request has just kept it
	}
	f := &file{}
	f.looked.Store(now.UnixNano())
	c.put(path, f)
	return false
}

// read reads a small file whole, or gives nil. One that was changed within fresh
// is not kept: it may change again, and its time of change stay the same.
func (c *cache) read(name []byte, now time.Time) *file {
	if len(name) == 0 || bytes.HasSuffix(name, []byte("/")) {
		name = append(name[:len(name):len(name)], "index.html"...)
	}
	f := &file{name: string(name)}
	from, err := c.dir.Open(f.name)
	if err != nil {
		return nil
	}
	defer from.Close()
	if f.info, err = from.Stat(); err != nil || !f.info.Mode().IsRegular() || f.info.Size() > smallFile || now.Sub(f.info.ModTime()) < fresh {
		return nil
	}
	f.body = make([]byte, f.info.Size())
	if _, err := io.ReadFull(from, f.body); err != nil {
		return nil
	}
	if after, err := from.Stat(); err != nil || !same(after, f.info) {
		return nil
	}
	f.modified = string(fasthttp.AppendHTTPDate(nil, f.info.ModTime()))
	f.looked.Store(now.UnixNano())
	return f
}

// put keeps a file, and forgets others, whichever, until it fits.
func (c *cache) put(path string, f *file) {
	if was := c.files[path]; was != nil {
		c.bytes -= len(was.body)
	}
	c.files[path] = f
	c.bytes += len(f.body)
	for other, o := range c.files {
		if c.bytes <= keptBytes && len(c.files) <= keptFiles {
			return
		}
		if other != path {
			delete(c.files, other)
			c.bytes -= len(o.body)
		}
	}
}

// forget drops a file, unless another has taken its place.
func (c *cache) forget(path string, f *file) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files[path] == f {
		delete(c.files, path)
		c.bytes -= len(f.body)
	}
}
