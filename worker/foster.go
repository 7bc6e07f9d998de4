package worker

import (
	"net"
	"sync"
)

// fosters are the sibling slots that this worker accepts for beside its own:
// their sockets have nobody else for the moment.
type fosters struct {
	w       *Worker
	engine  Engine
	open    map[int][]net.Listener // by slot
	serving sync.WaitGroup
}

// set begins to accept for a slot, or ends it; told twice, it does nothing.
func (f *fosters) set(slot int, on bool) {
	listeners, is := f.open[slot]
	switch {
	case on && !is:
		f.begin(slot)
	case !on && is:
		for _, l := range listeners {
			l.Close()
		}
		delete(f.open, slot)
	}
}

func (f *fosters) begin(slot int) {
	for _, l := range f.w.listeners {
		if l.shared {
			continue // we accept on it as it is
		}
		open, err := l.sibling(slot)
		if err != nil {
			f.w.log.Error("accept for a sibling", "slot", slot, "error", err)
			continue
		}
		f.open[slot] = append(f.open[slot], open)
		f.serving.Go(func() {
			if err := f.engine.Serve(open); err != nil {
				f.w.log.Error("accept for a sibling", "slot", slot, "error", err)
			}
		})
	}
}

// end ends all, and waits until nothing is accepted any more.
func (f *fosters) end() {
	for slot := range f.open {
		f.set(slot, false)
	}
	f.serving.Wait()
}
