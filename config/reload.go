package config

import (
	"errors"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Reload says when an app is reloaded without being asked to, worker after worker as
// ever. The zero value is never.
type Reload struct {
	// Cron is when, by the clock, as crontab(5) has it: minute, hour, day of the month,
	// month, day of the week (0 to 6, from Sunday); with a second before them where
	// there are six. Or @daily and its like, or @every 6h. The time is local, or that of
	// a zone that is named first: CRON_TZ=Europe/Vienna 0 3 * * *. A time at which the
	// machine slept is made up for once; an hour that is skipped by the clock is
	// skipped.
	Cron string
	// Watch are files and directories, with all that is below these: the app is
	// reloaded when one is changed. It is meant for developing. What begins with a dot,
	// node_modules, and the log files are not looked at.
	Watch []string
	// Ignore are patterns (path.Match) of what below a directory is not looked at
	// either: names, such as *.log, or paths from the directory on, such as public/img.
	Ignore []string
	// Delay is for how long nothing must have changed. 0 is 200 ms.
	Delay time.Duration
}

// Schedule knows when something is to be done.
type Schedule interface {
	// Next is the first time after t; zero when there is none within five years.
	Next(t time.Time) time.Time
}

// ParseCron reads a Reload's Cron.
func ParseCron(spec string) (Schedule, error) {
	const want = "want minute, hour, day of the month, month and day of the week, such as \"0 3 * * *\", or @daily"
	schedule, err := parseCron(spec)
	if err != nil {
		return nil, wrong("cron", "%q: %v: %s", spec, err, want)
	}
	if schedule.Next(time.Now()).IsZero() {
		return nil, wrong("cron", "%q: there is no such day", spec)
	}
	return schedule, nil
}

func parseCron(spec string) (Schedule, error) {
	spec = strings.TrimSpace(spec)
	zone, _, rest := strings.Cut(spec, " ")
	if (strings.HasPrefix(zone, "TZ=") || strings.HasPrefix(zone, "CRON_TZ=")) && !rest {
		return nil, errors.New("nothing follows the zone")
	}
	return cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor).Parse(spec)
}

// checkIgnore says what is wrong with one of a Reload's Ignore.
func checkIgnore(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil {
		return wrong("ignore", "%q: want a name, or a pattern with * and ?, such as *.log", pattern)
	}
	return nil
}

// check says what is wrong with r, and what would be right.
func (r Reload) check() error {
	if r.Cron != "" {
		if _, err := ParseCron(r.Cron); err != nil {
			return err
		}
	}
	for _, pattern := range r.Ignore {
		if err := checkIgnore(pattern); err != nil {
			return err
		}
	}
	switch {
	case r.Delay < 0:
		return wrong("delay", "%v: want a duration of at least 0", r.Delay)
	case len(r.Watch) == 0 && (len(r.Ignore) > 0 || r.Delay > 0):
		return wrong("reload", "ignore or delay without watch: want the files and directories that are looked at, such as watch: [src]")
	}
	return nil
}

// below gives r with relative paths below a directory.
func (r Reload) below(dir string) Reload {
	watch := r.Watch
	r.Watch = nil
	for _, p := range watch {
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		r.Watch = append(r.Watch, p)
	}
	return r
}
