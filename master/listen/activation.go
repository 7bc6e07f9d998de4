package listen

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"drover/config"
	"drover/internal/sys"
)

// Activated is a listening socket that a service manager started this process
// with, as systemd does for a socket unit (sd_listen_fds(3)).
type Activated struct {
	FD      int    // raw, close-on-exec, non-blocking
	Name    string // of LISTEN_FDNAMES; empty where there is none of its own
	Address string // host:port or unix:PATH
}

// HasActivated reports whether TakeActivated will give any.
func HasActivated() bool {
	n := os.Getenv("LISTEN_FDS")
	return n != "" && n != "0" && os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid())
}

// TakeActivated gives the sockets that a service manager meant for this process,
// and removes what says so from the environment. They are numbers, not files:
// asked for its number an os.File makes the socket blocking, for everybody who
// has it. They stay open for ever, as the service manager's do.
func TakeActivated() ([]Activated, error) {
	ours := HasActivated()
	count, names := os.Getenv("LISTEN_FDS"), strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if !ours {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	const first = 3 // SD_LISTEN_FDS_START
	if err != nil || n < 0 || n > 1<<16 {
		return nil, fmt.Errorf("LISTEN_FDS is %q: want how many listening sockets there are, from descriptor %d", count, first)
	}
	var sockets []Activated
	for i := range n {
		s := Activated{FD: first + i}
		if i < len(names) && len(names) == n {
			s.Name = names[i]
		}
		if !sys.IsListening(s.FD) {
			return nil, fmt.Errorf("descriptor %d of LISTEN_FDS (%s) is no listening stream socket: a socket unit needs ListenStream= and Accept=no", s.FD, s.Name)
		}
		sys.SetCloexec(s.FD)
		if err := sys.SetNonblock(s.FD); err != nil {
			return nil, fmt.Errorf("descriptor %d of LISTEN_FDS: %w", s.FD, err)
		}
		if s.Address, err = sys.LocalAddress(s.FD); err != nil {
			return nil, fmt.Errorf("descriptor %d of LISTEN_FDS: %w", s.FD, err)
		}
		sockets = append(sockets, s)
	}
	// systemd names all sockets of a unit the same when it names none.
	for i, s := range sockets {
		if slices.ContainsFunc(sockets[i+1:], func(o Activated) bool { return o.Name == s.Name }) {
			for j := range sockets {
				if sockets[j].Name == s.Name {
					sockets[j].Name = ""
				}
			}
		}
	}
	return sockets, nil
}

// Serves reports whether the socket is one of an address: by its name, or by
// what it is bound to.
func (a Activated) Serves(l config.Listen) bool {
	if a.Name != "" && a.Name == l.Name || a.Address == l.Address {
		return true
	}
	want, err := net.ResolveTCPAddr("tcp", l.Address)
	is, isErr := net.ResolveTCPAddr("tcp", a.Address)
	if err != nil || isErr != nil || want.Port != is.Port {
		return false
	}
	every := want.IP == nil || want.IP.IsUnspecified()
	return want.IP.Equal(is.IP) || every && is.IP.IsUnspecified()
}

// Adopt makes a group of a socket that a service manager keeps. An empty name
// is the socket's own, or else its address.
func Adopt(a Activated, name string) *Group {
	for _, n := range []string{a.Name, a.Address} {
		if name == "" {
			name = n
		}
	}
	g := &Group{Name: name, Address: a.Address, asked: config.Shared, network: "tcp", sockets: []int{a.FD}, kept: true}
	if strings.HasPrefix(a.Address, "unix:") {
		g.network = "unix"
	}
	return g
}
