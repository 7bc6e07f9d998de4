package node

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	wire "drover/ipc/node"
)

// stage plays workers and kernel to a Primary.
type stage struct {
	t   *testing.T
	p   *Primary
	now time.Time
	fd  int
	// What the primary did, and has not been looked at.
	sent map[WorkerID][]sent
	acts []Action
}

type sent struct {
	text string
	fd   int
}

func newStage(t *testing.T, policy Policy) *stage {
	return &stage{t: t, p: New(policy), now: time.Unix(1000, 0), fd: 100, sent: map[WorkerID][]sent{}}
}

func (s *stage) step(ev Event) {
	for _, a := range s.p.Step(s.now, ev) {
		switch a := a.(type) {
		case Send:
			s.sent[a.Worker] = append(s.sent[a.Worker], sent{strings.TrimSuffix(string(a.Line), "\n"), a.FD})
		case Open: // as the kernel would
			s.fd++
			o := Opened{Server: a.Server, Seat: a.Seat, FD: s.fd, Host: "::", Port: a.Want.Port}
			switch {
			case a.Want.Network == "unix":
				o.Host = ""
			case a.Given >= 0:
				o.Port = 8080 + a.Given
			case a.Want.Port == 0:
				o.Port = 40000 + a.Server
			case a.Want.Port == 80:
				o = Opened{Server: a.Server, Seat: a.Seat, Errno: 13}
			}
			s.acts = append(s.acts, a)
			s.step(o)
		default:
			s.acts = append(s.acts, a)
		}
	}
}

func (s *stage) say(id WorkerID, text string) { s.sayWith(id, text, -1) }

