package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"drover/internal/sys"
)

// play makes a channel and a goroutine-free peer: the raw end of the worker's.
func play(t *testing.T) (*Conn, int) {
	t.Helper()
	c, fd, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); sys.Close(fd) })
	return c, fd
}

func say(t *testing.T, fd int, text string, handle int) {
	t.Helper()
	for len(text) > 0 {
		n, err := sys.SendStream(fd, []byte(text), handle)
		if err != nil {
			t.Fatal(err)
		}
		text, handle = text[n:], -1
	}
}

func null(t *testing.T) int {
	t.Helper()
	fd, err := sys.Null()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Close(fd) })
	return fd
}

func TestOnlyWhatNodeTakesForInternalIsInternal(t *testing.T) {
	for line, want := range map[string]Cmd{
		`{"cmd":"NODE_CLUSTER","act":"online","seq":0}`: Cluster,
		`{"cmd":"NODE_FOO"}`:                            "NODE_FOO",
		`{"cmd":"NODE_"}`:                               User,
		`{"cmd":"NODEX"}`:                               User,
		`{"cmd":5,"x":"NODE_CLUSTER"}`:                  User,
		`["NODE_CLUSTER"]`:                              User,
		`"NODE_CLUSTER"`:                                User,
		`null`:                                          User,
		`"ready"`:                                       User,
		`{"a":{"cmd":"NODE_CLUSTER"}}`:                  User,
		` {"cmd":"NODE_HANDLE_ACK"}`:                    HandleAck,
		`{"cmd":"NODE_CLUSTER","x":[]}`:                 Cluster,
	} {
		m, err := Decode([]byte(line))
		if err != nil || m.Cmd != want {
			t.Errorf("%s: %q, %v, want %q", line, m.Cmd, err, want)
		}
		if string(m.Raw) != line {
			t.Errorf("%s: its line became %s", line, m.Raw)
		}
	}
	for _, line := range []string{"", "{", `{"cmd":"NODE_CLUSTER","act":7}`, `{"cmd":"NODE_HANDLE","type":[]}`, "\x00"} {
		if m, err := Decode([]byte(line)); err == nil {
			t.Errorf("%q is taken for %+v", line, m)
		}
	}
}

func TestEachFormOfListenIsItsServer(t *testing.T) {
	for query, want := range map[string]Server{
		`"address":null,"port":3000,"addressType":4`:                           {Network: "tcp4", Port: 3000},
		`"address":null,"port":0,"addressType":4,"index":2,"flags":0`:          {Network: "tcp4", Index: 2},
		`"address":"127.0.0.1","port":3002,"addressType":4,"backlog":false`:    {Network: "tcp4", Host: "127.0.0.1", Port: 3002},
		`"address":"::","port":5,"addressType":6,"flags":1`:                    {Network: "tcp6", Host: "::", Port: 5, IPv6Only: true},
		`"address":"/run/a.sock","port":-1,"addressType":-1`:                   {Network: "unix", Host: "/run/a.sock"},
		`"address":"/home/x/\u0000name","port":-1,"addressType":-1`:            {Network: "unix", Host: "@name"},
		`"address":null,"port":null,"addressType":null,"fd":7`:                 {Network: "fd", Port: 7},
		`"address":"0.0.0.0","port":3020,"addressType":"udp4","fd":-1`:         {Network: "udp4", Host: "0.0.0.0", Port: 3020},
		`"address":"::","port":3020,"addressType":"udp6","fd":-1,"flags":5`:    {Network: "udp6", Host: "::", Port: 3020, IPv6Only: true},
		`"address":null,"port":"3000","addressType":4,"data":{"ticketKeys":1}`: {Network: "tcp4", Port: 3000},
	} {
		m, err := Decode([]byte(`{"cmd":"NODE_CLUSTER","act":"queryServer","seq":1,` + query + `}`))
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if got, err := m.Wants(); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", query, got, err, want)
		}
	}
	for _, query := range []string{`"port":70000,"addressType":4`, `"port":1,"addressType":9`, `"addressType":-1,"address":null`, `"port":1.5,"addressType":4`, `"index":-1,"addressType":4`} {
		m, err := Decode([]byte(`{"cmd":"NODE_CLUSTER","act":"queryServer",` + query + `}`))
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if s, err := m.Wants(); err == nil {
			t.Errorf("%s is taken for %+v", query, s)
		}
	}
}

