// Package notify speaks the protocol of sd_notify(3), both ways: programs that do
// not know of drover tell it when they serve, and the master tells the service
// manager that started it.
package notify

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"drover/internal/sys"
)

// Socket is where one life's process tells how it is. One goroutine receives.
type Socket struct {
	Address string // for NOTIFY_SOCKET: in the abstract namespace, so that any user's process reaches it

	file *os.File
	buf  []byte
}

// Notice is what one datagram says. What drover has no use for (STATUS, MAINPID,
// WATCHDOG, FDSTORE, …) is not in it.
type Notice struct {
	PID      int  // the process that sent it
	Ready    bool // READY=1
	Stopping bool // STOPPING=1
}

// maxNotice bounds a datagram, in bytes, as systemd does (NOTIFY_BUFFER_MAX of
// its src/core/manager.c).
const maxNotice = 4096

// Listen makes a socket under a name that nobody can guess. The caller closes it,
// when nobody receives any more.
func Listen() (*Socket, error) {
	name := "drover/" + rand.Text()
	fd, err := sys.NoticeSocket(name)
	if err != nil {
		return nil, fmt.Errorf("make a socket for notices: %w", err)
	}
	return &Socket{Address: "@" + name, file: os.NewFile(uintptr(fd), "notices"), buf: make([]byte, maxNotice)}, nil
}

// Receive waits for a notice. Its error is os.ErrDeadlineExceeded after Hurry,
// once nothing more is queued, or the kernel's.
func (s *Socket) Receive() (Notice, error) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return Notice{}, err
	}
	var n, pid int
	var recvErr error
	receive := func(fd uintptr) bool {
		n, pid, recvErr = sys.ReceiveNotice(int(fd), s.buf)
		return !sys.IsAgain(recvErr)
	}
	err = raw.Read(receive)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		done := false
		if controlErr := raw.Control(func(fd uintptr) { done = receive(fd) }); controlErr != nil {
			return Notice{}, controlErr
		}
		if !done {
			return Notice{}, os.ErrDeadlineExceeded
		}
	} else if err != nil {
		return Notice{}, err
	}
	if recvErr != nil {
		return Notice{}, recvErr
	}
	notice := Notice{PID: pid}
	for line := range strings.Lines(string(s.buf[:n])) {
		switch strings.TrimSuffix(line, "\n") {
		case "READY=1":
			notice.Ready = true
		case "STOPPING=1":
			notice.Stopping = true
		}
	}
	return notice, nil
}

// Hurry makes Receive return what is queued and then fail instead of waiting. It
// may be called from any goroutine.
func (s *Socket) Hurry() error { return s.file.SetReadDeadline(time.Unix(1, 0)) }

// Close closes the socket.
func (s *Socket) Close() error { return s.file.Close() }
