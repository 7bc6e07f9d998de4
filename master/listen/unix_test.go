package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"drover/config"
	"drover/internal/sys"
)

// unixAddress is a path of the test's own, short enough for a socket.
func unixAddress(t *testing.T) (address, path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "listen")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "app.sock")
	return "unix:" + path, path
}

func ask(t *testing.T, path string, g *Group) {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accept(t, g.Sockets()...)
}

// A path has its mode whatever the umask, one owner at a time, and is removed.
func TestUnixPath(t *testing.T) {
	address, path := unixAddress(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for want, mode := range map[fs.FileMode]fs.FileMode{0o666: 0, 0o660: 0o660} {
		g, err := Open(t.Context(), config.Listen{Address: address, Mode: mode}, false)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode %v, %v; want %v", info.Mode(), err, want)
		}
		ask(t, path, g)
		if fd, err := g.Socket(context.Background(), 7); err != nil || fd != g.Sockets()[0] || len(g.Sockets()) != 1 {
			t.Errorf("slot 7 has %d, %v, not the one socket", fd, err)
		}
		_, err = Open(t.Context(), config.Listen{Address: address}, false)
		var inUse *InUseError
		if !errors.As(err, &inUse) || inUse.Holder == nil || inUse.Holder.PID != os.Getpid() {
			t.Errorf("a second owner: %v, want the first one named", err)
		}
		ask(t, path, g)
		accept(t, g.Sockets()...) // the second owner's question, if anybody lived
		// Nobody new finds it, and what is queued stays.
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := g.RefuseNew(); err != nil {
			t.Error(err)
		}
		if _, err := net.Dial("unix", path); err == nil {
			t.Error("a late connection was let in")
		}
		accept(t, g.Sockets()...)
		g.Close()
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the path is still there: %v", err)
		}
	}
}

