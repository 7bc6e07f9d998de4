package drover_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover"
	"drover/internal/load"
	"drover/internal/sys"
	"drover/ipc"
)

// channel is the descriptor of a worker's own channel, which its environment
// names until it has joined.
var channel = func() (fd int) {
	fd = -1
	fmt.Sscan(os.Getenv(ipc.EnvChannel), &fd)
	return fd
}()

// send sends a raw packet on the channel, as no worker of drover's would.
func send(packet string, fds ...int) {
	_ = sys.SendPacket(channel, []byte(packet), fds)
}

// misbehave is what a worker does when it is asked for /misbehave/KIND.
func misbehave(w *drover.Worker, kind string) {
	switch kind {
	case "empty":
		send("")
	case "truncated":
		send(`{"kind":"rea`)
	case "oversize":
		send(`{"kind":"ready","reason":"` + strings.Repeat("x", ipc.MaxPacket) + `"}`)
	case "descriptors":
		send(`{"kind":"ready"}`, bytesTo(sys.MaxDescriptors)...)
	case "master's word":
		send(`{"kind":"drain"}`)
	case "wrong slot":
		send(`{"kind":"sockets","sockets":[{"listen":0,"slot":-7}]}`)
	case "second hello":
		send(fmt.Sprintf(`{"kind":"hello","version":%d}`, ipc.Version))
	case "flood":
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
			send(`{"kind":"ready"}`)
		}
	case "flood of mail":
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
			send("\x01\x01\x01\x00\x00\x01x") // to slot 1, which reads none
		}
	case "bad mail":
		send("\x01\x01\x01\x00\x00\xff")
	case "credit":
		send("\x02\xff\x01")
	case "deaf":
		deafen()
	case "no newline":
		os.Stdout.Write(bytes.Repeat([]byte("x"), 20<<20))
	case "much output":
		line := []byte(strings.Repeat("y", 99) + "\n")
		chunk := bytes.Repeat(line, 1000)
		for range 1000 { // 100 MB
			os.Stdout.Write(chunk)
		}
	case "grandchild":
		// It outlives us, in a session of its own, and holds our stdout.
		cmd := exec.Command("sleep", "20")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		os.Exit(3)
	case "scoreboard":
		scribble()
	case "close":
		for fd := ipc.FirstFD; fd < 1024; fd++ {
			if sys.IsListening(fd) {
				sys.Close(fd)
			}
		}
	case "shutdown":
		if err := syscall.Shutdown(ipc.FirstFD, syscall.SHUT_RDWR); err != nil {
			panic(err)
		}
	case "attach":
		const toTheFirst = 0x06 // return 0
		if err := sys.AttachReuseport(ipc.FirstFD, []sys.Instruction{{Code: toTheFirst}}); err != nil {
			panic(err)
		}
	case "detach":
		if had, err := sys.DetachReuseport(ipc.FirstFD); !had || err != nil {
			panic(fmt.Sprint(had, err))
		}
	case "filter":
		if err := sys.RefuseNew(ipc.FirstFD); err != nil {
			panic(err)
		}
	case "descriptors leak":
		for range 1500 {
			fd, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0) // no finalizer closes it
			if err != nil {
				break
			}
			_ = fd
		}
	}
}

func bytesTo(n int) []int {
	fds := make([]int, n)
	for i := range fds {
		fds[i] = 1
	}
	return fds
}

// deafen puts another socket in the channel's place, while the channel itself
// stays open: nobody ever reads it again, and the worker does not notice.
func deafen() {
	if _, err := sys.Dup(channel); err != nil {
		panic(err)
	}
	other, _, err := sys.SeqpacketPair()
	if err != nil {
		panic(err)
	}
	if err := syscall.Dup2(other, channel); err != nil {
		panic(err)
	}
}

// scribble writes noise over the scoreboard, through /proc/self/mem.
func scribble() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	mem, err := os.OpenFile("/proc/self/mem", os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	for _, line := range strings.Split(string(maps), "\n") {
		if !strings.Contains(line, "memfd:") {
			continue
		}
		var from, to int64
		fmt.Sscanf(line, "%x-%x", &from, &to)
		noise := make([]byte, to-from)
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		if _, err := mem.WriteAt(noise, from); err != nil {
			panic(err)
		}
	}
}

