package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"drover/examples/internal/start"
)

func TestMain(m *testing.M) { start.Main(m, main) }

// What the memory is measured with: -size 10737418240 is 10 GiB.
var (
	size        = flag.Int64("size", 24<<20, "bytes of each upload and download")
	connections = flag.Int64("connections", 4, "of them at a time")
)

// perConnection bounds the memory of a stream, in bytes. The race detector has a
// multiple of its own (go.dev/doc/articles/race_detector: 5 to 10 times).
const perConnection = 4 << 20 * race

var engines = []string{"fasthttp", "nethttp"}

// endless reads as n zero bytes.
func endless(n int64) io.Reader { return io.LimitReader(zeros{}, n) }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What goes through a worker, either way, is never held: its memory does not grow.
func TestConstantMemory(t *testing.T) {
	t.Parallel()
	start.Both(t, func(t *testing.T, engine string) {
		p := start.Example(t, "ENGINE="+engine)
		upload := func(body io.Reader) (pid int, n int64, err error) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, p.URL+"/upload", body)
			if err != nil {
				return 0, 0, err
			}
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				return 0, 0, err
			}
			defer answer.Body.Close()
			_, err = fmt.Fscanf(answer.Body, "%d bytes, worker %d\n", &n, &pid)
			return pid, n, err
		}
		pid, _, err := upload(endless(1))
		if err != nil {
			t.Fatal(err)
		}
		before := start.PeakMemory(t, pid)
		for _, direction := range []struct {
			name string
			move func() (int64, error)
		}{
			{"up", func() (int64, error) { _, n, err := upload(endless(*size)); return n, err }},
			{"down", func() (int64, error) {
				answer, err := http.Get(p.URL + "/download?bytes=" + strconv.FormatInt(*size, 10))
				if err != nil {
					return 0, err
				}
				defer answer.Body.Close()
				return io.Copy(io.Discard, answer.Body)
			}},
		} {
			var all sync.WaitGroup
			for range *connections {
				all.Go(func() {
					if n, err := direction.move(); n != *size || err != nil {
						t.Errorf("%s: %d of %d bytes, %v", direction.name, n, *size, err)
					}
				})
			}
			all.Wait()
			grown := start.PeakMemory(t, pid) - before
			t.Logf("%s, %s: %d × %d MiB: %.1f MiB more than before, which was %.1f MiB", engine, direction.name, *connections, *size>>20, float64(grown)/(1<<20), float64(before)/(1<<20))
			if grown > *connections*perConnection {
				t.Errorf("%s: %d connections took %d bytes of memory, want at most %d each", direction.name, *connections, grown, perConnection)
			}
		}
	})
}

func TestEvents(t *testing.T) {
	t.Parallel()
	start.Both(t, func(t *testing.T, engine string) {
		p := start.Example(t, "ENGINE="+engine)
		ctx, leave := context.WithCancel(t.Context())
		answer := p.Do(t, p.Request(t, http.MethodGet, "/events", nil).WithContext(ctx))
		if kind := answer.Header.Get("Content-Type"); kind != "text/event-stream" {
			t.Errorf("Content-Type %q", kind)
		}
		in := bufio.NewReader(answer.Body)
		for n := 1; n <= 2; n++ {
			for _, want := range []string{"id: " + strconv.Itoa(n) + "\n", "data: it is ", "\n"} {
				if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, want) {
					t.Fatalf("%q, %v, want %q", line, err, want)
				}
			}
		}
		leave()
		// Another's end with the worker, whose drain does not wait for them.
		other := p.Do(t, p.Request(t, http.MethodGet, "/events", nil))
		if out := p.Stop(t); strings.Count(out, "has left, or is sent away") != 2 {
			t.Errorf("the writers of two clients' events did not both end:\n%s", out)
		}
		if _, err := io.Copy(io.Discard, other.Body); err != nil {
			t.Errorf("the events end with %v, want a good end", err)
		}
	})
}

// What is sent comes back before the request has ended.
func TestEcho(t *testing.T) {
	t.Parallel()
	start.Both(t, func(t *testing.T, engine string) {
		p := start.Example(t, "ENGINE="+engine)
		out, in := io.Pipe()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, p.URL+"/echo", out)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = in.Write([]byte("one")) }()
		answer := p.Do(t, r)
		for _, word := range []string{"one", "two"} {
			if word != "one" {
				if _, err := in.Write([]byte(word)); err != nil {
					t.Fatal(err)
				}
			}
			got := make([]byte, len(word))
			if _, err := io.ReadFull(answer.Body, got); err != nil || string(got) != word {
				t.Fatalf("%q, %v, want %q", got, err, word)
			}
		}
		in.Close()
		if _, err := answer.Body.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%v, want the end", err)
		}
	})
}

func TestBadNumber(t *testing.T) {
	t.Parallel()
	for _, engine := range engines {
		p := start.Example(t, "ENGINE="+engine)
		answer := p.Do(t, p.Request(t, http.MethodGet, "/download?bytes=many", nil))
		text, err := io.ReadAll(answer.Body)
		if answer.StatusCode != http.StatusBadRequest || err != nil || !bytes.Contains(text, []byte("want a number")) {
			t.Errorf("%s: %s %q, %v", engine, answer.Status, text, err)
		}
	}
}
