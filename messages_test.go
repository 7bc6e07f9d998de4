package drover_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"drover"
)

// window is how many messages a sender has on their way before it waits for an
// acknowledgement; ackEvery how many one acknowledges. Node's script has the same.
const (
	window   = 10_000
	ackEvery = 100
)

// postman is what each worker of the herd does with messages: it counts those
// that come in order from slot to slot, and acknowledges them.
type postman struct {
	w        *drover.Worker
	acks     chan struct{}
	topics   chan drover.Message
	disorder chan string
	sent     map[int]uint64 // by slot
}

func newPostman(w *drover.Worker) *postman {
	p := &postman{w: w, acks: make(chan struct{}, window), topics: make(chan drover.Message, 10_000), disorder: make(chan string, 1), sent: map[int]uint64{}}
	if os.Getenv("HERD_MESSAGES") == "unread" && w.Slot() == 1 {
		return p
	}
	news, _, err := w.Subscribe("news")
	if err != nil {
		panic(err)
	}
	go func() {
		for m := range news {
			p.topics <- m
		}
	}()
	go func() {
		next := map[uint64]uint64{} // by sender
		for m := range w.Messages() {
			if len(m.Data) == 0 {
				p.acks <- struct{}{}
				continue
			}
			n := binary.LittleEndian.Uint64(m.Data)
			if n != next[m.ID] {
				select {
				case p.disorder <- fmt.Sprintf("message %d of life %d came when %d was due", n, m.ID, next[m.ID]):
				default:
				}
			}
			if next[m.ID] = n + 1; next[m.ID]%ackEvery == 0 {
				if err := w.Reply(m, nil); err != nil {
					panic(err)
				}
			}
		}
	}()
	return p
}

// run sends n messages of so many bytes to a slot, and reports how long it took
// until the last was acknowledged.
func (p *postman) run(n, size, to int) (time.Duration, error) {
	data := make([]byte, size)
	window := min(window, 1<<20/size) // 2 MiB may wait
	begun := time.Now()
	for i, acked := 0, 0; acked < n; {
		if i == n || i-acked >= window {
			select {
			case <-p.acks:
				acked += ackEvery
			case <-time.After(10 * time.Second):
				return 0, fmt.Errorf("%d of %d were acknowledged", acked, n)
			}
			continue
		}
		binary.LittleEndian.PutUint64(data, p.sent[to])
		if err := p.w.Send(to, data); err != nil {
			return 0, err
		}
		p.sent[to]++
		i++
	}
	return time.Since(begun), nil
}

// answer is what the worker answers for /messages/SLOT/DO.
func (p *postman) answer(do string) string {
	word := strings.Split(do, "/")
	number := func(i int) int {
		n, err := strconv.Atoi(word[i])
		if err != nil {
			panic(err)
		}
		return n
	}
	switch word[0] {
	case "run": // N/SIZE/TO
		took, err := p.run(number(1), number(2), number(3))
		if err != nil {
			return err.Error()
		}
		return took.String()
	case "disorder":
		select {
		case what := <-p.disorder:
			return what
		default:
			return "none"
		}
	case "publish": // N
		for i := range number(1) {
			if err := p.w.Publish("news", []byte(strconv.Itoa(i))); err != nil {
				return err.Error()
			}
		}
		return "ok"
	case "news": // N: what came, in order
		var came []string
		for range number(1) {
			select {
			case m := <-p.topics:
				came = append(came, fmt.Sprintf("%d:%s", m.Slot, m.Data))
			case <-time.After(10 * time.Second):
				return fmt.Sprintf("only %q", came)
			}
		}
		return strings.Join(came, " ")
	case "pour": // N/SIZE/TO: without waiting, but for room
		data := make([]byte, number(2))
		full := 0
		for range number(1) {
			for errors.Is(p.w.Send(number(3), data), drover.ErrQueueFull) {
				full++
				p.w.FlushMessages(time.Second)
			}
		}
		p.w.FlushMessages(10 * time.Second)
		return fmt.Sprint("full ", full > 0)
	}
	return "what?"
}

// tell has a slot's worker do something with messages.
func (h *herd) tell(slot int, do string, args ...any) string {
	h.t.Helper()
	path := fmt.Sprintf("/messages/%d/"+do, append([]any{slot}, args...)...)
	for range 1000 {
		if body := h.get(path); body != "another's" {
			return body
		}
	}
	h.t.Fatalf("slot %d was never reached", slot)
	return ""
}

// Messages keep their order from sender to receiver, there and back; what is
// published reaches all subscribers, the publisher too, in order.
func TestMessagesKeepTheirOrder(t *testing.T) {
	h := newHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_MESSAGES=1")
	h.start()
	for _, size := range []int{8, 100, 5000} {
		for _, way := range [][2]int{{0, 1}, {1, 0}, {0, 0}} {
			if took, err := time.ParseDuration(h.tell(way[0], "run/3000/%d/%d", size, way[1])); err != nil {
				t.Errorf("%d bytes from %d to %d: %v", size, way[0], way[1], err)
			} else {
				t.Logf("3,000 messages of %d bytes from %d to %d: %v", size, way[0], way[1], took)
			}
		}
	}
	for slot := range 2 {
		if what := h.tell(slot, "disorder"); what != "none" {
			t.Error(what)
		}
	}
	if got := h.tell(1, "publish/3"); got != "ok" {
		t.Error(got)
	}
	for slot := range 2 {
		if got := h.tell(slot, "news/3"); got != "1:0 1:1 1:2" {
			t.Errorf("slot %d has %s", slot, got)
		}
	}
	for _, w := range h.ready() {
		if w.DroppedMessages != 0 {
			t.Errorf("%d messages of slot %d were dropped", w.DroppedMessages, w.Slot)
		}
	}
	h.stop()
}

