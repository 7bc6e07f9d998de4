package master

import (
	"fmt"
	"slices"
	"time"

	"drover/config"
	"drover/master/fleet"
	"drover/master/listen"
	"drover/master/usage"
)

// steering is what the loop knows of how connections are steered.
type steering struct {
	slots  []int // that get new connections; nil: all, as the kernel has it
	sticky bool  // some address is

	looked time.Time // when the sockets were looked after last
	// What each serving life had accepted when its share began to be watched, and
	// when that was.
	shares      map[fleet.LifeID]uint64
	sharesSince time.Time
	sampled     time.Time       // when sources were looked at last
	proxied     map[string]bool // addresses that a proxy was told of
}

// steer has new connections go to these slots only.
func (m *Master) steer(slots []int) {
	m.steering.slots = slots
	m.log.Info(fmt.Sprintf("new connections go to slots %v", slots), "event", "steer", "slots", slots)
	if m.node != nil {
		m.steerNode()
		return
	}
	for _, g := range m.groups {
		m.tellSteering(g, g.Steer(slots))
	}
}

func (m *Master) tellSteering(g *listen.Group, err error) {
	if err != nil {
		m.log.Error(err.Error(), "event", "steer", "address", g.Address, "error", err.Error())
	}
}

// lookEvery is how often the sockets are looked after. A client whose SYN was
// dropped sends the next after a second (RFC 6298, section 2.1), which is to find
// all well.
const lookEvery = 500 * time.Millisecond

// lookAfter looks after the sockets and their steering.
func (m *Master) lookAfter(now time.Time) {
	if now.Sub(m.steering.looked) < lookEvery {
		return
	}
	m.mend()
	m.watchShares(now)
	m.watchSources(now)
	m.watchDescriptors()
}

// manyDescriptors is how many a worker may hold beside its connections before
// the log says so, once: it may not close what it opens.
const manyDescriptors = 1000

func (m *Master) watchDescriptors() {
	for _, l := range m.lives {
		open, counted := l.board.Connections()
		if l.hoards || !counted {
			continue
		}
		held := usage.Descriptors(l.process.PID) - max(0, int(open))
		if l.hoards = held > manyDescriptors; l.hoards {
			m.log.Warn(fmt.Sprintf("worker %d holds %d descriptors beside its %d connections (pid %d): does it close what it opens?", l.slot, held, open, l.process.PID),
				"event", "descriptors", "slot", l.slot, "life", l.id, "descriptors", held)
		}
	}
}

// mend undoes what workers did to the sockets, and tells of it.
func (m *Master) mend() {
	m.steering.looked = time.Now()
	for _, g := range m.groups {
		for _, f := range g.Mend() {
			whose := g.Address
			if f.Slot >= 0 && !g.Shared() {
				whose = fmt.Sprintf("slot %d's socket of %s", f.Slot, g.Address)
			}
			if f.Err != nil {
				m.log.Error(fmt.Sprintf("%s: %s: %v", whose, f.What, f.Err), "event", "broken", "slot", f.Slot, "address", g.Address, "what", f.What, "error", f.Err.Error())
				continue
			}
			m.log.Warn(fmt.Sprintf("%s: %s", whose, f.What), "event", "mended", "slot", f.Slot, "address", g.Address, "what", f.What)
			if f.Replaced {
				for _, slot := range m.fleet.Snapshot().Slots {
					m.pending = append(m.pending, fleet.Restart{Slot: slot.Slot})
				}
			}
		}
	}
}

const (
	fairShare = 100             // connections a worker, on average, before it is judged that one gets none
	fairTime  = 2 * time.Second // and at least so long
)

// watchShares gives steering by CPU up where it leaves a worker without work.
func (m *Master) watchShares(now time.Time) {
	var groups []*listen.Group
	for _, g := range m.groups {
		if steering, _, _ := g.Steering(); steering == config.CPU {
			groups = append(groups, g)
		}
	}
	if len(groups) == 0 {
		return
	}
	accepted := map[fleet.LifeID]uint64{}
	for _, life := range m.fleet.Snapshot().Lives {
		l := m.lives[life.ID]
		if l == nil || life.State != fleet.Ready || l.overwritten {
			continue
		}
		if b := l.board.Snapshot(); b.Counted {
			accepted[life.ID] = b.Accepted
		}
	}
	total, without := uint64(0), -1
	same := len(accepted) == len(m.steering.shares)
	for id, n := range accepted {
		before, there := m.steering.shares[id]
		same = same && there
		total += n - before
		if n == before {
			without = m.lives[id].slot
		}
	}
	switch {
	case !same:
	case len(accepted) < 2, total < uint64(fairShare*len(accepted)), now.Sub(m.steering.sharesSince) < fairTime:
		return
	case without >= 0:
		why := fmt.Sprintf("steering by CPU is given up: worker %d got none of %d connections", without, total)
		m.log.Warn(why+"; they are spread from now on", "event", "steer", "slot", without, "why", why)
		for _, g := range groups {
			m.tellSteering(g, g.Undo(why))
		}
	}
	m.steering.shares, m.steering.sharesSince = accepted, now
}

const (
	sourcesEvery = 3 * time.Second
	fewSources   = 20 // connections below which nothing is said about their sources
)

// watchSources tells once of each sticky address when one source makes most of
// its connections: then the workers do not see the clients, but a proxy.
func (m *Master) watchSources(now time.Time) {
	if !m.steering.sticky || now.Sub(m.steering.sampled) < sourcesEvery {
		return
	}
	m.steering.sampled = now
	for _, g := range m.groups {
		if steering, _, _ := g.Steering(); steering != config.Sticky || m.steering.proxied[g.Address] {
			continue
		}
		address := g.Address
		go func() { // the tables of a busy machine are long
			source, n, of, err := listen.Busiest(address)
			if err != nil || of < fewSources || n*2 <= of { // where a sandbox forbids looking, nothing is said
				return
			}
			m.post(func() {
				if m.steering.proxied[address] {
					return
				}
				m.steering.proxied[address] = true
				m.log.Warn(fmt.Sprintf("%s is sticky, but %d of its %d connections come from %s: a proxy in front hides the clients, and one worker gets them all", address, n, of, source),
					"event", "proxy", "address", address, "source", source.String(), "connections", n, "of", of)
			})
		}()
	}
}

// fitsSteering refuses more workers than a sticky address can have.
func (m *Master) fitsSteering(workers int) error {
	if m.steering.sticky && workers > config.MaxSticky {
		return fmt.Errorf("%d workers: an address is sticky, which at most %d can be", workers, config.MaxSticky)
	}
	return nil
}

// anySticky reports whether an address of a configuration is.
func anySticky(addresses []config.Listen) bool {
	return slices.ContainsFunc(addresses, func(l config.Listen) bool { return l.Steering == config.Sticky })
}
