package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"drover/worker/middleware"

	"github.com/valyala/fasthttp"
)

// site serves the files below a directory.
type site struct {
	kept *cache
	// compressing has a token while a file is compressed: one at a time, and who
	// comes meanwhile gets the file as it is.
	compressing chan struct{}
}

// maxCompressed bounds the files that are compressed, in bytes: half a second of a
// CPU's time, once.
const maxCompressed = 4 << 20

// newSite opens the directory; its error says what is wrong with it.
func newSite(root string) (*site, error) {
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", root, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", root, err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("serve %s: it is a file: want a directory", root)
	}
	// os.Root keeps every lookup below the directory, links included. It stays
	// open as long as the worker lives.
	dir, err := os.OpenRoot(real)
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", root, err)
	}
	return &site{kept: newCache(dir), compressing: make(chan struct{}, 1)}, nil
}

// errDirectory is what a directory without a slash behind it is answered by.
var errDirectory = errors.New("a directory")

// errNoFile is what is neither a file nor a directory: opening it might wait.
var errNoFile = errors.New("neither a file nor a directory")

// hidden reports whether a path is of nothing that is served: names that begin
// with '.', but for /.well-known/ (RFC 8615).
func hidden(path []byte) bool {
	return bytes.IndexByte(path, 0) >= 0 || bytes.Contains(bytes.TrimPrefix(path, []byte("/.well-known")), []byte("/."))
}

// serve answers a GET or HEAD.
func (s *site) serve(ctx *fasthttp.RequestCtx) {
	asked := ctx.Path()
	if hidden(asked) {
		s.notFound(ctx)
		return
	}
	w := wishesOf(&ctx.Request.Header)
	f, h, err := s.find(&w, asked)
	switch {
	case err == errDirectory:
		redirect(ctx)
	case err != nil:
		s.refuse(ctx, err)
	default:
		s.answer(ctx, &w, f, h)
	}
}

// find gives a path's file. Of one that is not kept a descriptor is open, which the
// caller gives back to the cache.
func (s *site) find(w *wishes, asked []byte) (*file, *os.File, error) {
	if f := s.kept.find(asked); f != nil {
		return f, nil, nil
	}
	now := time.Now()
	f := &file{path: string(asked), name: strings.Trim(string(asked), "/")}
	if strings.HasSuffix(f.path, "/") {
		f.name = path.Join(f.name, "index.html")
	}
	h, err := openRegular(s.kept.dir, f.name)
	if err != nil {
		return nil, nil, err
	}
	if err := f.describe(h, now); err != nil {
		h.Close()
		return nil, nil, err
	}
	if s.kept.again(f.path, now) || f.compressible && middleware.Negotiate(w.accepts) != "" {
		s.kept.keep(f, h)
	}
	return f, h, nil
}

// openRegular opens a file, and waits for nothing: a FIFO would keep it until
// somebody writes (open(2), O_NONBLOCK). A directory is errDirectory.
func openRegular(dir *os.Root, name string) (*os.File, error) {
	h, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := h.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = errDirectory
	case !info.Mode().IsRegular():
		err = errNoFile
	default:
		return h, nil
	}
	h.Close()
	return nil, err
}

// describe fills in what is said of a file.
func (f *file) describe(h *os.File, now time.Time) (err error) {
	if f.info, err = h.Stat(); err != nil {
		return err
	}
	f.looked.Store(now.UnixNano())
	f.settled = now.Sub(f.info.ModTime()) >= fresh
	f.modified = fasthttp.AppendHTTPDate(nil, f.info.ModTime())
	f.weak = strconv.AppendInt([]byte(`W/"`), f.info.ModTime().UnixNano(), 36)
	f.weak = append(strconv.AppendInt(append(f.weak, '-'), f.info.Size(), 36), '"')
	f.tag = f.weak[len("W/"):]
	if !f.settled {
		f.tag = f.weak
	}
	if f.kind = mime.TypeByExtension(filepath.Ext(f.name)); f.kind == "" {
		begin := make([]byte, 512) // what DetectContentType looks at
		n, err := h.ReadAt(begin, 0)
		if err != nil && err != io.EOF {
			return err
		}
		f.kind = http.DetectContentType(begin[:n])
	}
	f.compressible = f.info.Size() >= middleware.MinCompressed && f.info.Size() <= maxCompressed && middleware.Compressible(f.kind)
	return nil
}

// redirect sends a client to the directory's own path (RFC 9110, section 15.4.2).
func redirect(ctx *fasthttp.RequestCtx) {
	uri := fasthttp.AcquireURI()
	defer fasthttp.ReleaseURI(uri)
	ctx.URI().CopyTo(uri)
	uri.SetPathBytes(append(ctx.Path(), '/'))
	ctx.Response.Header.SetBytesV(fasthttp.HeaderLocation, uri.RequestURI())
	plain(ctx, fasthttp.StatusMovedPermanently, "moved\n")
}

