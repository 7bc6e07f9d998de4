package listen

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/config"
	"drover/internal/sys"
)

func open(t *testing.T, address string) *Group {
	t.Helper()
	g, err := Open(t.Context(), config.Listen{Name: address, Address: address}, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// accept waits for a connection on any of the sockets and says on which.
func accept(t *testing.T, sockets ...int) int {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		for i, fd := range sockets {
			if n, err := sys.Accept(fd); err == nil {
				sys.Close(n)
				return i
			}
		}
	}
	t.Fatal("no socket got the connection within 5 s")
	return -1
}

func TestEverySlotOfEveryAddressGetsConnections(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", ":0", "0.0.0.0:0", "[::]:0", "localhost:0"} {
		t.Run(address, func(t *testing.T) {
			g := open(t, address)
			if _, err := g.Socket(t.Context(), 2); err != nil {
				t.Fatal(err)
			}
			_, port, err := net.SplitHostPort(g.Address)
			if err != nil || port == "0" {
				t.Fatalf("bound to %q, %v: want the port that was found", g.Address, err)
			}
			host, _, _ := net.SplitHostPort(address)
			if host == "" || host == "0.0.0.0" || host == "::" {
				host = "localhost"
			}
			got := map[int]bool{}
			for n := 0; len(got) < 3; n++ {
				if n == 500 {
					t.Fatalf("500 connections reached only slots %v", got)
				}
				conn, err := net.Dial("tcp", net.JoinHostPort(host, port))
				if err != nil {
					t.Fatal(err)
				}
				got[accept(t, g.Sockets()...)] = true
				conn.Close()
			}
		})
	}
}

func TestDualStack(t *testing.T) {
	g := open(t, ":0")
	_, port, _ := net.SplitHostPort(g.Address)
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Fatalf("[::] does not serve %s: %v", host, err)
		}
		accept(t, g.Sockets()...)
		conn.Close()
	}
}

// One family's socket leaves the port to the other's, also those of the group that
// come later.
func TestOpenFamily(t *testing.T) {
	six, err := OpenFamily(t.Context(), "tcp6", config.Listen{Address: "[::]:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(six.Close)
	if _, err := six.Socket(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(six.Address)
	four, err := OpenFamily(t.Context(), "tcp4", config.Listen{Address: "0.0.0.0:" + port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(four.Close)
	for host, g := range map[string]*Group{"::1": six, "127.0.0.1": four} {
		conn, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Fatalf("%s is not served: %v", host, err)
		}
		accept(t, g.Sockets()...)
		conn.Close()
	}
}

// A UDP socket for IPv6 and IPv4 keeps the port from others, one for IPv6 alone
// does not.
func TestPacketDualStack(t *testing.T) {
	for network, refused := range map[string]bool{"udp": true, "udp6": false} {
		p, err := OpenPacket(t.Context(), network, "[::]:0", false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		other, err := OpenPacket(t.Context(), "udp4", "0.0.0.0:"+strconv.Itoa(p.Port), false)
		if err == nil {
			other.Close()
		}
		if (err != nil) != refused {
			t.Errorf("%s: IPv4 on the same port: %v, want it refused: %v", network, err, refused)
		}
	}
}

func TestSecondMasterIsRefusedBeforeAndAfterSiblingsJoined(t *testing.T) {
	g := open(t, "127.0.0.1:0")
	for _, slots := range []int{1, 3} {
		if _, err := g.Socket(t.Context(), slots-1); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), config.Listen{Name: "web", Address: g.Address}, false)
		var inUse *InUseError
		if !errors.As(err, &inUse) || !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatalf("a second group with %d sockets there: %v, want InUseError", slots, err)
		}
		if inUse.Holder == nil || inUse.Holder.PID != os.Getpid() {
			t.Errorf("%v: want the holder, process %d, named", err, os.Getpid())
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %q", err)
		}
	}
}

func TestExclusiveAgainstOneWithReusePort(t *testing.T) {
	g := open(t, "127.0.0.1:0") // itself SO_REUSEPORT by now
	joined, err := Open(t.Context(), config.Listen{Name: "web", Address: g.Address}, true)
	if err != nil {
		t.Fatalf("join: %v", err)
	}
	joined.Close()
}

func TestAppendingNeverMovesASlot(t *testing.T) {
	g := open(t, "127.0.0.1:0")
	first, err := g.Socket(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Socket(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	if again, _ := g.Socket(t.Context(), 0); again != first || len(g.Sockets()) != 8 {
		t.Errorf("slot 0 moved from %d to %d; %d sockets", first, again, len(g.Sockets()))
	}
}

func TestQueueOutlivesRefusingNew(t *testing.T) {
	g := open(t, "127.0.0.1:0")
	conn, err := net.Dial("tcp", g.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := g.RefuseNew(); err != nil {
		t.Fatal(err)
	}
	late, err := net.DialTimeout("tcp", g.Address, 100*time.Millisecond)
	if err == nil {
		late.Close()
		t.Error("a new connection was let in")
	}
	if n, err := sys.Queued(g.Sockets()[0]); n != 1 || err != nil {
		t.Errorf("Queued = %d, %v: want the one from before", n, err)
	}
	accept(t, g.Sockets()...)
}

func TestErrorsSayWhatAndWhy(t *testing.T) {
	for address, want := range map[string][]string{
		"192.0.2.1:0":               {"192.0.2.1:0", "cannot assign requested address", "interface"},
		"no-such-host.invalid:3000": {"no-such-host.invalid"},
	} {
		_, err := Open(t.Context(), config.Listen{Name: "web", Address: address}, false)
		if err == nil {
			t.Errorf("%s: no error", address)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("error %q does not say %q", err, w)
			}
		}
	}
	if err := explain(":80", os.NewSyscallError("bind", syscall.EACCES)); !strings.Contains(err.Error(), "CAP_NET_BIND_SERVICE") {
		t.Errorf("no permission: %q names no cure", err)
	}
}

func TestHolderOfAForeignProcess(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := findHolder(l.Addr().String())
	if h == nil || h.PID != os.Getpid() || !strings.Contains(h.String(), strconv.Itoa(os.Getpid())) {
		t.Errorf("findHolder = %v, want process %d", h, os.Getpid())
	}
	if findHolder("127.0.0.1:1") != nil {
		t.Error("port 1 has a holder, or findHolder is wrong")
	}
}

func TestSocketsAreNonBlockingAndCloseOnExec(t *testing.T) {
	g := open(t, "127.0.0.1:0")
	for slot := range 2 {
		fd, err := g.Socket(context.Background(), slot)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
		if err != nil {
			t.Fatal(err)
		}
		// proc(5): flags in octal; O_NONBLOCK 04000, O_CLOEXEC 02000000.
		_, rest, _ := strings.Cut(string(info), "flags:")
		flags, err := strconv.ParseInt(strings.Fields(rest)[0], 8, 64)
		if err != nil || flags&0o4000 == 0 || flags&0o2000000 == 0 {
			t.Errorf("slot %d: flags %o, %v: want O_NONBLOCK and O_CLOEXEC", slot, flags, err)
		}
	}
}
