package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
)

// From the kernel's headers: linux/netlink.h, linux/sock_diag.h and
// net/tcp_states.h.
const (
	netlinkSockDiag  = 4
	sockDiagByFamily = 20
	tcpListen        = 10
	diagRequest      = 56 // struct inet_diag_req_v2
	diagMessage      = 72 // struct inet_diag_msg
)

// listeningOn counts the sockets that listen on a port, of any address. It asks
// by sock_diag(7), which looks at no other socket: /proc/net/tcp takes a second
// to read when a load has left thousands of connections in TIME_WAIT.
func listeningOn(port int) (int, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, netlinkSockDiag)
	if err != nil {
		return 0, fmt.Errorf("count the listening sockets: %w", os.NewSyscallError("socket", err))
	}
	defer syscall.Close(fd)
	total := 0
	for _, family := range []byte{syscall.AF_INET, syscall.AF_INET6} {
		n, err := listening(fd, family, port)
		if err != nil {
			return 0, fmt.Errorf("count the listening sockets: %w", err)
		}
		total += n
	}
	return total, nil
}

// listening counts those of one family.
func listening(fd int, family byte, port int) (int, error) {
	ask := make([]byte, syscall.NLMSG_HDRLEN+diagRequest)
	binary.NativeEndian.PutUint32(ask, uint32(len(ask)))
	binary.NativeEndian.PutUint16(ask[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(ask[6:], syscall.NLM_F_REQUEST|syscall.NLM_F_DUMP)
	request := ask[syscall.NLMSG_HDRLEN:]
	request[0], request[1] = family, syscall.IPPROTO_TCP
	binary.NativeEndian.PutUint32(request[4:], 1<<tcpListen)
	if err := syscall.Sendto(fd, ask, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	count, buf := 0, make([]byte, 64<<10)
	for {
		n, _, err := syscall.Recvfrom(fd, buf, 0)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 0, os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return 0, fmt.Errorf("parse the kernel's answer: %w", err)
		}
		for _, m := range messages {
			switch {
			case m.Header.Type == syscall.NLMSG_DONE:
				return count, nil
			case m.Header.Type == syscall.NLMSG_ERROR && len(m.Data) >= 4:
				errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
				if errno == syscall.ENOENT && family == syscall.AF_INET6 {
					return 0, nil // a kernel without IPv6
				}
				return 0, os.NewSyscallError("sock_diag", errno)
			case m.Header.Type != sockDiagByFamily || len(m.Data) < diagMessage:
				return 0, fmt.Errorf("the kernel's answer has a message of type %d and %d bytes", m.Header.Type, len(m.Data))
			case int(binary.BigEndian.Uint16(m.Data[4:])) == port && m.Data[1] == tcpListen:
				count++
			}
		}
	}
}
