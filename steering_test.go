package drover_test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/internal/load"
	"drover/master/admin"
)

// slotOf asks from a source address which slot answers it. One request may have
// been accepted by a worker that was being killed: it is made again.
func (h *herd) slotOf(source string) string {
	h.t.Helper()
	slot, err := h.from(source, "/slot")
	if err != nil {
		slot, err = h.from(source, "/slot")
	}
	if err != nil {
		h.t.Fatalf("from %s: %v", source, err)
	}
	return slot
}

// from asks from a source address.
func (h *herd) from(source, path string) (string, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}).DialContext,
	}}
	resp, err := client.Get("http://" + h.addr + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// owners is which slot each of 400 clients gets.
func (h *herd) owners() map[string]string {
	h.t.Helper()
	owners := make(map[string]string, 400)
	for i := range 400 {
		source := fmt.Sprintf("127.%d.%d.%d", 1+i/100, i%7, 1+i%100)
		owners[source] = h.slotOf(source)
	}
	return owners
}

// kept checks that every client has the slot it had, but those of a slot that is
// gone.
func kept(t *testing.T, when string, before, now map[string]string, gone string) {
	t.Helper()
	moved := 0
	for source, slot := range before {
		switch {
		case slot == gone && now[source] == gone:
			t.Errorf("%s: %s is still answered by slot %s", when, source, gone)
		case slot != gone && now[source] != slot:
			moved++
		}
	}
	if moved != 0 {
		t.Errorf("%s: %d of %d clients were moved", when, moved, len(before))
	}
}

// Clients of a sticky address keep their slot, over kills and reloads; only those
// of a slot that is gone move, and come back with it.
func TestStickyClientsKeepTheirSlot(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_STEERING=sticky", "HERD_WORKERS=4", "HERD_MIN_UPTIME=100ms")
	h.launch()
	h.await("four ready workers", func(e []event) bool { return serving(e) == 4 })
	before := h.owners()
	shares := map[string]int{}
	for _, slot := range before {
		shares[slot]++
	}
	for slot, n := range shares {
		if n < 50 || n > 170 {
			t.Errorf("slot %s has %d of 400 clients", slot, n)
		}
	}
	if len(shares) != 4 {
		t.Fatalf("shares: %v", shares)
	}
	for n := range 20 {
		what := fmt.Sprintf("kill %d", n)
		if n%7 == 6 {
			what = fmt.Sprintf("reload %d", n)
			if err := h.client().Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else {
			victim := h.ready()[n%4]
			wait(readyAt(h.happened(), int(victim.ID)).Add(150 * time.Millisecond)) // else it is an early death, and waits
			if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		kept(t, what, before, h.owners(), "none")
		h.await("four ready workers", func(e []event) bool { return serving(e) == 4 && len(h.ready()) == 4 })
	}
	if n := count(h.happened(), "steer"); n != 0 {
		t.Errorf("%d changes of the steering program, want none over restarts and reloads", n)
	}
	if got := h.status().Listen[0]; got.Steering != "sticky" || got.Slots != nil || got.Why != "" {
		t.Errorf("the status says %+v", got)
	}
	if err := h.client().Scale(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	kept(t, "scaled to 3", before, h.owners(), "3")
	if got := h.status().Listen[0]; got.Steering != "sticky" || !slices.Equal(got.Slots, []int{0, 1, 2}) || !strings.Contains(got.Why, "slot 3") {
		t.Errorf("the status says %+v", got)
	}
	if err := h.client().Scale(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if got := h.status().Listen[0]; got.Steering != "sticky" || got.Slots != nil { // asked for behind what the answer to scale leaves to do
		t.Errorf("the status says %+v", got)
	}
	if now := h.owners(); !maps.Equal(before, now) {
		kept(t, "scaled to 4 again", before, now, "none")
	}
	h.stop()
}

// A worker that takes the program of a sticky address away moves clients for
// moments only; one that shuts its own socket down changes the places of others,
// which is followed.
func TestStickySurvivesItsWorkers(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_STEERING=sticky", "HERD_WORKERS=4", "HERD_MIN_UPTIME=100ms")
	h.launch()
	h.await("four ready workers", func(e []event) bool { return serving(e) == 4 })
	before := h.owners()
	for _, kind := range []string{"detach", "attach", "shutdown"} {
		wait(readyAt(h.happened(), int(h.ready()[1].ID)).Add(150 * time.Millisecond))
		for source, slot := range before {
			if slot == "1" {
				_, _ = h.from(source, "/misbehave/1/"+kind) // one that dies does not answer
				break
			}
		}
		at := time.Now()
		if kind == "shutdown" {
			h.await("its end", func(e []event) bool { return count(e, "mended") == 1 && serving(e) == 4 && count(e, "exit") == 1 })
			kept(t, kind, before, h.owners(), "none")
			continue
		}
		if now := h.owners(); maps.Equal(before, now) && time.Since(at) < 300*time.Millisecond {
			t.Errorf("%s: the control: nobody was moved", kind)
		}
		h.await("the end of "+kind, func([]event) bool { return time.Since(at) > 600*time.Millisecond })
		kept(t, kind, before, h.owners(), "none")
	}
	h.stop()
}

// readyAt is when a life became ready.
func readyAt(events []event, life int) time.Time {
	for _, e := range pick(events, "ready") {
		if e.Life == life {
			return e.Time
		}
	}
	return time.Time{}
}

// A slot that waits for its restart gets no new connections, and the status says
// so.
func TestSteeredAwayFromABrokenSlot(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.start()
	if got := h.status().Listen[0]; got.Steering != "spread" || got.Slots != nil || got.Why != "" {
		t.Errorf("the status says %+v", got)
	}
	if before, now := h.owners(), h.owners(); maps.Equal(before, now) {
		t.Error("the control: nobody is moved where clients have no slot")
	}
	if err := os.WriteFile(h.brokenSlot, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	victim := h.ready()[1]
	if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var got admin.Listen
	h.await("steering", func([]event) bool { got = h.status().Listen[0]; return got.Slots != nil })
	if got.Steering != "spread" || !slices.Equal(got.Slots, []int{0}) || got.Why != "nobody accepts in slot 1" {
		t.Errorf("the status says %+v", got)
	}
	for range 50 {
		if slot := h.slotOf("127.0.0.1"); slot != "0" {
			t.Errorf("slot %s answers", slot)
		}
	}
	if err := os.Remove(h.brokenSlot); err != nil {
		t.Fatal(err)
	}
	h.await("the end of it", func([]event) bool { return h.status().Listen[0].Slots == nil })
	h.stop()
}

// By CPU, a worker without a CPU of its own gets nothing: then it is given up.
func TestCPUSteeringIsUndone(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	workers := runtime.NumCPU() + 1
	h.env = append(h.env, "HERD_STEERING=cpu", fmt.Sprint("HERD_WORKERS=", workers))
	h.launch()
	h.await("ready workers", func(e []event) bool { return serving(e) == workers })
	if got := h.status().Listen[0]; got.Steering != "cpu" {
		t.Errorf("the status says %+v", got)
	}
	r, c := h.underLoad(func(r *load.Run) {
		h.await("its end", func([]event) bool { return h.status().Listen[0].Steering == "spread" })
		h.await("connections of every worker", func([]event) bool {
			return !slices.ContainsFunc(h.ready(), func(w admin.Worker) bool { return w.Requests == 0 })
		})
	})
	lost(t, r, c, 0)
	told := fmt.Sprintf("steering by CPU is given up: worker %d got none of ", workers-1)
	if why := h.status().Listen[0].Why; !strings.HasPrefix(why, told) {
		t.Errorf("the status says %q, want %q", why, told)
	}
	if e := pick(h.happened(), "steer"); len(e) != 1 || !strings.HasPrefix(e[0].Msg, told) {
		t.Errorf("the log says %+v", e)
	}
	h.stop()
}

// One socket for all: every worker accepts on it, and a killed one costs what it
// had accepted.
func TestSharedSocket(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_STEERING=shared")
	h.start()
	r, c := h.underLoad(func(r *load.Run) {
		victim := h.ready()[0]
		wait(readyAt(h.happened(), int(victim.ID)).Add(time.Second))
		if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.await("successor", func(e []event) bool { return count(e, "exit") == 1 && serving(e) == 2 })
		if err := r.AwaitOK(500); err != nil {
			t.Fatal(err)
		}
	})
	lost(t, r, c, pick(h.happened(), "exit")[0].Connections+1)
	for _, w := range h.ready() {
		if w.Requests == 0 {
			t.Errorf("worker %d answered nothing", w.Slot)
		}
	}
	if got := h.status().Listen[0]; got.Steering != "shared" || got.Why != "" {
		t.Errorf("the status says %+v", got)
	}
	h.stop()
}

// A proxy in front of a sticky address is told of once.
func TestProxyInFrontOfSticky(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_STEERING=sticky")
	h.start()
	r := load.Start(load.Load{Addr: h.addr, KeepAlive: 30, PerRequest: 1, Slow: 1})
	defer r.Stop()
	h.await("the warning", func(e []event) bool { return count(e, "proxy") == 1 })
	e := pick(h.happened(), "proxy")[0]
	if !strings.Contains(e.Msg, "connections come from 127.0.0.1/32: a proxy in front") {
		t.Errorf("it says %q", e.Msg)
	}
	h.stop()
	if n := count(h.happened(), "proxy"); n != 1 {
		t.Errorf("said %d times", n)
	}
}
