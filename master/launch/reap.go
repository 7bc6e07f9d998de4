package launch

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"drover/internal/sys"
)

// As PID 1, of a container mostly, a process inherits every orphan: they stay
// zombies until it collects them. It must not collect its own children so, for
// whom somebody waits. A wait4(-1) beside such waits broke a third of them.

var (
	children sync.Mutex       // held while a child is made or collected
	waited   = map[int]bool{} // started by Launch, not collected yet
	again    = make(chan struct{}, 1)
)

// lookAgain has a reaper look for strangers: the kernel shows one ended child at a
// time, and one of our own may have hidden others.
func lookAgain() {
	select {
	case again <- struct{}{}:
	default:
	}
}

// ReapOrphans collects, until stop is called, every child that ends and was not
// started by Launch, where this process is PID 1; anywhere else it does nothing.
// stop waits until that is over. tell gets what goes wrong, which is nothing, as
// far as the kernel's manual goes.
func ReapOrphans(tell func(error)) (stop func()) {
	if os.Getpid() != 1 {
		return func() {}
	}
	ended := make(chan os.Signal, 1) // SIGCHLDs merge anyway
	signal.Notify(ended, syscall.SIGCHLD)
	done, over := make(chan struct{}), make(chan struct{})
	lookAgain() // at what ended before
	go func() {
		defer close(over)
		for {
			select {
			case <-ended:
			case <-again:
			case <-done:
				return
			}
			if err := reapStrangers(); err != nil {
				tell(fmt.Errorf("collect orphans: %w", err))
			}
		}
	}()
	return func() {
		signal.Stop(ended)
		close(done)
		<-over
	}
}

// reapStrangers collects ended children, up to one that somebody waits for: when
// it is collected, it is looked again.
func reapStrangers() error {
	children.Lock()
	defer children.Unlock()
	for {
		pid, err := sys.EndedChild()
		if err != nil || pid == 0 || waited[pid] {
			return err
		}
		if err := sys.Collect(pid); err != nil {
			return err
		}
	}
}
