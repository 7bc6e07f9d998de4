package worker

import (
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"

	"drover/internal/sys"
	"drover/ipc"
)

// inheritance is what the master started this process with.
type inheritance struct {
	conn      *ipc.Conn
	listeners []int // own socket of each address, in the order of the welcome's
	names     []string
}

// takeInheritance reads the environment and removes from it what is this
// process's alone, and keeps its descriptors from its children.
func takeInheritance() (*inheritance, error) {
	if err := sys.CloexecFrom(ipc.FirstFD); err != nil {
		return nil, err
	}
	env := map[string]string{}
	for _, name := range []string{ipc.EnvChannel, ipc.EnvListenPID, ipc.EnvListenFDs, ipc.EnvListenNames} {
		env[name] = os.Getenv(name)
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if own, added := strings.CutSuffix(os.Getenv(ipc.EnvGodebug), ipc.SchedTrace); added {
		if err := os.Setenv(ipc.EnvGodebug, strings.TrimSuffix(own, ",")); err != nil {
			return nil, err
		}
	}
	in := &inheritance{}
	if env[ipc.EnvListenFDs] != "" {
		n, err := strconv.Atoi(env[ipc.EnvListenFDs])
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%s=%q: want a number", ipc.EnvListenFDs, env[ipc.EnvListenFDs])
		}
		if pid := env[ipc.EnvListenPID]; pid != strconv.Itoa(os.Getpid()) {
			return nil, fmt.Errorf("%s=%q, but this is process %d: the listeners are another's", ipc.EnvListenPID, pid, os.Getpid())
		}
		names := strings.Split(env[ipc.EnvListenNames], ":")
		if len(names) != n {
			return nil, fmt.Errorf("%s=%q names %d listeners, %s says %d", ipc.EnvListenNames, env[ipc.EnvListenNames], len(names), ipc.EnvListenFDs, n)
		}
		for i, name := range names {
			fd := ipc.FirstFD + i
			if !sys.IsListening(fd) {
				return nil, fmt.Errorf("descriptor %d (%s) is no listening socket", fd, name)
			}
			if name, err = url.QueryUnescape(name); err != nil {
				return nil, fmt.Errorf("%s: %w", ipc.EnvListenNames, err)
			}
			in.listeners = append(in.listeners, fd)
			in.names = append(in.names, name)
		}
	}
	channel, err := strconv.Atoi(env[ipc.EnvChannel])
	if err != nil {
		return nil, fmt.Errorf("%s=%q: want a descriptor's number", ipc.EnvChannel, env[ipc.EnvChannel])
	}
	if in.conn, err = ipc.Open(channel); err != nil {
		return nil, err
	}
	return in, nil
}