// A worker that reads no message costs only its own: they are counted, the log
// says so once, its control channel works, and the master does not grow.
func TestMessagesThatNobodyReadsAreDropped(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_MESSAGES=unread", "HERD_HANG_TIMEOUT=1m")
	h.start()
	before := rss(t, h.master.Process.Pid)
	const n, size = 3000, 8000 // 24 MB, of which 2 MiB fit there
	if got := h.tell(0, "pour/%d/%d/1", n, size); !strings.HasPrefix(got, "full") {
		t.Fatal(got)
	}
	// Its queue fits that much.
	const fit = (2 << 20) / (size + 64)
	dropped := func() int { return int(h.ready()[1].DroppedMessages) }
	h.await("drops", func([]event) bool { return dropped() >= n-fit })
	if got := dropped(); got > n-fit {
		t.Errorf("%d of %d messages were dropped, want %d", got, n, n-fit)
	}

	// While it is stopped the master's queue for it fills.
	victim := h.ready()[1]
	already := count(h.happened(), "messages_dropped") // it may have been full before
	stopped(t, victim.PID)
	h.tell(0, "pour/%d/%d/1", n, size)
	h.await("a full queue", func(e []event) bool { return count(e, "messages_dropped") > already })
	if grown := rss(t, h.master.Process.Pid) - before; grown > 10<<20 {
		t.Errorf("the master has grown by %d KiB, want at most 10 MiB", grown>>10)
	}
	// To nobody: counted at the sender.
	h.tell(0, "pour/5/8/7")
	h.await("drops of slot 0", func([]event) bool { return h.ready()[0].DroppedMessages == 5 })

	resume(t, victim.PID)
	if err := h.client().Restart(t.Context(), 1); err != nil { // it hears
		t.Fatal(err)
	}
	h.await("the end of the first worker", func(e []event) bool { return count(e, "exit") == 1 })
	if e := pick(h.happened(), "exit")[0]; !e.Planned {
		t.Errorf("%+v", e)
	}
	if total := int(h.status().Totals.DroppedMessages); total < n {
		t.Errorf("%d messages were dropped in total, want more than %d", total, n)
	}
	h.stop()
}

// nodeMessages is what run does, by Node's cluster.
const nodeMessages = `
const cluster = require('cluster');
const [n, size] = process.argv.slice(2).map(Number);
const window = 10000, ackEvery = 100;
if (cluster.isPrimary) {
  const w = [cluster.fork(), cluster.fork()];
  w.forEach((from, i) => from.on('message', m => {
    if (m.took) { console.log(m.took); w.forEach(x => x.kill()); return; }
    w[1 - i].send(m);
  }));
  let up = 0;
  w.forEach(x => x.on('online', () => { if (++up == 2) w[0].send({go: 1}); }));
} else {
  let next = 0, i = 0, acked = 0, begun;
  const data = 'x'.repeat(size);
  const more = () => {
    while (i < n && i - acked < window) process.send({n: i++, d: data});
    if (acked >= n) process.send({took: Number(process.hrtime.bigint() - begun)});
  };
  process.on('message', m => {
    if (m.go) { begun = process.hrtime.bigint(); more(); }
    else if (m.ack) { acked += ackEvery; more(); }
    else if (m.n !== next++) throw new Error('disorder');
    else if (next % ackEvery === 0) process.send({ack: 1});
  });
}`

// Messages from worker to worker through the master, beside those of Node's
// cluster, alternated: the goal is five times as many.
func TestMessagesBesideNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed")
	}
	script := t.TempDir() + "/messages.js"
	if err := os.WriteFile(script, []byte(nodeMessages), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_MESSAGES=1")
	h.start()
	const size, of, ofNode = 32, 1_000_000, 100_000
	rate := func(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }
	best := 0.0
	for range 2 {
		took, err := time.ParseDuration(h.tell(0, "run/%d/%d/1", of, size))
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(node, script, strconv.Itoa(ofNode), strconv.Itoa(size)).Output()
		if err != nil {
			t.Fatalf("node: %v", err)
		}
		ns, err := strconv.Atoi(string(bytes.TrimSpace(out)))
		if err != nil {
			t.Fatal(err)
		}
		drover, node := rate(of, took), rate(ofNode, time.Duration(ns))
		t.Logf("messages of %d bytes a second: drover %.0f, node %.0f: %.1f times as many", size, drover, node, drover/node)
		best = max(best, drover/node)
	}
	if best < 5 {
		t.Errorf("%.1f times as many messages as node's, want 5", best)
	}
	for slot := range 2 {
		if what := h.tell(slot, "disorder"); what != "none" {
			t.Error(what)
		}
	}
	h.stop()
}
