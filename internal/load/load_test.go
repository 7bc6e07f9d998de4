package load

import (
	"bufio"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const good = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// server answers the n-th request on each of its connections by the n-th act,
// and then closes. "reset" resets the connection, "hang" holds it.
func server(t *testing.T, acts ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	done := make(chan struct{})
	t.Cleanup(func() { close(over); l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			for _, act := range acts {
				for line := ""; line != "\r\n"; {
					if line, err = r.ReadString('\n'); err != nil {
						break
					}
				}
				switch act {
				case "reset":
					c.(*net.TCPConn).SetLinger(0)
				case "hang":
					<-over
				default:
					c.Write([]byte(act))
				}
			}
			c.Close()
		}
	}()
	return l.Addr().String()
}

func TestEachKindIsToldApart(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, test := range []struct {
		name string
		addr string
		want []Kind // of the requests on one connection
	}{
		{"good", server(t, good, good), []Kind{OK, OK}},
		{"nobody listens", closed.Addr().String(), []Kind{Refused}},
		{"closed without a byte", server(t, ""), []Kind{Cut}},
		{"reset without a byte", server(t, "reset"), []Kind{Cut}},
		{"closed within the header", server(t, good[:30]), []Kind{Cut}},
		{"closed within the body", server(t, good[:len(good)-1]), []Kind{Cut}},
		{"closed when reused", server(t, good, ""), []Kind{OK, Stale}},
		{"reset when reused", server(t, good, "reset"), []Kind{OK, Stale}},
		{"cut when reused, within the answer", server(t, good, good[:20]), []Kind{OK, Cut}},
		{"no answer", server(t, "hang"), []Kind{TimedOut}},
		{"wrong status", server(t, "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nok"), []Kind{Wrong}},
		{"wrong body", server(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nko"), []Kind{Wrong}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, kind, err := Dial(test.addr, time.Second)
			for i, want := range test.want {
				if c != nil {
					kind, err = c.Get("/", true, 300*time.Millisecond, "ok")
				}
				if kind != want {
					t.Errorf("request %d: %s (%v), want %s", i, kind, err, want)
				}
			}
			if c != nil {
				c.Close()
			}
		})
	}
}

func TestClientReconnectsWhenAskedToClose(t *testing.T) {
	addr := server(t, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
	r := Start(Load{Addr: addr, KeepAlive: 1, PerRequest: 1, Slow: 1, Think: time.Microsecond})
	if err := r.AwaitOK(50); err != nil {
		t.Error(err)
	}
	if c := r.Stop(); c.Lost() != 0 {
		t.Errorf("%s\n%s", c, r.Losses())
	}
}

func TestQueueAndAnswers(t *testing.T) {
	conns, lost := Queue(server(t, good), "/", 20, 5*time.Second)
	if lost.Lost() != 0 || len(conns) != 20 {
		t.Fatalf("%d connections, %s", len(conns), lost)
	}
	if c := Answers(conns, "ok"); c != (Counts{OK: 20}) {
		t.Errorf("%s", c)
	}
}