// Whatever one worker does, the clients of the other notice nothing, the master
// neither grows nor falls, and it is whole again within moments.
func TestMisbehavingWorkers(t *testing.T) {
	for _, c := range []struct {
		kind string
		says string // in the log, of the worker; empty: it does no harm
		dies bool
	}{
		{"empty", "worker 0 sent a bad message", false},
		{"truncated", "worker 0 sent a bad message", false},
		{"oversize", "worker 0 sent a bad message", false},
		{"descriptors", "worker 0: it says that it is ready, but it is ready", false},
		{"master's word", "worker 0 sent a bad message", false},
		{"wrong slot", "worker 0 sent a bad message", false},
		{"second hello", "worker 0 sent a bad message: a second hello", false},
		{"flood", "worker 0: it says that it is ready, but it is ready", false},
		{"flood of mail", "", false},
		{"bad mail", "worker 0 sent a bad message: a frame that is cut short", false},
		{"credit", "worker 0 sent a bad message: a credit of 255 bytes, but only 0 were sent", false},
		{"deaf", "", false},
		{"no newline", "worker 0 prints a line of more than 16 KiB", false},
		{"much output", "worker 0 prints more than 10 MiB in a second", false},
		{"grandchild", "worker 0 exited: exit status 3", true},
		{"scoreboard", "worker 0 has written over its scoreboard", false},
		{"descriptors leak", "does it close what it opens?", false},
		{"close", "worker 0 exited: exit status 1", true},
		{"shutdown", "a worker had shut it down: it listens again", true},
		{"attach", "a worker had attached a steering program: it is taken away", false},
		{"filter", "a worker had attached a filter to it: it is taken off", false},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			h := newPlainHerd(t, "fasthttp")
			if c.kind == "deaf" {
				h.env = append(h.env, "HERD_DRAIN=5s") // it never hears that it is to leave
			}
			h.start()
			wait(readyAt(h.happened(), int(h.ready()[0].ID)).Add(time.Second)) // one that dies is replaced at once
			before := rss(t, h.master.Process.Pid)
			r, counts := h.underLoad(func(r *load.Run) {
				for !h.misbehaves(0, c.kind) {
				}
				at := time.Now()
				if c.says != "" {
					h.await("line of the log: "+c.says, func([]event) bool { return strings.Contains(h.log(), c.says) })
				}
				if c.dies {
					e := h.await("successor", func(e []event) bool { return count(e, "exit") == 1 && serving(e) == 2 })
					ready := pick(e, "ready")
					if took := ready[len(ready)-1].Time.Sub(pick(e, "exit")[0].Time); took > 1500*time.Millisecond {
						t.Errorf("whole again after %v, want 1.5 s", took)
					}
				}
				if took := time.Since(at); c.says != "" && took > 1500*time.Millisecond {
					t.Errorf("whole again after %v, want 1.5 s", took)
				}
				if err := r.AwaitOK(500); err != nil {
					t.Fatal(err)
				}
			})
			cut := 0
			if c.dies {
				cut = pick(h.happened(), "exit")[0].Connections + 1
			} else if n := count(h.happened(), "exit"); n != 0 {
				t.Errorf("%d workers have exited", n)
			}
			if c.kind == "shutdown" { // the kernel resets what is queued there, whose clients may have sent their request
				const queued = 5
				cut += queued
				if counts[load.Reset] <= queued {
					counts[load.Reset] = 0
				}
			}
			lost(t, r, counts, cut)
			if grown := rss(t, h.master.Process.Pid) - before; grown > 10<<20 {
				t.Errorf("the master has grown by %d KiB, want at most 10 MiB", grown>>10)
			}
			if len(h.ready()) != 2 {
				t.Errorf("%+v", h.status().Workers)
			}
			h.stop()
		})
	}
}

// misbehaves asks for a misbehaviour of a slot's worker, and reports whether it
// was that one that answered.
func (h *herd) misbehaves(slot int, kind string) bool {
	h.t.Helper()
	conn, _, err := load.Dial(h.addr, 10*time.Second)
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	path := fmt.Sprintf("/misbehave/%d/%s", slot, strings.ReplaceAll(kind, " ", "_"))
	k, _ := conn.Get(path, false, 20*time.Second, "ok")
	return k != load.Wrong // one that dies answers nothing
}

// A worker that reads its channel no more is told by a signal to leave, and
// drains like any other: its clients lose nothing.
func TestDeafWorkerDrains(t *testing.T) {
	h := newPlainHerd(t, "fasthttp")
	h.env = append(h.env, "HERD_MESSAGES=1")
	h.start()
	r, c := h.underLoad(func(*load.Run) {
		for !h.misbehaves(0, "deaf") {
		}
		h.tell(1, "publish/1") // it subscribes to that, and will not read it
		if err := h.client().Restart(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		h.await("the end of the deaf worker", func(e []event) bool { return count(e, "exit") == 1 })
	})
	lost(t, r, c, 0)
	if e := pick(h.happened(), "exit")[0]; !e.Planned || e.Reason != "exit status 0" || count(h.happened(), "kill") != 0 {
		t.Errorf("%+v", e)
	}
	h.stop()
}
