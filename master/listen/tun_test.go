package listen

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"drover/config"
	"drover/internal/sys"

	"golang.org/x/sys/unix" // tests only: a TUN device is nothing that drover needs
)

// device is a network of clients behind a TUN device, which supplies no hash of
// packets. On loopback there always is one.
type device struct {
	t    *testing.T
	fd   int
	port uint16 // of the next client
}

func newDevice(t *testing.T) *device {
	t.Helper()
	isolated(t)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("needs a TUN device: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	request, err := unix.NewIfreq("drover0")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Skipf("needs a TUN device: %v", err)
	}
	ip(t, "addr", "add", "10.99.0.1/16", "dev", "drover0")
	ip(t, "link", "set", "drover0", "up")
	return &device{t: t, fd: fd, port: 20000}
}

// connect has the next client connect, and says which slot got it.
func (d *device) connect(g *Group) int {
	d.t.Helper()
	host, portText, _ := net.SplitHostPort(g.Address)
	port, _ := strconv.Atoi(portText)
	d.port++
	from := netip.AddrFrom4([4]byte{10, 99, byte(1 + d.port%200), byte(1 + d.port/256%200)})
	const syn, ack = 2, 16
	send := func(flags byte, seq, acked uint32) {
		packet := segment(from, netip.MustParseAddr(host), d.port, uint16(port), flags, seq, acked)
		if _, err := unix.Write(d.fd, packet); err != nil {
			d.t.Fatal(err)
		}
	}
	send(syn, 1, 0)
	for buf := make([]byte, 2048); ; {
		poll := []unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 5000); n != 1 {
			d.t.Fatalf("no SYN-ACK within 5 s: %v", err)
		}
		n, err := unix.Read(d.fd, buf)
		if err != nil {
			d.t.Fatal(err)
		}
		if n < 40 || buf[0] != 0x45 || buf[9] != unix.IPPROTO_TCP || binary.BigEndian.Uint16(buf[22:]) != d.port || buf[33] != syn|ack {
			continue // what a system sends unasked
		}
		send(ack, 2, binary.BigEndian.Uint32(buf[24:])+1)
		return accept(d.t, g.Sockets()...)
	}
}

// segment is an IPv4 packet with a TCP header and nothing in it (RFC 791, RFC
// 9293).
func segment(from, to netip.Addr, fromPort, toPort uint16, flags byte, seq, acked uint32) []byte {
	p := make([]byte, 40)
	p[0], p[3], p[8], p[9] = 0x45, 40, 64, unix.IPPROTO_TCP
	copy(p[12:], from.AsSlice())
	copy(p[16:], to.AsSlice())
	binary.BigEndian.PutUint16(p[10:], checksum(p[:20], 0))
	binary.BigEndian.PutUint16(p[20:], fromPort)
	binary.BigEndian.PutUint16(p[22:], toPort)
	binary.BigEndian.PutUint32(p[24:], seq)
	binary.BigEndian.PutUint32(p[28:], acked)
	p[32], p[33] = 5<<4, flags
	binary.BigEndian.PutUint16(p[34:], 65535)
	// The pseudo header: addresses, protocol, length.
	binary.BigEndian.PutUint16(p[36:], checksum(p[12:], unix.IPPROTO_TCP+20))
	return p
}

// checksum is that of RFC 1071.
func checksum(p []byte, sum uint32) uint16 {
	for i := 0; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// On a device that supplies no hash, connections reach every socket that they
// are to reach; a program on the packet's hash sends all to one.
func TestSpreadWithoutThePacketsHash(t *testing.T) {
	d := newDevice(t)
	g := group(t, config.Listen{Address: "10.99.0.1:0"}, 4)
	const connections = 200
	try := func() string {
		t.Helper()
		got := make([]int, 4)
		for range connections {
			got[d.connect(g)]++
		}
		return fmt.Sprint(got)
	}
	reaches := func(what string, slots ...int) {
		t.Helper()
		got := make([]int, 4)
		for range connections {
			got[d.connect(g)]++
		}
		t.Logf("%s: %v", what, got)
		for slot, n := range got {
			in := false
			for _, s := range slots {
				in = in || s == slot
			}
			if in && n < connections/len(slots)/3 || !in && n > 0 {
				t.Errorf("%s: slot %d got %d of %d connections, which are for slots %v", what, slot, n, connections, slots)
			}
		}
	}
	reaches("all serve", 0, 1, 2, 3)
	if err := g.Steer([]int{0, 1, 3}); err != nil {
		t.Fatal(err)
	}
	reaches("slot 2 is steered away", 0, 1, 3)

	const hash = 0xfffff020 // SKF_AD_OFF + SKF_AD_RXHASH
	if err := sys.AttachReuseport(g.Sockets()[0], divide(hash, placesOf(0, 1, 2, 3))); err != nil {
		t.Fatal(err)
	}
	if got := try(); got != "[200 0 0 0]" {
		t.Errorf("the control, by the packet's hash: %s; want all on one", got)
	}
}
