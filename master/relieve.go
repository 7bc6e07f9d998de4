package master

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"drover/internal/sys"
	"drover/master/admin"
)

// relieve ends the workers that a killed master of this name left behind, now
// that all of ours serve the same addresses: each gets TERM, upon which it
// accepts what is queued, answers, and exits; what is left after the drain time
// is killed.
func (m *Master) relieve(orphans []admin.Process) {
	m.log.Info(fmt.Sprintf("relieving %d workers that a killed master left: %s", len(orphans), pids(orphans)),
		"event", "relieve", "orphans", orphans)
	for _, o := range orphans {
		go func() {
			err := relieve(o, m.config.Drain+time.Second)
			if err != nil {
				m.log.Error(fmt.Sprintf("relieve worker with pid %d: %v", o.PID, err), "event", "relieve", "pid", o.PID, "error", err.Error())
				return
			}
			m.log.Info(fmt.Sprintf("relieved the worker with pid %d", o.PID), "event", "relieved", "pid", o.PID)
		}()
	}
}

// relieve asks one process to end, and kills it when it has not within patience.
// It goes by a pidfd throughout, so that it never hits another process.
func relieve(o admin.Process, patience time.Duration) error {
	fd, err := sys.PidfdOpen(o.PID)
	if err != nil || !o.Alive() {
		return nil // gone already
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	signal := func(sig syscall.Signal) error {
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		var sigErr error
		if err := raw.Control(func(fd uintptr) { sigErr = sys.PidfdSignal(int(fd), sig) }); err != nil {
			return err
		}
		return sigErr
	}
	if err := signal(syscall.SIGTERM); err != nil {
		return err
	}
	kill := time.AfterFunc(patience, func() { _ = signal(syscall.SIGKILL) })
	defer kill.Stop()
	return sys.AwaitReadable(f)
}

func pids(orphans []admin.Process) string {
	text := ""
	for i, o := range orphans {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprint(o.PID)
	}
	return text
}