func TestLinesMaySplitAnywhereAndJoin(t *testing.T) {
	c, fd := play(t)
	text := `{"cmd":"NODE_CLUSTER","act":"online","seq":0}` + "\n" + `"grüße"` + "\n"
	for i := range len(text) {
		say(t, fd, text[:i], -1)
		c.Hurry()
		var got []Message
		read := func() {
			for {
				m, _, err := c.Read()
				if errors.Is(err, os.ErrDeadlineExceeded) {
					return
				}
				if err != nil {
					t.Fatalf("split at %d: %v", i, err)
				}
				got = append(got, m)
			}
		}
		read()
		say(t, fd, text[i:], -1)
		read()
		if len(got) != 2 || got[0].Act != Online || string(got[1].Raw) != `"grüße"` {
			t.Fatalf("split at %d: %+v", i, got)
		}
	}
}

func TestADescriptorGoesWithItsLine(t *testing.T) {
	c, fd := play(t)
	say(t, fd, `"before"`+"\n", -1)
	say(t, fd, `{"cmd":"NODE_HANDLE","type":"net.Socket","msg":"`, null(t))
	say(t, fd, strings.Repeat("x", 200_000)[:70_000], -1)
	if m, handle, err := c.Read(); string(m.Raw) != `"before"` || handle != -1 || err != nil {
		t.Fatalf("%s with descriptor %d, %v", m.Raw, handle, err)
	}
	say(t, fd, `"}`+"\n"+`{"cmd":"NODE_HANDLE","type":"net.Socket","msg":1}`+"\n", -1)
	m, handle, err := c.Read()
	if m.Cmd != Handle || handle < 0 || err != nil {
		t.Fatalf("%.50s with descriptor %d, %v", m.Raw, handle, err)
	}
	sys.Close(handle)
	if m, handle, err := c.Read(); m.Cmd != Handle || handle != -1 || err != nil {
		t.Fatalf("a Handle whose descriptor was lost: %s, descriptor %d, %v", m.Raw, handle, err)
	}
}