func (s *stage) sayWith(id WorkerID, text string, fd int) {
	s.t.Helper()
	m, err := wire.Decode([]byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	s.step(Heard{id, m, fd})
}

func (s *stage) join(id WorkerID, slot int) {
	s.step(Joined{Worker: id, Slot: slot, Generation: 1})
	s.say(id, `{"cmd":"NODE_CLUSTER","act":"online","seq":0}`)
}

func (s *stage) listen(id WorkerID, port, index int) {
	s.say(id, fmt.Sprintf(`{"cmd":"NODE_CLUSTER","act":"queryServer","address":null,"port":%d,"addressType":4,"index":%d,"seq":1}`, port, index))
}

const ack = `{"cmd":"NODE_HANDLE_ACK"}`

// last is what a worker was sent since last time, all of it.
func (s *stage) last(id WorkerID) []sent {
	got := s.sent[id]
	delete(s.sent, id)
	return got
}

func (s *stage) wantSent(id WorkerID, want ...string) []sent {
	s.t.Helper()
	got := s.last(id)
	if len(got) != len(want) {
		s.t.Fatalf("worker %d was sent %v, want %d lines", id, got, len(want))
	}
	for i, w := range want {
		if !strings.Contains(got[i].text, w) {
			s.t.Fatalf("worker %d was sent %s, want something with %s", id, got[i].text, w)
		}
	}
	return got
}

// did looks for actions of one kind among those since last time.
func did[A Action](s *stage) (list []A) {
	var rest []Action
	for _, a := range s.acts {
		if one, ok := a.(A); ok {
			list = append(list, one)
		} else {
			rest = append(rest, a)
		}
	}
	s.acts = rest
	return list
}

func TestEachWorkerGetsItsOwnSocketAndIsReadyWhenItListens(t *testing.T) {
	s := newStage(t, Policy{})
	s.join(1, 0)
	s.join(2, 1)
	s.listen(1, 3000, 0)
	s.listen(2, 3000, 0)
	a := s.wantSent(1, `{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","ack":1,"key":"tcp4::3000:0","errno":0,"data":null,"seq":0}}`)
	b := s.wantSent(2, `"errno":0`)
	if a[0].fd < 0 || b[0].fd < 0 || a[0].fd == b[0].fd {
		t.Errorf("they have sockets %d and %d", a[0].fd, b[0].fd)
	}
	did[Says](s)
	s.say(1, ack)
	s.say(1, `{"cmd":"NODE_CLUSTER","act":"listening","port":3000,"addressType":4,"seq":2}`)
	if got := fmt.Sprint(did[Says](s)); got != fmt.Sprint([]Says{{1, Listening}, {1, Ready}}) {
		t.Errorf("it says %s", got)
	}
}

func TestWaitReadyWaitsForTheWord(t *testing.T) {
	s := newStage(t, Policy{WaitReady: true})
	s.join(1, 0)
	s.listen(1, 3000, 0)
	s.say(1, ack)
	did[Says](s)
	s.say(1, `{"cmd":"NODE_CLUSTER","act":"listening","port":3000,"addressType":4,"seq":2}`)
	if got := did[Says](s); len(got) != 1 || got[0].Word != Listening {
		t.Fatalf("it says %v", got)
	}
	s.say(1, `"ready"`)
	s.say(1, `"ready"`)
	if got := did[Says](s); len(got) != 1 || got[0].Word != Ready {
		t.Errorf("it says %v", got)
	}
	if got := did[Told](s); len(got) != 1 {
		t.Errorf("a second ready is no user's message: %v", got)
	}
}

func TestTheOperatorsAddressesComeFirst(t *testing.T) {
	s := newStage(t, Policy{Listen: 1})
	s.join(1, 0)
	s.listen(1, 3000, 0)
	s.say(1, ack)
	s.listen(1, 9090, 0)
	s.say(1, ack)
	open := did[Open](s)
	if len(open) != 2 || open[0].Given != 0 || open[1].Given != -1 || open[1].Want.Port != 9090 {
		t.Fatalf("opened %+v", open)
	}
	got := s.last(1)
	if strings.Contains(got[0].text, "errno") {
		t.Errorf("with an errno Node would see that the port is another: %s", got[0].text)
	}
	if !strings.Contains(got[1].text, `"errno":0`) {
		t.Errorf("%s", got[1].text)
	}
	if serves := did[Serves](s); !serves[0].Remapped || serves[0].Address != "[::]:8080" || serves[1].Remapped {
		t.Errorf("%+v", serves)
	}
	// The app's next release asks for another port.
	s.join(2, 0)
	s.listen(2, 4000, 0)
	if open := did[Open](s); len(open) != 1 || open[0].Given != 0 || open[0].Server != 0 {
		t.Errorf("opened %+v for the next release", open)
	}
}

func TestErrorsReachTheApp(t *testing.T) {
	s := newStage(t, Policy{})
	s.join(1, 0)
	s.listen(1, 80, 0)
	s.wantSent(1, `"errno":-13`)
	if r := did[Refused](s); len(r) != 1 || r[0].Errno != 13 {
		t.Errorf("%+v", r)
	}
	s.listen(1, 3000, 0)
	s.say(1, ack)
	s.last(1)
	s.listen(1, 3000, 1)
	s.wantSent(1, `"errno":-98`)
	s.say(1, `{"cmd":"NODE_CLUSTER","act":"queryServer","port":1,"addressType":"ipx","seq":9}`)
	s.wantSent(1, `"ack":9,"errno":-22`)
	if len(s.p.workers[1].open) != 1 {
		t.Errorf("it has %d servers, want 1", len(s.p.workers[1].open))
	}
}

func TestPortZeroIsOnePortForAllAndAnotherForEachIndex(t *testing.T) {
	s := newStage(t, Policy{})
	s.join(1, 0)
	s.join(2, 1)
	for _, id := range []WorkerID{1, 2} {
		s.listen(id, 0, 0)
		s.say(id, ack)
		s.listen(id, 0, 1)
		s.say(id, ack)
	}
	var at []string
	for _, g := range did[Serves](s) {
		at = append(at, g.Address)
	}
	if len(at) != 4 || at[0] != at[2] || at[1] != at[3] || at[0] == at[1] {
		t.Errorf("they listen at %q", at)
	}
}

func TestTicketKeysAreTheFirstOnes(t *testing.T) {
	s := newStage(t, Policy{})
	s.join(1, 0)
	s.join(2, 1)
	for id, key := range map[WorkerID]string{1: "aa", 2: "bb"} {
		s.say(id, `{"cmd":"NODE_CLUSTER","act":"queryServer","port":443,"addressType":4,"data":{"ticketKeys":"`+key+`"},"seq":1}`)
	}
	one, two := s.last(1)[0].text, s.last(2)[0].text
	if strings.Contains(one, "aa") != strings.Contains(two, "aa") || !strings.Contains(one, "ticketKeys") {
		t.Errorf("they have %s and %s", one, two)
	}
	// A reload brings new ones.
	s.step(Joined{Worker: 3, Slot: 0, Generation: 2})
	s.say(3, `{"cmd":"NODE_CLUSTER","act":"queryServer","port":443,"addressType":4,"data":{"ticketKeys":"cc"},"seq":1}`)
	s.wantSent(3, "cc")
}

// Keys that Node made are renewed for who has them and for who comes later; those that
// the program chose, which each worker brings, are not.
func TestTicketKeysAreRenewed(t *testing.T) {
	s := newStage(t, Policy{})
	mine, first, second := strings.Repeat("aa", 48), strings.Repeat("bb", 48), strings.Repeat("cc", 48)
	ask := func(id WorkerID, port int, key string) {
		s.say(id, fmt.Sprintf(`{"cmd":"NODE_CLUSTER","act":"queryServer","port":%d,"addressType":4,"data":{"ticketKeys":"%s"},"seq":1}`, port, key))
		s.say(id, ack)
	}
	s.join(1, 0)
	s.join(2, 1)
	ask(1, 443, first)
	s.step(Renew{[]byte("secret")}) // nobody knows yet who made them
	for _, l := range s.last(1) {
		if strings.Contains(l.text, "NODE_DROVER_TICKETS") {
			t.Errorf("it is told of %s", l.text)
		}
	}
	ask(1, 444, mine)
	ask(2, 443, second)
	ask(2, 444, mine)
	s.step(Renew{[]byte("secret")})
	var told []string
	for _, id := range []WorkerID{1, 2} {
		lines := s.last(id)
		var line struct{ Next map[string]string }
		if err := json.Unmarshal([]byte(lines[len(lines)-1].text), &line); err != nil || len(line.Next) != 1 || len(line.Next[first]) != 96 || line.Next[first] == first {
			t.Fatalf("worker %d is told %v (%v), want another in place of %s alone", id, line, err, first)
		}
		told = append(told, line.Next[first])
	}
	if told[0] != told[1] {
		t.Errorf("they are told %q", told)
	}
	s.join(3, 2)
	ask(3, 443, strings.Repeat("dd", 48))
	s.wantSent(3, told[0])
	ask(3, 444, mine)
	s.wantSent(3, mine)
}

func TestNothingOvertakesADescriptor(t *testing.T) {
	s := newStage(t, Policy{})
	s.join(1, 0)
	s.listen(1, 3000, 0)
	s.step(Tell{1, []byte(`"hello"`)})
	s.listen(1, 3001, 0)
	s.step(Tell{1, []byte(`"bye"`)})
	s.wantSent(1, "3000")
	s.say(1, `{"cmd":"NODE_HANDLE_NACK"}`)
	s.wantSent(1, "3000") // again
	s.sayWith(1, `{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"a":1}}`, 77)
	s.wantSent(1, `NODE_HANDLE_ACK`) // does not wait
	if c := did[CloseFD](s); len(c) != 1 || c[0].FD != 77 {
		t.Errorf("closed %v", c)
	}
	if told := did[Told](s); len(told) != 1 || string(told[0].Value) != `{"a":1}` {
		t.Errorf("told %v", told)
	}
	s.say(1, ack)
	s.wantSent(1, "hello", "3001")
	s.say(1, ack)
	s.wantSent(1, "bye")
	did[Objection](s)
	s.say(1, ack)
	if o := did[Objection](s); len(o) != 1 {
		t.Errorf("nobody objects to an acknowledgement of nothing: %v", o)
	}
	if len(s.last(1)) != 0 {
		t.Error("it was answered")
	}
}

func TestALostDescriptorIsNotAcknowledged(t *testing.T) {
	s := newStage(t, Policy{})
	s.join(1, 0)
	s.sayWith(1, `{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"a":1}}`, -1)
	s.wantSent(1, `NODE_HANDLE_NACK`)
}

func TestWhoHoldsSocketsIsAnswered(t *testing.T) {
	s := newStage(t, Policy{})
	s.join(1, 0)
	s.say(1, `{"cmd":"NODE_SOCKET_NOTIFY_CLOSE","key":"4:::3000"}`)
	s.say(1, `{"cmd":"NODE_SOCKET_GET_COUNT","key":"4:::3000"}`)
	s.wantSent(1, `{"cmd":"NODE_SOCKET_ALL_CLOSED","key":"4:::3000"}`, `{"cmd":"NODE_SOCKET_COUNT","key":"4:::3000","count":0}`)
}

func TestAWorkerThatLeavesIsAnswered(t *testing.T) {
	s := newStage(t, Policy{RoundRobin: true})
	s.join(1, 0)
	s.listen(1, 3000, 0)
	s.last(1)
	did[Says](s)
	s.say(1, `{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":7}`)
	s.wantSent(1, `"ack":7`)
	if got := did[Says](s); len(got) != 1 || got[0].Word != Leaving {
		t.Errorf("it says %v", got)
	}
	s.step(Connected{Server: 0, FD: 500})
	if got := s.last(1); len(got) != 0 {
		t.Errorf("it was sent %v", got)
	}
	// Told to leave, it leaves as told.
	s.join(2, 1)
	s.last(2)
	s.step(Dismiss{2})
	s.wantSent(2, `"act":"disconnect"`)
	did[Says](s)
	s.say(2, `{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":7}`)
	s.wantSent(2, `"ack":7`)
	if got := did[Says](s); len(got) != 0 {
		t.Errorf("it says %v", got)
	}
	s.listen(2, 4000, 0)
	if got := s.last(2); len(got) != 0 {
		t.Errorf("one that leaves was answered %v", got)
	}
}

func (s *stage) deal(n int) (fds []int) {
	for range n {
		s.fd++
		fds = append(fds, s.fd)
		s.step(Connected{Server: 0, FD: s.fd})
	}
	return fds
}

// took plays the worker to which a connection came: it acknowledges and answers.
func (s *stage) took(id WorkerID, yes bool) int {
	s.t.Helper()
	got := s.last(id)
	if len(got) != 1 || !strings.Contains(got[0].text, `"act":"newconn"`) {
		s.t.Fatalf("worker %d was sent %v, want a connection", id, got)
	}
	var m struct{ Msg struct{ Seq int } }
	if err := json.Unmarshal([]byte(got[0].text), &m); err != nil {
		s.t.Fatal(err)
	}
	s.say(id, ack)
	s.say(id, fmt.Sprintf(`{"cmd":"NODE_CLUSTER","ack":%d,"accepted":%v,"seq":9}`, m.Msg.Seq, yes))
	return got[0].fd
}

func TestConnectionsAreDealtInTurnAndGivenAgainWhenAWorkerDies(t *testing.T) {
	s := newStage(t, Policy{RoundRobin: true})
	s.join(1, 0)
	s.join(2, 1)
	s.listen(1, 3000, 0)
	s.listen(2, 3000, 0)
	s.wantSent(1, `"sockname":{"address":"::","family":"IPv6","port":3000}`)
	s.wantSent(2, `"sockname"`)
	if a := did[Accept](s); len(a) != 2 || a[0].N+a[1].N != 2 {
		t.Fatalf("accepts %v, want two connections for two workers", a)
	}
	fds := s.deal(2)
	if len(did[Accept](s)) != 0 {
		t.Error("it accepts more than there are free workers")
	}
	if got := s.took(1, true); got != fds[0] {
		t.Errorf("worker 1 has connection %d, want %d", got, fds[0])
	}
	if a := did[Accept](s); len(a) != 1 || a[0].N != 1 {
		t.Errorf("accepts %v", a)
	}
	third := s.deal(1)[0]
	s.took(1, true)
	if c := did[CloseFD](s); len(c) != 2 || c[1].FD != third {
		t.Errorf("closed %v", c)
	}
	// Worker 2 dies with a connection that it never took.
	s.step(Gone{2})
	if got := s.took(1, true); got != fds[1] {
		t.Errorf("worker 1 was given %d, want that of the dead, %d", got, fds[1])
	}
	// All die: the connection waits for the next.
	orphan := s.deal(1)[0]
	s.step(Gone{1})
	if s.p.Idle() {
		t.Error("idle, with a connection that waits")
	}
	s.join(3, 0)
	s.last(3)
	s.listen(3, 3000, 0)
	s.sent[3] = s.sent[3][1:]
	if got := s.took(3, true); got != orphan {
		t.Errorf("worker 3 was given %d, want %d", got, orphan)
	}
	if !s.p.Idle() {
		t.Error("not idle")
	}
}

func TestAConnectionThatAllDeclineIsDropped(t *testing.T) {
	s := newStage(t, Policy{RoundRobin: true})
	s.join(1, 0)
	s.join(2, 1)
	s.listen(1, 3000, 0)
	s.listen(2, 3000, 0)
	s.last(1)
	s.last(2)
	fd := s.deal(1)[0]
	s.took(1, false)
	if got := s.took(2, false); got != fd {
		t.Fatalf("worker 2 was given %d, want what worker 1 declined, %d", got, fd)
	}
	if c := did[CloseFD](s); len(c) != 1 || c[0].FD != fd {
		t.Errorf("closed %v", c)
	}
}

func TestARescuedConnectionGoesToAnother(t *testing.T) {
	s := newStage(t, Policy{})
	s.join(1, 0)
	s.join(2, 1)
	for _, id := range []WorkerID{1, 2} {
		s.listen(id, 3000, 0)
		s.say(id, ack)
		s.last(id)
	}
	s.step(Connected{Server: 0, FD: 900, Rescued: true, From: 1})
	if got := s.took(2, true); got != 900 {
		t.Errorf("worker 2 was given %d", got)
	}
}

func TestUnixSocketsAreDealtOutWithoutAName(t *testing.T) {
	s := newStage(t, Policy{})
	s.join(1, 0)
	s.say(1, `{"cmd":"NODE_CLUSTER","act":"queryServer","address":"/run/a.sock","port":-1,"addressType":-1,"readableAll":true,"seq":1}`)
	got := s.wantSent(1, `"ack":1`)
	if got[0].fd >= 0 || strings.Contains(got[0].text, "sockname") || strings.Contains(got[0].text, "errno") {
		t.Errorf("it was sent %+v", got)
	}
	if o := did[Open](s); len(o) != 1 || !o[0].Readable || o[0].Writable {
		t.Errorf("opened %+v", o)
	}
}

func TestSeats(t *testing.T) {
	s := newStage(t, Policy{})
	s.join(1, 0)
	s.join(2, 1)
	seat := func(id WorkerID, want int) {
		t.Helper()
		if got := s.p.Seat(id); got != want {
			t.Errorf("worker %d sits on %d, want %d", id, got, want)
		}
	}
	seat(1, 0)
	seat(2, 1)
	// A crash: the next takes the seat, and what is queued there.
	s.step(Gone{1})
	s.join(3, 0)
	seat(3, 0)
	// A reload: the successors take spare ones.
	s.join(4, 0)
	seat(4, 2)
	s.step(Gone{3})
	s.join(5, 1)
	seat(5, 0)
	// The successor never served: the slot stays where it was.
	s.step(Gone{5})
	s.step(Gone{2})
	s.join(6, 1)
	seat(6, 1)
	if got := s.p.SlotSeat(0); got != 2 {
		t.Errorf("slot 0 is at %d, want 2", got)
	}
}

func TestReadyWithoutASocket(t *testing.T) {
	s := newStage(t, Policy{ReadyAfter: time.Second})
	wantWords := func(want ...Word) {
		t.Helper()
		var all []Word
		for _, says := range did[Says](s) {
			all = append(all, says.Word)
		}
		if !slices.Equal(all, want) {
			t.Errorf("they say %v, want %v", all, want)
		}
	}
	s.join(1, 0)
	s.step(Tick{})
	wantWords(Online)
	s.now = s.now.Add(time.Second)
	s.step(Tick{})
	s.step(Tick{})
	wantWords(Ready)
	s.join(2, 1) // one that asks for a socket is ready when it listens
	s.listen(2, 3000, 0)
	s.now = s.now.Add(time.Minute)
	s.step(Tick{})
	wantWords(Online)
}

func TestTimeAlone(t *testing.T) {
	s := newStage(t, Policy{})
	s.join(1, 0)
	s.now = s.now.Add(quietAfter)
	s.step(Tick{})
	s.step(Tick{})
	if q := did[Quiet](s); len(q) != 1 {
		t.Errorf("quiet: %v", q)
	}
	s.listen(1, 3000, 0)
	s.say(1, ack)
	s.say(1, `{"cmd":"NODE_CLUSTER","act":"listening","port":3000,"addressType":4,"seq":2}`)
	s.say(1, `{"cmd":"NODE_CLUSTER","act":"close","key":"tcp4::3000:0","seq":3}`)
	s.step(Tick{})
	if r := did[Release](s); len(r) != 0 {
		t.Error("released at once")
	}
	s.now = s.now.Add(releaseAfter)
	s.step(Tick{})
	if r := did[Release](s); len(r) != 1 {
		t.Errorf("released %v", r)
	}
	s.listen(1, 3000, 0)
	if o := did[Open](s); len(o) != 2 || o[1].Server == o[0].Server {
		t.Errorf("opened %+v", o)
	}
}

// Whatever workers say, in whatever order: a worker never has two descriptors on
// their way, and each connection is closed exactly once.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 5))
		p := New(Policy{RoundRobin: seed%2 == 0, WaitReady: seed%3 == 0, Listen: int(seed % 2)})
		now := time.Unix(1000, 0)
		var events []Event
		flying := map[WorkerID]int{}
		connections := map[int]bool{}
		accepts := map[int]int{}
		alive := map[WorkerID][]string{} // what it was sent that it may answer
		next, fd := WorkerID(0), 1000
		run := func(ev Event) {
			events = append(events, ev)
			for len(events) > 0 {
				ev, events = events[0], events[1:]
				for _, a := range p.Step(now, ev) {
					switch a := a.(type) {
					case Send:
						if a.FD < 0 {
							break
						}
						if flying[a.Worker]++; flying[a.Worker] > 1 {
							t.Fatalf("seed %d: worker %d has two descriptors on their way", seed, a.Worker)
						}
						alive[a.Worker] = append(alive[a.Worker], string(a.Line))
					case Open:
						fd++
						o := Opened{Server: a.Server, Seat: a.Seat, FD: fd, Host: "::", Port: max(a.Want.Port, 1)}
						if r.IntN(8) == 0 {
							o = Opened{Server: a.Server, Seat: a.Seat, Errno: 98}
						}
						events = append(events, o)
					case Accept:
						accepts[a.Server] += a.N
					case CloseFD:
						if !connections[a.FD] {
							t.Fatalf("seed %d: descriptor %d is closed and was not open", seed, a.FD)
						}
						delete(connections, a.FD)
					}
				}
			}
		}
		say := func(id WorkerID, text string) {
			m, err := wire.Decode([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			run(Heard{id, m, -1})
		}
		any := func() WorkerID { return WorkerID(r.IntN(int(next) + 2)) }
		for range 120 {
			now = now.Add(time.Duration(r.IntN(4000)) * time.Millisecond)
			switch id := any(); r.IntN(12) {
			case 0:
				next++
				alive[next] = nil
				run(Joined{next, r.IntN(3), 1})
				say(next, `{"cmd":"NODE_CLUSTER","act":"online","seq":0}`)
			case 1, 2, 3:
				say(id, fmt.Sprintf(`{"cmd":"NODE_CLUSTER","act":"queryServer","port":%d,"addressType":4,"index":%d,"seq":4}`, r.IntN(3), r.IntN(2)))
			case 4, 5, 6:
				if flying[id] == 0 {
					break
				}
				flying[id]--
				line := alive[id][0]
				alive[id] = alive[id][1:]
				if r.IntN(6) == 0 {
					say(id, `{"cmd":"NODE_HANDLE_NACK"}`)
					break
				}
				say(id, ack)
				var m struct {
					Msg struct {
						Seq int
						Act string
					}
				}
				_ = json.Unmarshal([]byte(line), &m)
				if m.Msg.Act == "newconn" {
					say(id, fmt.Sprintf(`{"cmd":"NODE_CLUSTER","ack":%d,"accepted":%v,"seq":9}`, m.Msg.Seq, r.IntN(4) > 0))
				}
			case 7, 8:
				for server := range accepts {
					if accepts[server] > 0 {
						accepts[server]--
						fd++
						connections[fd] = true
						run(Connected{Server: server, FD: fd})
						break
					}
				}
			case 9:
				say(id, fmt.Sprintf(`{"cmd":"NODE_CLUSTER","act":"close","key":"tcp4::%d:0","seq":3}`, r.IntN(3)))
			case 10:
				run(Gone{id})
				delete(flying, id)
				delete(alive, id)
			case 11:
				if r.IntN(3) == 0 {
					run(Dismiss{id})
				} else {
					run(Tick{})
				}
			}
		}
		for id := range next + 1 {
			run(Gone{id})
		}
		for _, s := range p.servers {
			if s != nil {
				for _, c := range s.waiting {
					delete(connections, c.fd)
				}
			}
		}
		if len(connections) > 0 {
			t.Fatalf("seed %d: %d connections are forgotten", seed, len(connections))
		}
	}
}