// refuse answers what could not be opened: the client asked for nothing that there
// is, or the machine has refused, which is worth a line.
func (s *site) refuse(ctx *fasthttp.RequestCtx, err error) {
	for _, ours := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EIO, syscall.EACCES, syscall.EPERM} {
		if !errors.Is(err, ours) {
			continue
		}
		slog.Warn("cannot open a file", "path", string(ctx.Path()), "error", err)
		if ours != syscall.EACCES && ours != syscall.EPERM {
			plain(ctx, fasthttp.StatusServiceUnavailable, "try again\n")
			return
		}
	}
	s.notFound(ctx)
}

// notFoundPage is what is answered for files that there are not, where the
// directory has it.
var notFoundPage = []byte("/404.html")

// notFound answers 404, with the directory's own page where it has one.
func (s *site) notFound(ctx *fasthttp.RequestCtx) {
	w := wishesOf(&ctx.Request.Header)
	w.part = nil // of the page all is sent
	f, h, err := s.find(&w, notFoundPage)
	if err != nil {
		notFound(ctx)
		return
	}
	ctx.SetStatusCode(fasthttp.StatusNotFound)
	s.whole(ctx, f, h, w.coding(ctx, f))
}

// coding is what a file is to be compressed by, or "". A part is one of the file as
// it is.
func (w *wishes) coding(ctx *fasthttp.RequestCtx, f *file) string {
	if !f.compressible {
		return ""
	}
	ctx.Response.Header.Add(fasthttp.HeaderVary, fasthttp.HeaderAcceptEncoding)
	if !f.settled || len(w.part) > 0 {
		return "" // what is not settled is not kept, and would be compressed for each request
	}
	return middleware.Negotiate(w.accepts)
}

// The names of fields that each file has, as fasthttp writes them: put in so, they
// are not made canonical for each request.
var (
	keyETag     = []byte("Etag")
	keyModified = []byte(fasthttp.HeaderLastModified)
	keyRanges   = []byte(fasthttp.HeaderAcceptRanges)
	unitBytes   = []byte("bytes")
)

// answer answers with a file, or a part of it, or what the request's conditions
// come to. h is open for it, or nil.
func (s *site) answer(ctx *fasthttp.RequestCtx, w *wishes, f *file, h *os.File) {
	as := w.coding(ctx, f)
	tag := f.tag
	if as != "" {
		tag = f.weak
	}
	header := &ctx.Response.Header
	header.SetCanonical(keyETag, tag)
	header.SetCanonical(keyModified, f.modified)
	header.SetCanonical(keyRanges, unitBytes)
	switch w.conditions(tag, f.info.ModTime()) {
	case notModified:
		s.done(f, h)
		ctx.Response.ResetBody()
		ctx.SetStatusCode(fasthttp.StatusNotModified)
		return
	case failed:
		s.done(f, h)
		plain(ctx, fasthttp.StatusPreconditionFailed, "the file is another\n")
		return
	}
	if !ctx.IsGet() || len(w.part) == 0 { // defined for GET alone (RFC 9110, section 14.2)
		s.whole(ctx, f, h, as)
		return
	}
	if len(w.ifPart) > 0 && !sameFile(w.ifPart, f.tag, f.modified) {
		s.whole(ctx, f, h, "")
		return
	}
	size := f.info.Size()
	parts, ok := ranges(string(w.part), size)
	switch {
	case !ok:
		s.done(f, h)
		header.Set(fasthttp.HeaderContentRange, "bytes */"+strconv.FormatInt(size, 10))
		plain(ctx, fasthttp.StatusRequestedRangeNotSatisfiable, "the file has "+strconv.FormatInt(size, 10)+" bytes\n")
	case len(parts) == 0:
		s.whole(ctx, f, h, "")
	case len(parts) == 1:
		header.Set(fasthttp.HeaderContentRange, parts[0].contentRange(size))
		ctx.SetStatusCode(fasthttp.StatusPartialContent)
		ctx.SetContentType(f.kind)
		s.part(ctx, f, h, parts[0])
	default:
		s.several(ctx, f, h, parts)
	}
}

// done gives a descriptor back, where there is one.
func (s *site) done(f *file, h *os.File) {
	if h != nil {
		s.kept.release(f, h)
	}
}

// whole answers with all of a file, compressed where that is worth it.
func (s *site) whole(ctx *fasthttp.RequestCtx, f *file, h *os.File, as string) {
	ctx.SetContentType(f.kind)
	if as != "" {
		if body := s.encode(f, h, as); len(body) > 0 {
			s.done(f, h)
			ctx.Response.Header.SetContentEncoding(as)
			send(ctx, body)
			return
		}
	}
	s.part(ctx, f, h, span{0, f.info.Size()})
}

