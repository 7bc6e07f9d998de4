package master

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drover/config"
	"drover/internal/sys"
	wire "drover/ipc/node"
	"drover/master/fleet"
	"drover/master/node"
)

// TestNodeCompat runs Node's own test-cluster files, which scripts/node-compat
// fetches. In such a test a process forks workers of itself, has them serve, end
// and send messages, and checks what it sees. The workers are as Node made them;
// their channels lead to this package, which answers them as it does under
// drover run: nodelife.go, nodesockets.go and all below. The process itself runs
// Node's code of a primary, but is only told what the workers said, and asks for
// what it wants of them: testdata/nodecompat/primary.cjs.
//
// A file passes when its process exits 0, all of its own checks passed, and a
// worker was forked that said to this package that it is online. Those that
// cannot pass are in testdata/nodecompat/files, with the reason; one that passes
// all the same is a failure, so that the list stays true.
func TestNodeCompat(t *testing.T) {
	tree, program := os.Getenv("DROVER_NODE_TREE"), os.Getenv("DROVER_NODE")
	if tree == "" {
		t.Skip("DROVER_NODE_TREE is not set: scripts/node-compat sets it")
	}
	out, err := exec.Command(program, "--version").Output()
	if err != nil {
		t.Fatalf("%s --version: %v", program, err)
	}
	version := strings.TrimSpace(string(out))
	var passed, failed atomic.Int64
	t.Run("files", func(t *testing.T) {
		for i, f := range compatFiles(t, version) {
			modes := []string{"none", "rr"}
			if testing.Short() { // each file once, half of them each way
				if f.not != "" {
					continue
				}
				modes = modes[i%2 : i%2+1]
			}
			t.Run(f.name, func(t *testing.T) {
				if strings.HasPrefix(f.name, "parallel/") {
					t.Parallel()
				}
				for _, mode := range modes {
					why := runCompat(t, tree, program, f.name, mode)
					switch {
					case why == "" && f.not != "":
						t.Errorf("%s: it passes, though the list says that it cannot: %s", mode, f.not)
					case why != "" && f.not != "":
						failed.Add(1)
						t.Skipf("%s: %s", mode, f.not)
					case why != "":
						failed.Add(1)
						t.Fatalf("%s: %s", mode, why)
					}
				}
				passed.Add(1)
			})
		}
	})
	t.Logf("Node %s: %d files pass, %d do not", version, passed.Load(), failed.Load())
	fmt.Printf("Node %s: %d of %d files pass\n", version, passed.Load(), passed.Load()+failed.Load())
}

// compatFile is one of Node's tests, and why it cannot pass.
type compatFile struct{ name, not string }

// compatFiles reads the list: a file a line, then, where it cannot pass, the
// reason, which may be of some Node versions only: "18,20: …".
func compatFiles(t *testing.T, version string) (files []compatFile) {
	list, err := os.ReadFile("testdata/nodecompat/files")
	if err != nil {
		t.Fatal(err)
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	for line := range strings.Lines(string(list)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, not, _ := strings.Cut(line, " ")
		not = strings.TrimSpace(not)
		if of, why, ok := strings.Cut(not, ": "); ok && regexp.MustCompile(`^[\d,]+$`).MatchString(of) {
			not = ""
			if slices.Contains(strings.Split(of, ","), major) {
				not = why
			}
		}
		files = append(files, compatFile{name, not})
	}
	return files
}

const (
	compatChannels = 40               // most workers of a test
	compatPatience = 20 * time.Second // for a test; the longest takes 3 s
)

var compatThread atomic.Int64 // gives each test's process its own ports and directory

// runCompat runs a test, and returns why it did not pass, or nothing.
func runCompat(t *testing.T, tree, program, name, mode string) string {
	ctx, cancel := context.WithTimeout(t.Context(), compatPatience)
	defer cancel()
	var log bytes.Buffer
	c := newCompat(&log)
	control, theirs, err := sys.StreamPair()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(tree, "test", name)
	args := []string{"--require", absolutePath(t, "testdata/nodecompat/primary.cjs")}
	args = append(append(args, flagsOf(t, file)...), file)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(theirs), "control")}
	var numbers []string
	for range compatChannels {
		channel, end, err := wire.Pair()
		if err != nil {
			t.Fatal(err)
		}
		c.channels = append(c.channels, channel)
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(end), "channel"))
		numbers = append(numbers, strconv.Itoa(2+len(cmd.ExtraFiles)))
	}
	dir, err := os.MkdirTemp("", "nc") // short, since unix sockets are made there
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	thread := strconv.FormatInt(compatThread.Add(1), 10)
	cmd.Env = append(os.Environ(), "DROVER_COMPAT_CHANNELS="+strings.Join(numbers, ","),
		"NODE_CLUSTER_SCHED_POLICY="+mode, "TEST_THREAD_ID="+thread, "NODE_TEST_DIR="+dir,
		"NODE_TEST_KNOWN_GLOBALS=0") // newer versions have more of them than the tests know
	cmd.Dir = tree
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err = cmd.Start()
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	loop := make(chan struct{})
	go func() { defer close(loop); c.run(os.NewFile(uintptr(control), "control")) }()
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // workers that outlived it
	<-loop
	said := fmt.Sprintf("\n%s\nthe log:\n%s", output.String(), log.String())
	switch {
	case ctx.Err() != nil:
		return fmt.Sprintf("it has not ended after %v%s", compatPatience, said)
	case err != nil:
		return err.Error() + said
	case c.online == 0:
		return "no worker came online through drover" + said
	}
	return ""
}