func TestBadPeersAreErrorsAndTheChannelWorksOn(t *testing.T) {
	handle := `{"cmd":"NODE_HANDLE","type":"net.Socket","msg":1}` + "\n"
	for name, misbehave := range map[string]func(t *testing.T, fd int){
		"broken line":              func(t *testing.T, fd int) { say(t, fd, "{\n", -1) },
		"broken line, descriptor":  func(t *testing.T, fd int) { say(t, fd, "{\n", null(t)) },
		"two descriptors":          func(t *testing.T, fd int) { say(t, fd, "1", null(t)); say(t, fd, handle, null(t)) },
		"a line without an end":    func(t *testing.T, fd int) { endless(t, fd) },
		"wrong type of a field":    func(t *testing.T, fd int) { say(t, fd, `{"cmd":"NODE_CLUSTER","seq":"x"}`+"\n", -1) },
		"nothing":                  func(t *testing.T, fd int) { say(t, fd, "\n", -1) },
		"zeroes before a good one": func(t *testing.T, fd int) { say(t, fd, "\x00\x00\n", -1) },
	} {
		t.Run(name, func(t *testing.T) {
			c, fd := play(t)
			before := open(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				misbehave(t, fd)
				say(t, fd, "\n"+`"good"`+"\n", -1)
			}()
			bad := false
			for {
				m, _, err := c.Read()
				if errors.As(err, new(ProtocolError)) {
					bad = true
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if string(m.Raw) == `"good"` {
					break
				}
			}
			<-done
			if !bad {
				t.Error("nobody objected")
			}
			for _, fd := range c.dec.fds {
				t.Errorf("descriptor %d is left over", fd)
			}
			if opened := open(t) - before; opened > 2 { // the test's own of /dev/null
				t.Errorf("%d descriptors more are open", opened)
			}
		})
	}
}

// endless sends 100 MB in one line.
func endless(t *testing.T, fd int) {
	mb := bytes.Repeat([]byte("x"), 1<<20)
	for range 100 {
		for rest := mb; len(rest) > 0; {
			n, err := sys.SendStream(fd, rest, -1)
			if err != nil && !sys.IsAgain(err) {
				t.Error(err)
				return
			}
			rest = rest[n:]
		}
	}
}

func open(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestALongLineIsWrittenWhole(t *testing.T) {
	c, fd := play(t)
	value, _ := json.Marshal(strings.Repeat("x", 3<<20))
	line, err := UserLine(value)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() { sent <- c.Write(line, null(t)) }()
	var d decoder
	buf := make([]byte, chunk)
	fds := 0
	for {
		n, got, err := sys.ReceiveStream(fd, buf)
		if sys.IsAgain(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		fds += len(got)
		for _, fd := range got {
			sys.Close(fd)
		}
		d.add(buf[:n], nil)
		m, _, ok, err := d.next()
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			if !bytes.Equal(m.Raw, value) || fds != 1 {
				t.Errorf("%d bytes and %d descriptors arrived, sent %d and 1", len(m.Raw), fds, len(value))
			}
			break
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestUserLineRefusesWhatWouldKillTheWorker(t *testing.T) {
	if line, err := UserLine([]byte("{\n\"a\":\n1}")); string(line) != `{"a":1}`+"\n" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	if line, err := UserLine([]byte("{")); err == nil {
		t.Errorf("%q", line)
	}
}

func TestTheEndIsEOF(t *testing.T) {
	c, fd, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say(t, fd, `"last"`+"\n", -1)
	sys.Close(fd)
	if m, _, err := c.Read(); string(m.Raw) != `"last"` || err != nil {
		t.Fatalf("%s, %v", m.Raw, err)
	}
	if _, _, err := c.Read(); err != io.EOF {
		t.Errorf("%v, want io.EOF", err)
	}
}

// A real worker joins, gets a listening socket, serves a request, and leaves.
func TestARealNodeSpeaksThis(t *testing.T) {
	program, err := exec.LookPath("node")
	if err != nil {
		t.Skip("there is no node here")
	}
	app := t.TempDir() + "/app.js"
	err = os.WriteFile(app, []byte(`
		require('http').createServer((req, res) => res.end('served')).listen(1);
		process.on('message', m => process.send({got: m}));
	`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	c, fd, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	end := os.NewFile(uintptr(fd), "worker's end")
	cmd := exec.Command(program, app)
	cmd.Env = append(os.Environ(), EnvChannel+"=3", EnvFormat+"="+Format, EnvID+"=1")
	cmd.ExtraFiles = []*os.File{end}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end.Close()
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	defer cmd.Process.Kill()

	await := func(what string, is func(Message) bool) Message {
		t.Helper()
		for {
			m, _, err := c.Read()
			if err != nil {
				t.Fatalf("waiting for %s: %v", what, err)
			}
			if is(m) {
				return m
			}
		}
	}
	send := func(line []byte, handle int) {
		t.Helper()
		if err := c.Write(line, handle); err != nil {
			t.Fatal(err)
		}
	}
	act := func(a Act) func(Message) bool { return func(m Message) bool { return m.Act == a } }
	await("online", act(Online))
	query := await("queryServer", act(QueryServer))
	if s, err := query.Wants(); s != (Server{Network: "tcp4", Port: 1}) || err != nil {
		t.Fatalf("it wants %+v, %v", s, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	socket.Control(func(fd uintptr) { send(Reply{Ack: query.Seq, Key: "k"}.Encode(NetNative), int(fd)) })
	await("acknowledgement", func(m Message) bool { return m.Cmd == HandleAck })
	if m := await("listening", act(Listening)); m.Port.String() == "1" {
		t.Error("its port is what it asked for, not the socket's")
	}
	conn, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if answer, err := io.ReadAll(conn); !bytes.HasSuffix(answer, []byte("served")) {
		t.Errorf("answer %q, %v", answer, err)
	}
	line, _ := UserLine([]byte(`{"a":[1,"ü\n"]}`))
	send(line, -1)
	if m := await("its message", func(m Message) bool { return m.Cmd == User }); string(m.Raw) != `{"got":{"a":[1,"ü\n"]}}` {
		t.Errorf("it sent %s", m.Raw)
	}
	send(Reply{Act: Disconnect}.Encode(""), -1)
	await("close", act(Close))
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("it exited with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it did not exit")
	}
}

// Whatever arrives, in whatever pieces: no panic, no descriptor lost, and a good
// line after it is heard.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte(`{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":null,"port":3000,"addressType":4,"seq":1}`+"\n"), uint(7))
	f.Add([]byte(`{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER"}}`+"\n"), uint(1))
	f.Add([]byte("\"ready\"\n\x02{}\n\n[1,"), uint(3))
	f.Fuzz(func(t *testing.T, data []byte, size uint) {
		var d decoder
		step := int(size%64) + 1
		drain := func() (last Message) {
			for {
				m, _, ok, err := d.next()
				if err != nil {
					continue
				}
				if !ok {
					return last
				}
				if m.Act == QueryServer {
					if s, err := m.Wants(); err == nil {
						_ = s.String()
					}
				}
				last = m
			}
		}
		for len(data) > 0 {
			n := min(step, len(data))
			d.add(data[:n], nil)
			data = data[n:]
			drain()
		}
		d.add([]byte("\n\"good\"\n"), nil)
		if m := drain(); string(m.Raw) != `"good"` {
			t.Fatalf("the good line after it is heard as %q", m.Raw)
		}
	})
}