// send answers with a body that is nobody's to write to.
func send(ctx *fasthttp.RequestCtx, body []byte) {
	ctx.Response.SetBodyRaw(body)
	if ctx.IsHead() {
		ctx.Response.SkipBody = true
		ctx.Response.Header.SetContentLength(len(body))
	}
}

// part answers with a part of a file, or all of it.
func (s *site) part(ctx *fasthttp.RequestCtx, f *file, h *os.File, p span) {
	switch {
	case f.body != nil:
		s.done(f, h)
		send(ctx, f.body[p.start:p.start+p.length])
		return
	case ctx.IsHead():
		s.done(f, h)
		ctx.Response.SkipBody = true
		ctx.Response.Header.SetContentLength(int(p.length))
		return
	}
	h, err := s.opened(f, h)
	if err == nil {
		_, err = h.Seek(p.start, io.SeekStart)
	}
	if err != nil {
		s.done(f, h)
		s.vanished(ctx, f, err)
		return
	}
	ctx.SetBodyStream(&piece{site: s, file: f, from: h, left: p.length}, int(p.length))
}

// opened gives a descriptor of a file: h where there is one.
func (s *site) opened(f *file, h *os.File) (*os.File, error) {
	if h != nil {
		return h, nil
	}
	return s.kept.open(f)
}

// vanished answers for a file that is not there any more as it was.
func (s *site) vanished(ctx *fasthttp.RequestCtx, f *file, err error) {
	s.kept.forget(f)
	ctx.Response.Reset()
	s.refuse(ctx, err)
}

// piece is a body that is read from a file, by the kernel where it can.
type piece struct {
	site *site
	file *file
	from *os.File
	left int64
}

func (p *piece) Read(into []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n, err := p.from.Read(into[:min(int64(len(into)), p.left)])
	p.left -= int64(n)
	return n, err
}

// WriteTo lets the connection take the file itself (sendfile(2)).
func (p *piece) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, &io.LimitedReader{R: p.from, N: p.left})
	p.left -= n
	return n, err
}

// Close is called by fasthttp once the answer is sent.
func (p *piece) Close() error {
	p.site.kept.release(p.file, p.from)
	return nil
}

// several answers with several parts (RFC 9110, section 14.6).
func (s *site) several(ctx *fasthttp.RequestCtx, f *file, h *os.File, parts []span) {
	var from io.ReaderAt = bytes.NewReader(f.body)
	if f.body == nil {
		var err error
		if h, err = s.opened(f, h); err != nil {
			s.vanished(ctx, f, err)
			return
		}
		from = h
	}
	// A file of which the boundary is part would break it: the tag makes it as good
	// as unique to this one, and the parts have lengths.
	boundary := "drover-" + strings.Trim(string(f.weak), `W/"`)
	var all []io.Reader
	length := int64(0)
	text := func(t string) { all, length = append(all, strings.NewReader(t)), length+int64(len(t)) }
	for _, p := range parts {
		text("\r\n--" + boundary + "\r\nContent-Type: " + f.kind + "\r\nContent-Range: " + p.contentRange(f.info.Size()) + "\r\n\r\n")
		all, length = append(all, io.NewSectionReader(from, p.start, p.length)), length+p.length
	}
	text("\r\n--" + boundary + "--\r\n")
	ctx.SetStatusCode(fasthttp.StatusPartialContent)
	ctx.SetContentType("multipart/byteranges; boundary=" + boundary)
	ctx.SetBodyStream(&pieces{io.MultiReader(all...), func() { s.done(f, h) }}, int(length))
}

// pieces are several parts of a file as a body.
type pieces struct {
	io.Reader
	done func()
}

func (p *pieces) Close() error { p.done(); return nil }

// encode gives what a file is compressed to, or nothing: it is not worth it, or
// another file is being compressed right now.
func (s *site) encode(f *file, h *os.File, as string) []byte {
	coding := slices.Index(middleware.Codings[:], as)
	if done := f.encoded[coding].Load(); done != nil {
		return *done
	}
	select {
	case s.compressing <- struct{}{}:
		defer func() { <-s.compressing }()
	default:
		return nil
	}
	text := f.body
	if text == nil {
		from, err := s.opened(f, h)
		if err != nil {
			return nil // who serves it as it is finds out why
		}
		text = make([]byte, f.info.Size())
		n, _ := from.ReadAt(text, 0)
		if h == nil {
			s.kept.release(f, from)
		}
		if n < len(text) {
			return nil
		}
	}
	body := middleware.Compressed(as, text)
	if len(body) > len(text)-len(text)/10 {
		body = []byte{} // it does not get smaller by a tenth
	}
	s.kept.encodedAs(f, coding, body)
	return body
}
