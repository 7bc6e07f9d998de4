package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"drover/config"
)

// path is the name of a unix socket in the file system.
type path struct {
	name string
	file os.FileInfo // of our socket, which the name may have stopped to mean
}

// remove removes the name, if it still is our socket's: no new connection finds
// it then. A nil path has none.
func (p *path) remove() error {
	if p == nil || p.file == nil {
		return nil
	}
	now, err := os.Lstat(p.name)
	if err == nil && os.SameFile(now, p.file) {
		err = os.Remove(p.name)
	}
	p.file = nil
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// openUnix binds a unix socket, by its path or its abstract name. A path that a
// dead process left is removed; one whose socket is alive is in use. With join
// it is ours from now on, in one step, while the workers of a master that died
// answer what is queued at the old one.
func openUnix(ctx context.Context, l config.Listen, name string, join bool) (*Group, error) {
	if l.Mode == 0 {
		l.Mode = 0o666
	}
	g := &Group{Name: l.Name, Address: l.Address, asked: config.Shared, network: "unix"}
	abstract := strings.HasPrefix(name, "@")
	listen := func(name string) error {
		control := func(_, _ string, c syscall.RawConn) error {
			var err error
			// What is bound gets the socket's own mode, less the umask
			// (net/unix/af_unix.c, unix_bind_bsd): never more than asked for.
			if ctlErr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), uint32(l.Mode)) }); ctlErr != nil {
				return ctlErr
			}
			return err
		}
		fd, _, err := bind(ctx, net.ListenConfig{Control: control}, "unix", name)
		if err != nil {
			return err
		}
		g.sockets = []int{fd}
		if !abstract {
			err = os.Chmod(name, l.Mode) // without the umask
		}
		return err
	}
	err := listen(name)
	inUse := errors.Is(err, syscall.EADDRINUSE)
	switch {
	case inUse && abstract && join:
		err = errors.New("workers that a killed master left still have this abstract name, which has no second owner: start again when they have ended")
	case inUse && abstract:
		err = &InUseError{Address: l.Address, Holder: findHolder(l.Address)}
	case inUse && join:
		_ = os.Remove(name + taking)
		if err = listen(name + taking); err == nil {
			err = os.Rename(name+taking, name)
		}
	case inUse:
		if err = removeStale(l.Address, name); err == nil {
			err = listen(name)
		}
	}
	if err == nil && !abstract {
		g.path = &path{name: name}
		g.path.file, err = os.Lstat(name)
	}
	if err != nil {
		g.Close()
		return nil, explain(l.Address, err)
	}
	return g, nil
}

// replace puts another socket in the place of one that a worker has shut down.
func (g *Group) replace() error {
	if g.kept || g.path == nil {
		return errors.New("it has no path by which another could take its place: restart drover")
	}
	l := config.Listen{Name: g.Name, Address: g.Address, Mode: g.path.file.Mode().Perm()}
	next, err := openUnix(context.Background(), l, g.path.name, true)
	if err != nil {
		return err
	}
	g.Close() // its path is the other's by now
	g.sockets, g.path = next.sockets, next.path
	return nil
}

// taking is behind the path of a socket until it takes the place of another's,
// and in /proc/net/unix for ever.
const taking = ".new"

// removeStale removes the path of a socket that nobody listens on any more. It
// is moved aside first: what another has bound there meanwhile is put back.
func removeStale(address, name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there already, and is no socket: remove it, or listen elsewhere", name)
	}
	if alive(name) {
		return &InUseError{Address: address, Holder: findHolder(address)}
	}
	aside := name + ".old"
	if err := os.Rename(name, aside); err != nil {
		return err
	}
	if alive(aside) {
		_ = os.Rename(aside, name)
		return &InUseError{Address: address, Holder: findHolder(address)}
	}
	return os.Remove(aside)
}

// alive reports whether somebody listens on a unix socket, as far as can be
// known: who may not even ask must not take it.
func alive(name string) bool {
	conn, err := net.Dial("unix", name)
	if err == nil {
		conn.Close()
	}
	return !errors.Is(err, syscall.ECONNREFUSED)
}
