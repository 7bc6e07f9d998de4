package listen

import (
	"errors"
	"net"
	"testing"
	"time"

	"drover/config"
)

// Both ways to refuse keep what is queued, and let nothing new in; nobody is told.
func TestRefuseNew(t *testing.T) {
	for name, refuse := range map[string]func(*Group) error{"by a filter": (*Group).RefuseNew, "by a full queue": (*Group).divert} {
		for _, address := range []string{"127.0.0.1:0", "[::]:0"} {
			for _, slots := range []int{1, 3} {
				t.Run(name, func(t *testing.T) {
					g := group(t, config.Listen{Address: address}, slots)
					_, port, err := net.SplitHostPort(g.Address)
					if err != nil {
						t.Fatal(err)
					}
					const queued = 20
					for range queued {
						conn, err := net.Dial("tcp", "127.0.0.1:"+port)
						if err != nil {
							t.Fatal(err)
						}
						defer conn.Close()
					}
					if err := refuse(g); err != nil {
						t.Fatal(err)
					}
					for range 3 {
						conn, err := net.DialTimeout("tcp", "127.0.0.1:"+port, 50*time.Millisecond)
						var late net.Error
						if err == nil || !errors.As(err, &late) || !late.Timeout() {
							t.Errorf("a new connection: %v, %v; want it to time out", conn, err)
						}
					}
					if err := g.Steer([]int{0}); err != nil { // which changes nothing now
						t.Fatal(err)
					}
					n := 0
					for slot := range slots {
						n += g.Queued(slot)
					}
					if n != queued {
						t.Errorf("%d connections are queued, were %d", n, queued)
					}
					if conn, err := net.DialTimeout("tcp", "127.0.0.1:"+port, 50*time.Millisecond); err == nil {
						t.Error("a new connection after it was steered")
						conn.Close()
					}
				})
			}
		}
	}
}
