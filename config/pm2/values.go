package pm2

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"drover/config"
	"drover/config/npm"
)

// text is a value that PM2 takes as text; empty when it is none.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// flag takes a value that is true or false.
func (c *conversion) flag(key string) bool {
	v := c.take(key)
	switch v {
	case nil, false, "false":
		return false
	case true, "true":
		return true
	}
	c.note(key, "it is %s: want true or false: left out", told(v))
	return false
}

// words takes a list, or a text of words between blanks, in quotes where they
// hold some.
func (c *conversion) words(key string) []string {
	switch v := c.take(key).(type) {
	case nil:
	case string:
		if words, ok := npm.Split(v); ok {
			return words
		}
		return strings.Fields(v) // PM2 has no shell either
	case []any:
		var out []string
		for _, e := range v {
			switch {
			case text(e) != "" && !strings.ContainsRune(text(e), 0):
				out = append(out, text(e))
			case e == true, e == false, e == "":
				out = append(out, fmt.Sprint(e))
			default:
				c.note(key, "it holds %s: want words: left out", told(e))
			}
		}
		return out
	default:
		if s := text(v); s != "" {
			return []string{s}
		}
		c.note(key, "it is %s: want text or a list: left out", told(v))
	}
	return nil
}

// The units of PM2's times and sizes, which are milliseconds and bytes without
// one.
var (
	times = map[string]float64{"": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
	sizes = map[string]float64{"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
)

var measured = regexp.MustCompile(`^([0-9.]+)([a-zA-Z]?)$`)

// measure takes a number with a unit. It is 0 when there is none.
func (c *conversion) measure(key string, units map[string]float64, want string) float64 {
	v := c.take(key)
	if v == nil {
		return 0
	}
	if m := measured.FindStringSubmatch(text(v)); m != nil && units[m[2]] != 0 {
		if n, err := strconv.ParseFloat(m[1], 64); err == nil && n*units[m[2]] <= 1e15 {
			return n * units[m[2]]
		}
	}
	c.note(key, "it is %s: want %s: left out", told(v), want)
	return 0
}

// maxTime is longer than anybody waits, and a time.Duration.
const maxTime = 1e12 // ms

// duration takes a time, in milliseconds or with PM2's units; 0 is none.
func (c *conversion) duration(key string) time.Duration {
	ms := c.measure(key, times, "milliseconds")
	return time.Duration(min(ms, maxTime) * float64(time.Millisecond))
}

// size is a number of bytes as drover.yaml has it.
func size(bytes int64) string {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if bytes%unit.bytes == 0 {
			return fmt.Sprintf("%d%s", bytes/unit.bytes, unit.name)
		}
	}
	return fmt.Sprintf("%dB", bytes)
}

// workers takes PM2's number of instances: what goes into the file.
func (c *conversion) workers() string {
	v := c.take("instances")
	if v == nil {
		return "1"
	}
	n, err := strconv.Atoi(text(v))
	switch {
	case v == "max", err == nil && n == 0:
		return "auto"
	case err != nil:
		c.note("instances", "it is %s: want a number or max: 1 is written", told(v))
		return "1"
	case n < 0:
		c.note("instances", "%d is written as %d, of the %d CPUs here: change workers on a machine with another number", n, max(1, c.o.CPUs+n), c.o.CPUs)
		n = max(1, c.o.CPUs+n)
	case n > config.MaxWorkers:
		c.note("instances", "%d is written as %d, which is the most", n, config.MaxWorkers)
	}
	return strconv.Itoa(min(n, config.MaxWorkers))
}

// document is a drover.yaml that is being written.
type document struct{ b strings.Builder }

func (d *document) bytes() []byte { return []byte(d.b.String()) }

func (d *document) comment(format string, args ...any) {
	d.b.WriteString("# " + oneLine(fmt.Sprintf(format, args...)) + "\n")
}

func (d *document) pair(key, value string) { fmt.Fprintf(&d.b, "%s: %s\n", key, scalar(value)) }

func (d *document) list(key string, values []string) {
	fmt.Fprintf(&d.b, "%s: %s\n", key, flow(values))
}

// mapping writes lines that are ready, below a key.
func (d *document) mapping(key string, lines []string) {
	if len(lines) > 0 {
		fmt.Fprintf(&d.b, "%s:\n  %s\n", key, strings.Join(lines, "\n  "))
	}
}

// flow is a list on one line.
func flow(values []string) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = scalar(v)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// plain is what YAML takes as text without quotes, also within a list.
var plain = regexp.MustCompile(`^(--?)?[A-Za-z0-9_./][A-Za-z0-9_./@=+-]*$`)

// words that YAML takes for something else than text.
var notText = []string{"null", "true", "false", "yes", "no", "on", "off"}

// scalar is a text as YAML has it.
func scalar(s string) string {
	if plain.MatchString(s) && !slices.Contains(notText, strings.ToLower(s)) {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r >= 0x80 && !strconv.IsPrint(r) && r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		case r >= 0x80 && !strconv.IsPrint(r):
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
