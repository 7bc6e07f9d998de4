// Package body reads the bodies of requests on both engines: JSON, forms, and
// multipart, whose files go to the disk, all within limits. What is too large is
// refused before it is read, where its length says so.
package body

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/valyala/fasthttp"
)

// Limits bound a body. The zero value of each field is what is written there. The
// engine's own bound, HTTP.BodyBytes of the Config, holds too.
type Limits struct {
	// Bytes bounds the whole body. 0 is 4 MiB.
	Bytes int64
	// Memory bounds what of it is kept in memory: JSON, and a form's values and names.
	// 0 is 1 MiB.
	Memory int64
	// Fields bounds the values of a form and its files, taken together. 0 is 1000.
	Fields int
	// Dir is where files are put. Empty is os.TempDir's.
	Dir string
}

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = 4 << 20
	}
	if l.Memory == 0 {
		l.Memory = 1 << 20
	}
	if l.Fields == 0 {
		l.Fields = 1000
	}
	return l
}

// Error is why a body was not read, and the status to answer with: 400, 413 or 415.
type Error struct {
	Status int
	Why    string
}

func (e *Error) Error() string { return e.Why }

// Status is the status to answer an error of this package with: an Error's, or 400.
func Status(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return http.StatusBadRequest
}

func refused(status int, format string, args ...any) error {
	return &Error{status, fmt.Sprintf(format, args...)}
}

// Body is what a request has brought. Close it: its files are removed.
type Body struct {
	// JSON is the text of a body of JSON, whole and well-formed. Nil of others.
	JSON json.RawMessage
	// Values are those of a form, without its files. Nil of JSON.
	Values url.Values
	// Files are those of a multipart form, in their order.
	Files []File
}

// File is one that was sent, on the disk.
type File struct {
	Field string // its name in the form
	Name  string // as the client calls it: without a directory, but else not to be trusted
	Type  string // as the client says
	Path  string // where it is; Close removes it, unless it was moved away
	Size  int64  // bytes
}

// Decode puts JSON into a variable, as json.Unmarshal does, and refuses fields that
// it has not.
func (b *Body) Decode(into any) error {
	if b.JSON == nil {
		return refused(http.StatusUnsupportedMediaType, "a form: want JSON, application/json")
	}
	d := json.NewDecoder(bytes.NewReader(b.JSON))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return refused(http.StatusBadRequest, "the JSON does not fit: %v", err)
	}
	return nil
}