// What a dead process left is removed; what is no socket is not.
func TestUnixPathThatIsThere(t *testing.T) {
	address, path := unixAddress(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	g, err := Open(t.Context(), config.Listen{Address: address}, false)
	if err != nil {
		t.Fatal("a stale path:", err)
	}
	ask(t, path, g)
	g.Close()
	if err := os.WriteFile(path, []byte("a letter"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), config.Listen{Address: address}, false); err == nil || !strings.Contains(err.Error(), "is no socket: remove it, or listen elsewhere") {
		t.Errorf("a file: %v", err)
	}
	if text, err := os.ReadFile(path); string(text) != "a letter" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if _, err := Open(t.Context(), config.Listen{Address: address + "/no/app.sock"}, false); err == nil {
		t.Error("below a file: no error")
	}
	if _, err := Open(t.Context(), config.Listen{Address: strings.Replace(address, "app.sock", "no/app.sock", 1)}, false); err == nil || !strings.Contains(err.Error(), "its directory must be there") {
		t.Errorf("no directory: %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// Joining takes a path over in one step; what is queued at the old socket stays
// there, and its owner does not remove what is not its any more.
func TestUnixPathIsTakenOver(t *testing.T) {
	address, path := unixAddress(t)
	old, err := Open(t.Context(), config.Listen{Address: address}, false)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2 { // the one that took it is taken over in turn
		next, err := Open(t.Context(), config.Listen{Address: address}, true)
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		if h := findHolder(address); h == nil || h.PID != os.Getpid() {
			t.Errorf("holder: %v", h)
		}
		ask(t, path, next)
	}
	accept(t, old.Sockets()...)
	old.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Error("the old owner has removed the new one's path:", err)
	}
}

// A socket that was shut down refuses everybody for ever: another takes its place.
func TestUnixSocketThatWasShutDown(t *testing.T) {
	address, path := unixAddress(t)
	g, err := Open(t.Context(), config.Listen{Address: address, Mode: 0o640}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if found := g.Mend(); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
	if err := syscall.Shutdown(g.Sockets()[0], syscall.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("unix", path); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("the control: %v", err)
	}
	if found := g.Mend(); len(found) != 1 || found[0].Err != nil || !strings.Contains(found[0].What, "another has taken its place") {
		t.Errorf("found %+v", found)
	}
	ask(t, path, g)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if found := g.Mend(); len(found) != 0 {
		t.Errorf("found again %+v", found)
	}
}

func TestAbstractName(t *testing.T) {
	name := fmt.Sprintf("@drover-test-%d", os.Getpid())
	g, err := Open(t.Context(), config.Listen{Address: "unix:" + name}, false)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, name, g)
	_, err = Open(t.Context(), config.Listen{Address: "unix:" + name}, false)
	var inUse *InUseError
	if !errors.As(err, &inUse) || inUse.Holder == nil || inUse.Holder.PID != os.Getpid() {
		t.Errorf("a second owner: %v", err)
	}
	if _, err := Open(t.Context(), config.Listen{Address: "unix:" + name}, true); err == nil || !strings.Contains(err.Error(), "no second owner") {
		t.Errorf("joined: %v", err)
	}
	g.Close()
	if err := g.RefuseNew(); err != nil {
		t.Error(err)
	}
}

func TestActivatedServes(t *testing.T) {
	for _, c := range []struct {
		socket Activated
		listen config.Listen
		want   bool
	}{
		{Activated{Address: "[::]:3000"}, config.Listen{Address: ":3000", Name: ":3000"}, true},
		{Activated{Address: "0.0.0.0:3000"}, config.Listen{Address: ":3000"}, true},
		{Activated{Address: "127.0.0.1:3000"}, config.Listen{Address: "localhost:3000"}, true},
		{Activated{Address: "127.0.0.1:3000"}, config.Listen{Address: ":3000"}, false},
		{Activated{Address: "127.0.0.1:3000"}, config.Listen{Address: "127.0.0.1:3001"}, false},
		{Activated{Address: "127.0.0.1:3000", Name: "web"}, config.Listen{Address: ":80", Name: "web"}, true},
		{Activated{Address: "127.0.0.1:3000"}, config.Listen{Address: ":80", Name: ""}, false},
		{Activated{Address: "unix:/run/a"}, config.Listen{Address: "unix:/run/a"}, true},
		{Activated{Address: "unix:/run/a"}, config.Listen{Address: "unix:/run/b"}, false},
		{Activated{Address: "unix:/run/a"}, config.Listen{Address: ":80"}, false},
	} {
		if got := c.socket.Serves(c.listen); got != c.want {
			t.Errorf("%+v for %+v: %v", c.socket, c.listen, got)
		}
	}
}

// Who was not meant gets nothing, and its children are told nothing either.
func TestActivationOfAnother(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("LISTEN_FDNAMES", "web")
	if got, err := TakeActivated(); len(got) != 0 || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if text := os.Getenv("LISTEN_FDS") + os.Getenv("LISTEN_PID") + os.Getenv("LISTEN_FDNAMES"); text != "" {
		t.Errorf("the environment still says %q", text)
	}
	t.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
	t.Setenv("LISTEN_FDS", "many")
	if _, err := TakeActivated(); err == nil || !strings.Contains(err.Error(), `LISTEN_FDS is "many"`) {
		t.Errorf("a bad number: %v", err)
	}
}

// What a service manager keeps is neither muted nor mended by us.
func TestKeptSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd int
	if err := raw.Control(func(n uintptr) { fd, err = sys.Dup(int(n)) }); err != nil {
		t.Fatal(err)
	}
	g := Adopt(Activated{FD: fd, Address: l.Addr().String()}, "")
	if found := g.Mend(); len(found) != 0 || g.Name != g.Address || !g.Kept() || !g.Shared() {
		t.Errorf("%+v, found %+v", g, found)
	}
	if err := g.RefuseNew(); err != nil {
		t.Error(err)
	}
	if err := g.Steer([]int{1}); err != nil {
		t.Error(err)
	}
	g.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal("the service manager's socket is harmed:", err)
	}
	conn.Close()
}
