package body

import (
	"bytes"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

// readers are how a body comes to Net and Fast. limits' Dir is looked at afterwards.
var readers = map[string]func(contentType, text string, declared bool, l Limits) (*Body, error){
	"net/http": func(contentType, text string, declared bool, l Limits) (*Body, error) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(text))
		if r.Header.Set("Content-Type", contentType); !declared {
			r.ContentLength = -1
		}
		return Net(r, l)
	},
	"fasthttp": func(contentType, text string, declared bool, l Limits) (*Body, error) {
		var ctx fasthttp.RequestCtx
		ctx.Request.Header.SetContentType(contentType)
		if declared {
			ctx.Request.SetBodyStream(strings.NewReader(text), len(text))
			ctx.Request.Header.SetContentLength(len(text))
		} else {
			ctx.Request.SetBodyStream(strings.NewReader(text), -1)
		}
		return Fast(&ctx, l)
	},
	"fasthttp, whole": func(contentType, text string, declared bool, l Limits) (*Body, error) {
		var ctx fasthttp.RequestCtx
		ctx.Request.Header.SetContentType(contentType)
		ctx.Request.SetBodyString(text)
		return Fast(&ctx, l)
	},
}

// form is a multipart body: pairs of a value's name, or "file:" and a name, and a text.
func form(t *testing.T, pairs ...string) (contentType, text string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		var to io.Writer
		var err error
		if name, is := strings.CutPrefix(pairs[i], "file:"); is {
			to, err = w.CreateFormFile("upload", name)
		} else {
			to, err = w.CreateFormField(pairs[i])
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(to, pairs[i+1])
	}
	w.Close()
	return w.FormDataContentType(), b.String()
}

func TestBodies(t *testing.T) {
	multipartType, multipartText := form(t, "a", "1", "a", "2", "file:../../etc/x.txt", strings.Repeat("x", 5000))
	manyType, manyText := form(t, "a", "1", "b", "2", "c", "3", "d", "4", "e", "5", "f", "6")
	largeType, largeText := form(t, "file:x", strings.Repeat("x", 20_000))
	longType, longText := form(t, "a", strings.Repeat("x", 2000))
	limits := Limits{Bytes: 10_000, Memory: 1000, Fields: 5}
	for _, c := range []struct {
		name, contentType, text string
		status                  int    // 0: it is read
		want                    string // of an error a part
	}{
		{"JSON", "application/json; charset=utf-8", `{"a":1}`, 0, ""},
		{"JSON of a kind", "application/ld+json", `[]`, 0, ""},
		{"form", "application/x-www-form-urlencoded", "a=1&a=2&b=%20", 0, ""},
		{"multipart", multipartType, multipartText, 0, ""},
		{"no type", "", "{}", 415, "want application/json"},
		{"another type", "text/plain", "{}", 415, `"text/plain": want`},
		{"no type at all", "a b;;", "{}", 415, ""},
		{"no JSON", "application/json", `{"a":`, 400, "no JSON"},
		{"nothing", "application/json", "", 400, "no JSON"},
		{"two of JSON", "application/json", "{}{}", 400, "no JSON"},
		{"a bad escape", "application/x-www-form-urlencoded", "a=%zz", 400, "invalid URL escape"},
		{"no boundary", "multipart/form-data", "x", 400, "boundary"},
		{"cut", multipartType, multipartText[:len(multipartText)-300], 400, "multipart"},
		{"cut in a header", multipartType, multipartText[:60], 400, "multipart"},
		{"JSON too large", "application/json", `"` + strings.Repeat("x", 1000) + `"`, 413, "1000"},
		{"form too large", "application/x-www-form-urlencoded", "a=" + strings.Repeat("x", 1000), 413, "1000"},
		{"many fields", "application/x-www-form-urlencoded", "&&&&&&&", 413, "at most 5"},
		{"many parts", manyType, manyText, 413, "more than 5"},
		{"multipart too large", largeType, largeText, 413, "10000"},
		{"value too long", longType, longText, 413, "more than 1000"},
	} {
		for reader, read := range readers {
			for _, declared := range []bool{true, false} {
				limits.Dir = t.TempDir()
				b, err := read(c.contentType, c.text, declared, limits)
				if c.status != 0 {
					if err == nil || Status(err) != c.status || !strings.Contains(err.Error(), c.want) {
						t.Errorf("%s, %s: %v, want %d %q", c.name, reader, err, c.status, c.want)
					}
				} else if err != nil {
					t.Errorf("%s, %s: %v", c.name, reader, err)
				} else if err := look(c.name, b); err != nil {
					t.Errorf("%s, %s: %v: %+v", c.name, reader, err, b)
				} else if err := b.Close(); err != nil {
					t.Error(err)
				}
				if left, _ := filepath.Glob(limits.Dir + "/*"); len(left) > 0 {
					t.Errorf("%s, %s: %q is left behind", c.name, reader, left)
				}
			}
		}
	}
}

