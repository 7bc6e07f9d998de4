package master

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"drover/internal/sys"
	"drover/ipc"
	"drover/master/keyring"
	"drover/master/node"
)

// keys are what the addresses of a generation are encrypted with, as their files are
// now. The loop's goroutine owns it.
type keys struct {
	ring *keyring.Ring
	end  context.CancelFunc // ends the looking
}

// close ends the looking. Of nil there is none.
func (k *keys) close() {
	if k != nil {
		k.end()
	}
}

// watch begins to look whether a ring's files change. Of a nil ring, which has none,
// the keys are nil.
func (m *Master) watch(ring *keyring.Ring) *keys {
	if ring == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	k := &keys{ring: ring, end: cancel}
	m.watches.Go(func() {
		ring.Watch(ctx, func(next *keyring.Ring, err error) {
			select {
			case m.do <- func() { m.renewed(k, next, err) }:
			case <-ctx.Done():
			}
		})
	})
	return k
}

// renewed takes what has become of the files of keys that were in use.
func (m *Master) renewed(k *keys, next *keyring.Ring, err error) {
	if err != nil {
		m.log.Error(fmt.Sprintf("%v: the files have changed, and are not taken: what was read before is used on", err), "event", "keys_refused", "error", err.Error())
		return
	}
	k.ring = next
	m.tellKeys(next)
	m.share(func(l *life) bool { return m.keysOf(l) == k })
}

// tellKeys tells of each certificate.
func (m *Master) tellKeys(ring *keyring.Ring) {
	for _, f := range ring.Facts() {
		if !m.warn(f) {
			m.log.Info(fmt.Sprintf("tls on %s: certificate of %s, until %s", f.Address, strings.Join(f.Names, ", "), f.Until.UTC().Format("2006-01-02 15:04 MST")),
				"event", "certificate", "address", f.Address, "names", f.Names, "until", f.Until)
		}
	}
}

// warn tells what is wrong with a certificate, or soon will be, and reports whether
// anything is.
func (m *Master) warn(f keyring.Fact) bool {
	m.warned = time.Now()
	warning := f.Warning(m.warned)
	if warning == "" {
		return false
	}
	m.log.Warn(fmt.Sprintf("tls on %s: %s", f.Address, warning), "event", "certificate", "address", f.Address, "names", f.Names, "until", f.Until, "warning", warning)
	return true
}

// serving are the certificates that are served.
func (m *Master) serving() []keyring.Fact {
	k := m.named
	if gen := m.generations[m.fleet.Snapshot().Want.Generation]; k == nil && gen != nil {
		k = gen.keys
	}
	if k == nil {
		return nil
	}
	return k.ring.Facts()
}

// keysOf are those of a life's generation; nil where nothing is encrypted. Where the
// program has named the addresses itself they are all generations'.
func (m *Master) keysOf(l *life) *keys {
	if m.named != nil {
		return m.named
	}
	return l.generation.keys
}

// sealed puts keys into memory for a worker. The caller closes the descriptor.
func (m *Master) sealed(k *keys) (fd int, err error) {
	if len(m.tickets.Keys()) == 0 { // later ones are for all at once
		m.tickets.Turn(time.Now())
	}
	return (&ipc.Secrets{TLS: k.ring.TLS(), Tickets: m.tickets.Keys()}).Seal()
}

// share gives lives that have joined the keys that are theirs now.
func (m *Master) share(which func(*life) bool) {
	for _, l := range m.lives {
		k := m.keysOf(l)
		if !l.welcome || k == nil || !which(l) {
			continue // its welcome will bring them
		}
		fd, err := m.sealed(k)
		if err == nil {
			err = l.conn.Send(ipc.Message{Kind: ipc.Renew, Secrets: true}, fd)
			sys.Close(fd)
		}
		if err != nil {
			m.log.Warn(fmt.Sprintf("worker %d does not get its new keys: %v", l.slot, err), "event", "deaf", "slot", l.slot, "life", l.id, "error", err.Error())
		}
	}
}

// warnEvery is how often is told again of a certificate that has expired, or soon will.
const warnEvery = 24 * time.Hour

// tendKeys does what is to be done about keys in time: a new one for session tickets,
// and a warning of certificates that nobody has renewed.
func (m *Master) tendKeys(now time.Time) {
	if len(m.tickets.Keys()) > 0 && m.tickets.Turn(now) { // before there is one nobody needs it
		m.share(func(*life) bool { return true })
	}
	if m.node != nil && m.config.Node.DrainHeader && now.Sub(m.node.renewed) >= keyring.TicketTurn { // its module takes them
		m.node.renewed = now
		secret := make([]byte, 32)
		_, _ = rand.Read(secret) // it never fails (crypto/rand)
		m.primaryStep(node.Renew{Secret: secret})
	}
	if now.Sub(m.warned) >= warnEvery {
		for _, f := range m.serving() {
			m.warn(f)
		}
		m.warned = now
	}
}