// flagsOf are the flags that a test's comment asks for.
func flagsOf(t *testing.T, file string) (flags []string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^// Flags: (.*)$`).FindAllSubmatch(text, -1) {
		flags = append(flags, strings.Fields(string(m[1]))...)
	}
	return flags
}

func absolutePath(t *testing.T, path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// compat is a master whose workers are started by somebody else, who is told
// what they say.
type compat struct {
	*Master
	channels []*wire.Conn
	events   chan any // what to tell
	online   int
}

func newCompat(log io.Writer) *compat {
	return &compat{
		Master: &Master{
			log: slog.New(slog.NewTextHandler(log, nil)), do: make(chan func()), done: make(chan struct{}),
			lives: map[fleet.LifeID]*life{}, steering: steering{proxied: map[string]bool{}, slots: []int{}},
			fleet:    fleet.New(fleet.Policy{}, fleet.Want{}),
			stepping: true, // who is started and ended is the test's affair
		},
		events: make(chan any, 1<<16),
	}
}

// asked is a line from primary.cjs: one of these.
type asked struct {
	Fork       fleet.LifeID
	RR         bool
	Dismiss    fleet.LifeID
	Disconnect fleet.LifeID
	Exit       fleet.LifeID
	Tell       fleet.LifeID
	Value      json.RawMessage
}

// run is the loop, until the test's process has ended.
func (c *compat) run(control *os.File) {
	defer control.Close()
	told := make(chan struct{})
	go func() {
		defer close(told)
		for e := range c.events {
			line, err := json.Marshal(e)
			if err != nil {
				panic(err) // what was JSON before
			}
			_, _ = control.Write(append(line, '\n')) // else it has ended, which the reader notices
		}
	}()
	asks := make(chan asked)
	go func() {
		defer close(asks)
		lines := bufio.NewReader(control)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			var a asked
			if err := json.Unmarshal(line, &a); err != nil {
				panic(err) // primary.cjs is ours
			}
			asks <- a
		}
	}()
	pulse := time.NewTicker(calmPulse)
	defer pulse.Stop()
	for open := true; open; {
		c.pending = nil
		select {
		case f := <-c.do:
			f()
		case <-pulse.C:
			if c.node != nil {
				c.urgeNode(time.Now())
			}
		case a, ok := <-asks:
			if open = ok; ok {
				c.obey(a)
			}
		}
	}
	close(c.done)
	for _, l := range c.lives {
		c.endedNode(l)
	}
	for _, channel := range c.channels {
		channel.Close()
	}
	close(c.events)
	<-told
	c.node.close()
	for _, g := range c.groups {
		g.Close()
	}
}

// obey does what the test's process asks for.
func (c *compat) obey(a asked) {
	switch {
	case a.Fork > 0:
		if c.node == nil {
			policy := config.Node{Scheduling: config.SchedulingShared}
			if a.RR {
				policy.Scheduling = config.SchedulingRR
			}
			c.node = newNodeApp(config.Config{Node: policy}, 0)
		}
		l := &life{id: a.Fork, config: config.Config{}.WithDefaults(), over: make(chan struct{})}
		for slices.Contains(c.steering.slots, l.slot) {
			l.slot++
		}
		c.steering.slots = append(c.steering.slots, l.slot)
		l.node = &nodeLife{channel: c.channels[0], out: make(chan node.Send, channelLines)}
		c.channels = c.channels[1:]
		c.lives[l.id] = l
		c.primaryStep(node.Joined{Worker: l.worker(), Slot: l.slot, Generation: 1})
		c.attendNode(l)
		go c.hear(l)
	case a.Exit > 0:
		if l := c.lives[a.Exit]; l != nil && !l.node.ended {
			close(l.over)
			_ = l.node.channel.Hurry() // what it said last is heard, then it is gone
		}
	case c.lives[a.Dismiss] != nil:
		c.retireNode(c.lives[a.Dismiss], false)
	case c.lives[a.Disconnect] != nil:
		c.lives[a.Disconnect].node.channel.Close()
	case c.lives[a.Tell] != nil:
		c.primaryStep(node.Tell{Worker: c.lives[a.Tell].worker(), Value: a.Value})
	}
}

// hear tells the test's process what a worker says, and does what hearNode does.
func (c *compat) hear(l *life) {
	for {
		msg, fd, err := l.node.channel.Read()
		if err != nil {
			if _, broken := err.(wire.ProtocolError); broken {
				continue
			}
			break
		}
		if !c.post(func() {
			c.primaryStep(node.Heard{Worker: l.worker(), Message: msg, FD: fd})
			c.pass(l, msg)
		}) {
			if fd >= 0 {
				sys.Close(fd)
			}
			return
		}
	}
	c.post(func() {
		c.lostNode(l)
		c.endedNode(l)
		delete(c.lives, l.id)
		c.steering.slots = slices.DeleteFunc(c.steering.slots, func(slot int) bool { return slot == l.slot })
		c.steerNode()
		c.events <- map[string]any{"id": l.id, "gone": true}
	})
}

// pass tells what a worker said, unless it is between it and drover.
func (c *compat) pass(l *life, m wire.Message) {
	if m.Cmd == wire.Handle {
		inner, err := wire.Decode(m.Msg)
		if err != nil {
			return
		}
		m = inner
	}
	switch {
	case m.Cmd == wire.User:
		c.events <- map[string]any{"id": l.id, "value": m.Raw}
	case m.Cmd != wire.Cluster:
	case m.Act == wire.Online:
		c.online++
		fallthrough
	case m.Act == wire.Listening, m.Act == wire.Close, m.Act == wire.Leaving:
		c.events <- map[string]any{"id": l.id, "internal": m.Raw}
	}
}
