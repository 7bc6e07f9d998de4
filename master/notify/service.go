package notify

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Service is the service manager that started this process, as systemd does for a
// unit with Type=notify or Type=notify-reload. Nil is none, and tells nobody.
type Service struct {
	words  chan string
	done   chan struct{}
	every  time.Duration // between signs of life; 0: none are asked for
	beaten time.Time
	status string
}

// ForService finds the service manager in the environment, or gives nil. Close
// ends it.
func ForService() (*Service, error) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil, nil
	}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("the service manager's watchdog: %w", err)
	}
	// Half of what is allowed, as sd_watchdog_enabled(3) asks for.
	s := &Service{words: make(chan string, 64), done: make(chan struct{}), every: interval / 2}
	go s.run()
	return s, nil
}

// run sends: the service manager may take its time, and the master does not wait.
func (s *Service) run() {
	defer close(s.done)
	for w := range s.words {
		_, _ = daemon.SdNotify(false, w) // who does not listen is not told
	}
}

// say sends lines soon. When nobody reads, what is said 64 words later is lost.
func (s *Service) say(lines ...string) {
	if s == nil {
		return
	}
	select {
	case s.words <- strings.Join(lines, "\n"):
	default:
	}
}

// Ready says that the app serves, at its start and after a reload.
func (s *Service) Ready() { s.say(daemon.SdNotifyReady) }

// Reloading says that a reload has begun. Ready ends it, however it went.
func (s *Service) Reloading() {
	s.say(daemon.SdNotifyReloading, strings.TrimSuffix(daemon.SdNotifyMonotonicUsec(), "\n"))
}

// Stopping says that the app ends.
func (s *Service) Stopping() { s.say(daemon.SdNotifyStopping) }

// Status says in a line how the app is; what was said last is not said again.
func (s *Service) Status(line string) {
	if s == nil || line == s.status {
		return
	}
	s.status = line
	s.say("STATUS=" + line)
}

// Beat is a sign of life, where the service manager wants them (WatchdogSec=). It
// may be called as often as one likes.
func (s *Service) Beat(now time.Time) {
	if s == nil || s.every == 0 || now.Sub(s.beaten) < s.every {
		return
	}
	s.beaten = now
	s.say(daemon.SdNotifyWatchdog)
}

// Close waits until everything is said, at most so long.
func (s *Service) Close(patience time.Duration) {
	if s == nil {
		return
	}
	close(s.words)
	select {
	case <-s.done:
	case <-time.After(patience):
	}
}
