package listen

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"drover/internal/sys"
)

// Finding is what somebody did to the sockets of an address: whoever holds one,
// as every worker does, can.
type Finding struct {
	Slot int    // whose socket it is; -1: the address as a whole
	What string // and what was done about it
	Err  error  // nothing could be done; nil: it is mended
	// Replaced says that another socket has taken the place of one on which
	// workers wait in vain: their successors get the other.
	Replaced bool
}

func (g *Group) find(slot int, what string) {
	g.found = append(g.found, Finding{Slot: slot, What: what})
}

// Mend looks after the sockets, and returns what was found since the last time:
// one that was shut down listens again, a filter is taken off, and the steering
// program is attached anew. It takes microseconds.
func (g *Group) Mend() []Finding {
	g.mend()
	found := g.found
	g.found = nil
	return found
}

func (g *Group) mend() {
	if g.muted {
		return
	}
	failed := Finding{Slot: -1}
	fail := func(slot int, what string, err error) {
		if err != nil {
			failed = Finding{Slot: slot, What: what, Err: err}
		}
	}
	var dead []int
	for slot, fd := range g.sockets {
		if !g.kept { // else it may be the service manager's
			had, err := sys.DetachFilter(fd)
			if had {
				g.find(slot, "a worker had attached a filter to it: it is taken off")
			}
			fail(slot, "a worker has attached a filter to it, which drops what it likes until drover is restarted", err)
		}
		if g.network == "unix" && sys.IsShutDown(fd) {
			if err := g.replace(); err != nil {
				fail(slot, "a worker has shut it down", err)
			} else {
				g.found = append(g.found, Finding{Slot: slot, Replaced: true,
					What: "a worker had shut it down: another has taken its place, and the workers are replaced; what was queued there is lost"})
			}
			break
		}
		if sys.IsListening(fd) {
			continue
		}
		if err := g.listenAgain(fd); err != nil {
			fail(slot, "a worker has shut it down", err)
			continue
		}
		g.find(slot, "a worker had shut it down: it listens again; what was queued there is lost")
		dead = append(dead, slot)
	}
	if len(dead) > 0 && g.order != nil {
		g.order = reopened(g.order, dead)
		g.lost = fmt.Sprintf("the sockets of slots %v were shut down together, and the places of the others are not known since", dead)
	}
	fail(-1, "it cannot be steered", g.apply())
	if failed.Err == nil {
		g.failing = ""
	} else if text := failed.What + failed.Err.Error(); text != g.failing {
		g.failing = text
		g.found = append(g.found, failed)
	}
}

// listenAgain has a socket listen that somebody has shut down.
func (g *Group) listenAgain(fd int) error {
	_, text, err := net.SplitHostPort(g.Address)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	if !g.kept {
		if err := sys.SetReusePort(fd); err != nil {
			return err
		}
	}
	return sys.ListenAgain(fd, port)
}

// reopened is a group's order after the sockets of these slots were shut down and
// have begun to listen again in the order given. The kernel fills the place of
// one that ends with the last, and appends one that begins
// (net/core/sock_reuseport.c). It is nil when it cannot be known: when several
// ended, nobody saw in which order, and that matters.
func reopened(order, dead []int) []int {
	order = slices.Clone(order)
	if len(dead) > 1 && len(order)-len(dead) > 1 {
		return nil
	}
	for _, slot := range dead {
		last := len(order) - 1
		order[slices.Index(order, slot)] = order[last]
		order = order[:last]
	}
	return append(order, dead...)
}
