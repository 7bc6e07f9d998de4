package output

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Dated is the format of text lines in a file: with the day before the time, since it
// is read later.
const Dated = "dated"

// NewLogger gives a logger in one of three formats: "json", one object a line,
// or "text", one readable line an event, or Dated:
//
//	10:31:04.512 worker 0 ready: pid 4711, generation 1, after 6ms
//
// Text prints the message alone, since messages are written to be read; JSON
// adds every attribute for machines. A text line of a level above Info carries
// its level.
func NewLogger(w io.Writer, format string) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(&textHandler{w: w, layout: layout(format)})
}

// textHandler is the "text" format. Attributes that are not in the message by
// their own words, errors above all, are the caller's to put there.
type textHandler struct {
	mu     sync.Mutex
	w      io.Writer
	layout string
}

func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
	line.WriteString(r.Time.Format(h.layout))
	line.WriteByte(' ')
	if r.Level > slog.LevelInfo {
		line.WriteString(strings.ToLower(r.Level.String()))
		line.WriteString(": ")
	}
	line.WriteString(r.Message)
	line.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, line.String())
	return err
}

func (h *textHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *textHandler) WithGroup(string) slog.Handler      { return h }

// layout is how a text format writes the time.
func layout(format string) string {
	if format == Dated {
		return "2006-01-02 15:04:05.000"
	}
	return "15:04:05.000"
}

// WorkerLine formats one line that a worker printed, without its newline:
// behind a time and its slot, or as a JSON object.
func WorkerLine(format string, now time.Time, slot int, stream string, line []byte) []byte {
	if format == "json" {
		var out strings.Builder
		slog.New(slog.NewJSONHandler(&out, nil)).Info(string(line), "slot", slot, "stream", stream)
		return []byte(out.String())
	}
	out := now.AppendFormat(nil, layout(format))
	out = append(out, " ["...)
	out = strconv.AppendInt(out, int64(slot), 10)
	out = append(out, "] "...)
	out = append(out, line...)
	return append(out, '\n')
}