// look looks at a body that was read.
func look(name string, b *Body) error {
	switch name {
	case "JSON":
		var into struct{ A int }
		if err := b.Decode(&into); err != nil || into.A != 1 {
			return errors.Join(errors.New("decoded wrongly"), err)
		}
		if err := b.Decode(new(struct{ B int })); Status(err) != 400 {
			return errors.New("a field that there is not")
		}
	case "form":
		if b.Values.Encode() != "a=1&a=2&b=+" {
			return errors.New("wrong values")
		}
		if err := b.Decode(new(int)); Status(err) != 415 {
			return errors.New("a form is decoded as JSON")
		}
	case "multipart":
		if b.Values.Encode() != "a=1&a=2" || len(b.Files) != 1 {
			return errors.New("wrong values")
		}
		f := b.Files[0]
		text, err := os.ReadFile(f.Path)
		if err != nil || string(text) != strings.Repeat("x", 5000) || f.Size != 5000 || f.Name != "x.txt" || f.Field != "upload" || f.Type != "application/octet-stream" {
			return errors.Join(errors.New("wrong file"), err)
		}
	}
	return nil
}

// unread fails the test when it is read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("it was read")
	return 0, io.EOF
}

// What its length says is too large is not read, nor what is of no use.
func TestRefusedUnread(t *testing.T) {
	for _, c := range []struct {
		contentType, coding string
		length, status      int
	}{{"application/json", "", 5 << 20, 413}, {"text/plain", "", 1, 415}, {"application/json", "gzip", 1, 415}} {
		r := httptest.NewRequest("POST", "/", unread{t})
		r.ContentLength = int64(c.length)
		r.Header.Set("Content-Type", c.contentType)
		r.Header.Set("Content-Encoding", c.coding)
		if _, err := Net(r, Limits{}); Status(err) != c.status {
			t.Errorf("%+v: net/http: %v", c, err)
		}
		var ctx fasthttp.RequestCtx
		ctx.Request.SetBodyStream(unread{t}, c.length)
		ctx.Request.Header.SetContentLength(c.length)
		ctx.Request.Header.SetContentType(c.contentType)
		if c.coding != "" {
			ctx.Request.Header.SetContentEncoding(c.coding)
		}
		if _, err := Fast(&ctx, Limits{}); Status(err) != c.status {
			t.Errorf("%+v: fasthttp: %v", c, err)
		}
		ctx.Request.SetBodyStream(strings.NewReader(""), 0) // which the request would read when it is reset
	}
}

func TestTheEnginesLimitIs413(t *testing.T) {
	r := httptest.NewRequest("POST", "/", nil)
	r.Body = http.MaxBytesReader(httptest.NewRecorder(), io.NopCloser(strings.NewReader(strings.Repeat(" ", 100))), 10)
	r.ContentLength = -1
	r.Header.Set("Content-Type", "application/json")
	if _, err := Net(r, Limits{}); Status(err) != 413 {
		t.Errorf("%v", err)
	}
}

func TestNoRoomForFiles(t *testing.T) {
	contentType, text := form(t, "file:x", "x")
	for name, read := range readers {
		if _, err := read(contentType, text, true, Limits{Dir: filepath.Join(t.TempDir(), "none")}); Status(err) != 500 || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