// Close removes the files that are still where they were put.
func (b *Body) Close() error {
	var errs []error
	for _, f := range b.Files {
		if err := os.Remove(f.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Net reads the body of a net/http request. It blocks while the body arrives.
func Net(r *http.Request, l Limits) (*Body, error) {
	return read(r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding"), r.ContentLength, r.Body, l)
}

// Fast reads the body of a fasthttp request. It blocks while the body arrives, where
// the server has StreamRequestBody, and should have DisablePreParseMultipartForm:
// without them a body was held whole in memory before the handler was called.
func Fast(ctx *fasthttp.RequestCtx, l Limits) (*Body, error) {
	h := &ctx.Request.Header
	var from io.Reader = ctx.RequestBodyStream()
	if !ctx.Request.IsBodyStream() {
		from = bytes.NewReader(ctx.PostBody())
	}
	return read(string(h.ContentType()), string(h.ContentEncoding()), int64(h.ContentLength()), from, l)
}

// The types that are read.
const (
	typeJSON      = "application/json"
	typeForm      = "application/x-www-form-urlencoded"
	typeMultipart = "multipart/form-data"
)

// read reads a body. A negative length is none that is known.
func read(contentType, coding string, length int64, from io.Reader, l Limits) (*Body, error) {
	l = l.withDefaults()
	kind, parameters, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		return nil, refused(http.StatusUnsupportedMediaType, "Content-Type %.100q: %v", contentType, err)
	}
	boundary := parameters["boundary"]
	switch {
	case kind != typeJSON && kind != typeForm && kind != typeMultipart && !strings.HasSuffix(kind, "+json"):
		return nil, refused(http.StatusUnsupportedMediaType, "Content-Type %.100q: want %s, %s or %s", contentType, typeJSON, typeForm, typeMultipart)
	case coding != "" && !strings.EqualFold(coding, "identity"):
		return nil, refused(http.StatusUnsupportedMediaType, "Content-Encoding %.100q: want a body as it is", coding)
	case kind == typeMultipart && boundary == "":
		return nil, refused(http.StatusBadRequest, "Content-Type %.100q without a boundary (RFC 2046, section 5.1.1)", contentType)
	}
	most := l.Bytes
	if kind != typeMultipart {
		most = min(most, l.Memory)
	}
	if length > most {
		return nil, refused(http.StatusRequestEntityTooLarge, "a body of %d bytes: want at most %d", length, most)
	}
	in := &bounded{from: from, left: most, most: most}
	b := &Body{}
	switch kind {
	case typeMultipart:
		err = b.multipart(multipart.NewReader(in, boundary), l)
	case typeForm:
		err = b.form(in, l)
	default:
		err = b.json(in)
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// bounded refuses to read more than most.
type bounded struct {
	from       io.Reader
	left, most int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.from.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		return 0, refused(http.StatusRequestEntityTooLarge, "a body of more than %d bytes", b.most)
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		err = refused(http.StatusRequestEntityTooLarge, "a body of more than %d bytes", large.Limit)
	}
	return n, err
}

// all reads a body that is kept in memory.
func all(in io.Reader) ([]byte, error) {
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, failed(err)
	}
	return text, nil
}

// failed is an error of reading.
func failed(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return fmt.Errorf("read the body: %w", err)
}

func (b *Body) json(in io.Reader) error {
	text, err := all(in)
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		return refused(http.StatusBadRequest, "the body is no JSON: %v", err)
	}
	b.JSON = raw
	return nil
}

func (b *Body) form(in io.Reader, l Limits) error {
	text, err := all(in)
	if err != nil {
		return err
	}
	if n := bytes.Count(text, []byte("&")) + 1; n > l.Fields {
		return refused(http.StatusRequestEntityTooLarge, "a form of %d fields: want at most %d", n, l.Fields)
	}
	if b.Values, err = url.ParseQuery(string(text)); err != nil {
		return refused(http.StatusBadRequest, "the form: %v", err)
	}
	return nil
}

func (b *Body) multipart(in *multipart.Reader, l Limits) error {
	b.Values = url.Values{}
	memory := l.Memory
	for n := 1; ; n++ {
		part, err := in.NextPart()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return malformed(err)
		case n > l.Fields:
			return refused(http.StatusRequestEntityTooLarge, "a form of more than %d fields", l.Fields)
		}
		name := part.FormName()
		memory -= int64(len(name))
		if part.FileName() != "" {
			if err := b.file(part, name, l.Dir); err != nil {
				return err
			}
			continue
		}
		text, err := io.ReadAll(io.LimitReader(part, memory+1))
		if err != nil {
			return malformed(err)
		}
		if memory -= int64(len(text)); memory < 0 {
			return refused(http.StatusRequestEntityTooLarge, "the form's values have more than %d bytes", l.Memory)
		}
		b.Values.Add(name, string(text))
	}
}

// malformed is an error of a multipart reader.
func malformed(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return refused(http.StatusBadRequest, "the multipart body: %v", err)
}

// file puts a file on the disk, under a name of its own.
func (b *Body) file(part *multipart.Part, field, dir string) error {
	f, err := os.CreateTemp(dir, "upload-*")
	if err != nil {
		return &Error{http.StatusInternalServerError, fmt.Sprintf("keep a file of the form: %v", err)}
	}
	b.Files = append(b.Files, File{Field: field, Name: part.FileName(), Type: part.Header.Get("Content-Type"), Path: f.Name()})
	n, err := io.Copy(onlyWriter{f}, part)
	b.Files[len(b.Files)-1].Size = n
	closeErr := f.Close()
	var disk *os.PathError
	switch {
	case errors.As(err, &disk) && disk.Path == f.Name(), err == nil && closeErr != nil:
		return &Error{http.StatusInsufficientStorage, fmt.Sprintf("keep a file of the form: %v", errors.Join(err, closeErr))}
	case err != nil:
		return malformed(err)
	}
	return nil
}

// onlyWriter hides ReadFrom, which would only ask the kernel in vain.
type onlyWriter struct{ io.Writer }
