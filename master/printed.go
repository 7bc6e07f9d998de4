package master

import (
	"fmt"
	"io"
	"path/filepath"
	"time"

	"drover/config"
	"drover/master/output"
)

// printed is where goes what drover logs and its workers print. It does not change
// while the app runs.
type printed struct {
	std     [2]*output.Sink         // drover's own stdout and stderr
	files   map[string]*output.Sink // by path: two names of one file are one file
	log     output.Sinks
	workers [2]stream // of the workers' stdout and stderr
	format  string    // of the log
}

// stream is where one stream of the workers goes, and how its lines look there.
type stream struct {
	to     output.Sinks
	format string
}

// openPrinted opens the files that a configuration with its defaults names. close
// gives back what there is, after an error too.
func openPrinted(c config.Config, stdout, stderr io.Writer) (p printed, err error) {
	p.std = [2]*output.Sink{output.NewSink(stdout), output.NewSink(stderr)}
	p.files = map[string]*output.Sink{}
	// choose gives the files of those paths that are named, or else one of our own.
	choose := func(own *output.Sink, paths ...string) (to output.Sinks, format string) {
		seen := map[string]bool{}
		for _, path := range paths {
			if path == "" || err != nil {
				continue
			}
			if path, err = filepath.Abs(path); err != nil || seen[path] {
				continue
			}
			seen[path] = true
			if p.files[path] == nil {
				var file *output.File
				if file, err = output.OpenFile(path, c.Logs.MaxSize, c.Logs.Keep, p.std[1]); err != nil {
					continue
				}
				p.files[path] = output.NewSink(file)
			}
			to = append(to, p.files[path])
		}
		format = c.LogFormat
		switch {
		case len(to) == 0:
			to = output.Sinks{own}
		case format == "text":
			format = output.Dated
		}
		return to, format
	}
	p.log, p.format = choose(p.std[1], c.Logs.File)
	p.workers[0].to, p.workers[0].format = choose(p.std[0], c.Logs.OutFile, c.Logs.File)
	p.workers[1].to, p.workers[1].format = choose(p.std[1], c.Logs.ErrorFile, c.Logs.File)
	return p, err
}

// line prints a line of a worker's stdout (0) or stderr (1), under its name.
func (p printed) line(i int, name string, now time.Time, slot int, line []byte) {
	s := p.workers[i]
	_, _ = s.to.Write(output.WorkerLine(s.format, now, slot, name, line))
}

// reopenLogs has the log files opened anew by their paths, once they were moved away.
func (m *Master) reopenLogs() {
	if len(m.printed.files) == 0 {
		m.log.Warn("USR1: there is no log file to open anew: logs of drover.yaml names them", "event", "reopen", "files", 0)
		return
	}
	for _, s := range m.printed.files {
		s.Reopen()
	}
	m.log.Info(fmt.Sprintf("USR1: %s opened anew", count(len(m.printed.files), "log file")), "event", "reopen", "files", len(m.printed.files))
}

// close writes what is queued, for at most the given time a file.
func (p printed) close(atMost time.Duration) {
	for _, s := range p.files {
		s.Close(atMost)
	}
	for _, s := range p.std {
		if s != nil {
			s.Close(atMost)
		}
	}
}
