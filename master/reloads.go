package master

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"drover/config"
	"drover/master/trigger"
)

// arm begins to look after what the app is reloaded for unasked, in place of what was
// looked after before.
func (m *Master) arm(c config.Config) error {
	timetable, err := trigger.NewTimetable(c.Reload.Cron, time.Now())
	if err != nil {
		return err
	}
	ignore := c.Reload.Ignore
	for path := range m.printed.files { // drover's own writing, or a reload would follow on each
		ext := filepath.Ext(path)
		ignore = append(ignore[:len(ignore):len(ignore)], path, strings.TrimSuffix(path, ext)+"-*"+ext)
	}
	for _, fd := range []string{"1", "2"} { // likewise
		if path, err := os.Readlink("/proc/self/fd/" + fd); err == nil && filepath.IsAbs(path) {
			ignore = append(ignore[:len(ignore):len(ignore)], path)
		}
	}
	watcher, err := trigger.Watch(c.Reload.Watch, ignore, c.Reload.Delay)
	if err != nil {
		return err
	}
	m.watcher.Close()
	m.timetable, m.watcher = timetable, watcher
	return nil
}

// rearm is arm for a generation that has come to serve. A timetable that is the same
// goes on.
func (m *Master) rearm(before, now config.Config) {
	timetable := m.timetable
	if err := m.arm(now); err != nil {
		m.log.Error(fmt.Sprintf("reload: %v: what was looked after before still is", err), "event", "watch", "error", err.Error())
	} else if now.Reload.Cron == before.Reload.Cron {
		m.timetable = timetable
	}
}

// reloadFor reloads the app, since what it was to be reloaded for has happened.
func (m *Master) reloadFor(why string) {
	if m.stopping {
		return
	}
	m.log.Info("reload: "+why, "event", "trigger", "why", why)
	m.reload(make(chan error, 1))
}
