package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a master whose answers the test writes.
type fake struct {
	status  Status
	app     []Family
	reload  chan error
	slot    chan int
	stopped chan struct{}
	sent    chan string
}

func (f *fake) Status(context.Context) (Status, error) { return f.status, nil }
func (f *fake) AppMetrics(context.Context) []Family    { return f.app }
func (f *fake) Reload(context.Context) error           { return <-f.reload }
func (f *fake) Restart(_ context.Context, slot int) error {
	f.slot <- slot
	return nil
}
func (f *fake) Scale(_ context.Context, workers int) error {
	f.slot <- workers
	return nil
}
func (f *fake) Stop(context.Context) error { close(f.stopped); return nil }
func (f *fake) Send(_ context.Context, slot int, value json.RawMessage) error {
	f.sent <- fmt.Sprintf("%d %s", slot, value)
	return nil
}
func (f *fake) Messages(ctx context.Context, each func(Message) error) error {
	for value := range f.sent {
		if err := each(Message{Slot: 1, ID: 2, PID: 3, Message: json.RawMessage(value)}); err != nil {
			return err
		}
	}
	return nil
}

func serve(t *testing.T, dir, name string) *fake {
	t.Helper()
	inst, err := Claim(dir, name, true)
	if err != nil {
		t.Fatal(err)
	}
	l, err := inst.Listen()
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{status: Status{Name: name, PID: 7}, reload: make(chan error, 1), slot: make(chan int, 1), sent: make(chan string, 3), stopped: make(chan struct{})}
	s := Serve(l, f)
	t.Cleanup(func() { s.Close(time.Second); inst.Release() })
	return f
}

func TestClientAsksAndServerAnswers(t *testing.T) {
	dir := t.TempDir()
	f := serve(t, dir, "api")
	c, err := Dial(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := c.Status(t.Context()); err != nil || s.Name != "api" || s.PID != 7 {
		t.Errorf("Status = %+v, %v", s, err)
	}
	f.reload <- errors.New("generation 2 died at once")
	if err := c.Reload(t.Context()); err == nil || err.Error() != "generation 2 died at once" {
		t.Errorf("a failed reload: %v, want the master's own words", err)
	}
	f.reload <- nil
	if err := c.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Scale(t.Context(), 5); err != nil || <-f.slot != 5 {
		t.Errorf("scale: %v", err)
	}
	if err := c.Restart(t.Context(), 3); err != nil || <-f.slot != 3 {
		t.Error(err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	<-f.stopped
}

func TestSocketIsTheUsersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	serve(t, dir, "api")
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, "api.sock"): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode().Perm(), err, want)
		}
	}
	called := false
	h := sameUser(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
	for uid, want := range map[int]bool{0: true, os.Geteuid(): true, 12345: false, -1: false} {
		called = false
		req, _ := http.NewRequestWithContext(context.WithValue(t.Context(), peerKey{}, uid), "GET", "/", nil)
		h.ServeHTTP(discard{}, req)
		if called != want {
			t.Errorf("user %d let in: %v, want %v", uid, called, want)
		}
	}
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	if _, err := Dial(dir, ""); !errors.Is(err, ErrNoMaster) || !strings.Contains(err.Error(), dir) {
		t.Errorf("with none running: %v", err)
	}
	serve(t, dir, "api")
	var taken *TakenError
	if _, err := Claim(dir, "api", true); !errors.As(err, &taken) || !strings.Contains(err.Error(), `"api"`) {
		t.Errorf("the name of a living master: %v, want a TakenError", err)
	}
	second, err := Claim(dir, "api", false)
	if err != nil || second.Name != "api-2" {
		t.Fatalf("a default name that is taken: %+v, %v; want api-2", second, err)
	}
	second.Release()
	serve(t, dir, "web")
	names, err := Names(dir)
	if !slices.Equal(names, []string{"api", "web"}) || err != nil {
		t.Errorf("Names = %v, %v", names, err)
	}
	if _, err := Dial(dir, ""); err == nil || !strings.Contains(err.Error(), "api, web") {
		t.Errorf("with two running: %v, want both named", err)
	}
	c, err := Dial(dir, "wbe")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "running: api, web") {
		t.Errorf("a name that is none's: %v, want those that run", err)
	}
}

func TestSuccessorFindsTheOrphans(t *testing.T) {
	dir := t.TempDir()
	living := exec.Command("sleep", "1000")
	dead := exec.Command("true")
	for _, cmd := range []*exec.Cmd{living, dead} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	dead.Wait()
	t.Cleanup(func() { living.Process.Kill(); living.Wait() })

	inst, err := Claim(dir, "api", true)
	if err != nil {
		t.Fatal(err)
	}
	if len(inst.Orphans) != 0 {
		t.Errorf("a first master has orphans: %v", inst.Orphans)
	}
	if err := inst.Record([]int{living.Process.Pid, dead.Process.Pid}); err != nil {
		t.Fatal(err)
	}
	if name := NameOf(dir, living.Process.Pid); name != "api" {
		t.Errorf("NameOf a worker = %q", name)
	}
	// Killed: the lock is gone, the files are not.
	inst.lock.Close()
	next, err := Claim(dir, "api", false)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Release()
	if next.Name != "api" || len(next.Orphans) != 1 || next.Orphans[0].PID != living.Process.Pid {
		t.Errorf("the successor is %q with orphans %v, want api with process %d", next.Name, next.Orphans, living.Process.Pid)
	}
	reused := Process{PID: living.Process.Pid, Start: 1}
	if reused.Alive() {
		t.Error("a process with another start time is taken for the recorded one")
	}
}

func TestMessages(t *testing.T) {
	dir := t.TempDir()
	f := serve(t, dir, "api")
	c, err := Dial(dir, "api")
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{`{"a": [1, "b"]}`: `3 {"a":[1,"b"]}`, "\"é\"\n": `3 "é"`} {
		if err := c.Send(t.Context(), 3, []byte(value)); err != nil || <-f.sent != want {
			t.Errorf("%s: %v", value, err)
		}
	}
	if err := c.Send(t.Context(), -1, []byte("1")); err != nil || <-f.sent != "-1 1" {
		t.Error(err)
	}
	for value, want := range map[string]string{"hello": `"hello" is no JSON`, "": `"" is no JSON`, "1 2": `"1 2" is no JSON`, strings.Repeat("1", maxMessage+1): "more than 4 MiB"} {
		if err := c.Send(t.Context(), 0, []byte(value)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20s: %v", value, err)
		}
	}
	f.sent <- `"<one>"`
	f.sent <- `2`
	close(f.sent)
	var got []string
	err = c.Messages(t.Context(), func(m Message) error {
		got = append(got, fmt.Sprintf("%d %d %d %s", m.Slot, m.ID, m.PID, m.Message))
		return nil
	})
	if want := []string{`1 2 3 "<one>"`, "1 2 3 2"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}
