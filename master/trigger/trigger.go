// Package trigger tells when an app is to be reloaded though nobody asks for it: at a
// time of the clock, or since files have changed.
package trigger

import (
	"time"

	"drover/config"
)

// Timetable is when a schedule's next time comes. The zero *Timetable, nil, has
// none. One goroutine uses it.
type Timetable struct {
	schedule           config.Schedule
	next, last, looked time.Time // as the clock on the wall shows them; last is zero before the first
}

// NewTimetable begins at now. An empty spec gives nil; another is config.Reload's
// Cron.
func NewTimetable(spec string, now time.Time) (*Timetable, error) {
	if spec == "" {
		return nil, nil
	}
	schedule, err := config.ParseCron(spec)
	if err != nil {
		return nil, err
	}
	now = now.Round(0)
	return &Timetable{schedule: schedule, next: schedule.Next(now), looked: now}, nil
}

// Due reports whether a time of the schedule has come since it was asked last. Of
// several that were missed, as by a machine that slept, it reports one; and none anew
// that a clock which is set back comes to again.
func (t *Timetable) Due(now time.Time) bool {
	if t == nil {
		return false
	}
	now = now.Round(0)
	if now.Before(t.looked) {
		from := now
		if t.last.After(now) {
			from = t.last
		}
		t.next = t.schedule.Next(from)
	}
	t.looked = now
	if t.next.IsZero() || now.Before(t.next) {
		return false
	}
	t.last, t.next = now, t.schedule.Next(now)
	return true
}
