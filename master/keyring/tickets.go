package keyring

import (
	"crypto/rand"
	"time"

	"drover/ipc"
)

// Tickets are the keys of session tickets, which all workers of an app share: who
// was served by one of them resumes with any other. Who has a key reads what was
// resumed with its tickets, and so a key lives for a day and a half at most. The zero
// value has no key yet.
type Tickets struct {
	keys [][]byte // the newest first
	made time.Time
}

// TicketTurn is for how long a key makes new tickets.
const TicketTurn = 12 * time.Hour

const ticketKeys = 3 // the one that makes them, and those that only open

// Turn makes a new key when it is time, and reports whether it did.
func (t *Tickets) Turn(now time.Time) bool {
	if len(t.keys) > 0 && now.Sub(t.made) < TicketTurn {
		return false
	}
	key := make([]byte, ipc.TicketSize)
	_, _ = rand.Read(key) // it never fails (crypto/rand)
	t.keys = append([][]byte{key}, t.keys[:min(len(t.keys), ticketKeys-1)]...)
	t.made = now
	return true
}

// Keys are the keys as they are now, the newest first.
func (t *Tickets) Keys() [][]byte { return t.keys }
