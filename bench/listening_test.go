package main

import (
	"context"
	"net"
	"syscall"
	"testing"
)

// Sockets of a group count each, connections of the port do not, nor do other
// ports.
func TestListeningOn(t *testing.T) {
	group := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			const reusePort = 15 // SO_REUSEPORT, asm-generic/socket.h
			if err := syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1); err != nil {
				t.Error(err)
			}
		})
	}}
	first, err := group.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	port := first.Addr().(*net.TCPAddr).Port
	is := func(when string, want int) {
		t.Helper()
		if n, err := listeningOn(port); n != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", when, n, err, want)
		}
	}
	is("one", 1)
	second, err := group.Listen(context.Background(), "tcp4", first.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	is("two", 2)
	conn, err := net.Dial("tcp4", first.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	other, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	is("with a connection and another port", 2)
	second.Close()
	first.Close()
	is("closed", 0)
	six, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6: ", err)
	}
	defer six.Close()
	port = six.Addr().(*net.TCPAddr).Port
	is("IPv6", 1)
}
