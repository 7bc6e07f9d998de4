// Package pm2 makes drover.yaml of PM2's ecosystem files: what they say of each
// app, and a note of each thing that drover does not do, or does otherwise.
package pm2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"drover/config"
)

// Options say how a file is to be understood.
type Options struct {
	// From is what the file is called in errors and in what is written.
	From string
	// Dir is the file's directory, absolute: an app that names none works there.
	Dir string
	// Base is the directory in which the drover.yaml will lie, absolute.
	Base string
	// Home is what ~ stands for.
	Home string
	// Only is the name of the one app that is wanted. Empty is all.
	Only string
	// Env chooses one of the apps' env_NAME, as pm2 start --env does. Empty is none.
	Env string
	// CPUs is what -1 for all CPUs but one is counted from.
	CPUs int
	// Root is the file system's root, where scripts and package.json are looked at.
	// Nil is to look at no file.
	Root fs.FS
}

// App is one app of the file.
type App struct {
	Name  string // as drover calls it; two of a file may have the same
	YAML  []byte // a drover.yaml that config.Parse takes
	Notes []Note
}

// Note is one thing that was not carried over, or means something else now.
type Note struct {
	Key string // as it is written in the file
	Why string // what is so, and what to do instead
}

func (n Note) String() string { return n.Key + ": " + n.Why }

// Undefined and Function stand for JavaScript's values that JSON has not. A text
// of the file cannot be one: no environment variable and no path holds a zero
// byte.
const (
	Undefined = "\x00undefined"
	Function  = "\x00function"
)

// Convert takes the value of an ecosystem file, as JSON: {"apps": […]}, a list of
// apps, or one app. The notes are about the file as a whole.
func Convert(data []byte, o Options) ([]App, []Note, error) {
	top, err := decode(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", o.From, err)
	}
	var notes []Note
	var deploy map[string]any
	list, isList := top.([]any)
	if m, ok := top.(map[string]any); ok {
		if inner, ok := m["pm2"].(map[string]any); ok && m["apps"] == nil { // a package.json
			m = map[string]any{"apps": inner}
			if inner["apps"] != nil {
				m = inner
			}
		}
		apps, ok := m["apps"]
		if list, isList = apps.([]any); !isList {
			if !ok {
				apps, m = m, nil // one app by itself
			}
			list, isList = []any{apps}, true
		}
		for _, key := range slices.Sorted(maps.Keys(m)) {
			switch key {
			case "apps":
			case "deploy":
				deploy, _ = m[key].(map[string]any)
				notes = append(notes, Note{key, "drover deploys nothing: put the files there as before, and then type drover reload"})
			default:
				notes = append(notes, Note{key, "unknown beside apps: left out"})
			}
		}
	}
	if !isList {
		return nil, nil, fmt.Errorf("%s: it is %s: want {apps: [...]}, a list of apps, or one app", o.From, told(top))
	}
	var apps []App
	var names []string
	for i, v := range list {
		raw, ok := v.(map[string]any)
		if !ok {
			return nil, nil, fmt.Errorf("%s: app %d is %s: want an object with a script", o.From, i+1, told(v))
		}
		c := &conversion{o: o, deploy: deploy, values: map[string]any{}, as: map[string]string{}}
		c.canonical(raw)
		name := c.naming()
		names = append(names, name)
		if o.Only != "" && name != o.Only && config.CleanName(name) != o.Only {
			continue
		}
		app, err := c.app(name)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: app %d, %q: %w", o.From, i+1, name, err)
		}
		apps = append(apps, app)
	}
	switch {
	case len(list) == 0:
		return nil, nil, fmt.Errorf("%s: it has no app: want {apps: [{script: \"app.js\"}]}", o.From)
	case len(apps) == 0:
		return nil, nil, fmt.Errorf("%s: no app is called %q: there are %s", o.From, o.Only, strings.Join(names, ", "))
	}
	return apps, notes, nil
}

// decode reads JSON, with numbers as they are written.
func decode(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it says nothing")
		}
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON value")
	}
	return v, nil
}

// told is how a value looks in an error.
func told(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		if rest, ok := strings.CutPrefix(v, "\x00"); ok {
			return strings.Replace(rest, "func", "a func", 1)
		}
		return fmt.Sprintf("%.60q", v)
	}
	return fmt.Sprint(v)
}

// aliases are PM2's other names of its keys (lib/API/schema.json). It takes
// camelCase for all of them, too.
var aliases = map[string]string{
	"exec": "script", "cmd": "script", "command": "script",
	"exec_interpreter": "interpreter", "interpreter_args": "node_args",
	"out": "out_file", "output": "out_file", "out_log": "out_file",
	"error": "error_file", "err": "error_file", "err_file": "error_file", "err_log": "error_file",
	"log": "log_file", "pid": "pid_file", "cron": "cron_restart", "combine_logs": "merge_logs",
	"user": "uid", "group": "gid",
}

// conversion is one app under way.
type conversion struct {
	o      Options
	deploy map[string]any
	values map[string]any    // by PM2's first name of the key; taken ones are deleted
	as     map[string]string // that name: as it is written
	notes  []Note
	file   document
}

// canonical sorts the keys by PM2's first name of each.
func (c *conversion) canonical(raw map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		if raw[key] == nil {
			continue
		}
		first := key
		if !strings.HasPrefix(key, "env_") {
			first = snake(key)
		}
		alias := first != key
		if to, ok := aliases[first]; ok {
			first, alias = to, true
		}
		if alias && raw[first] != nil || c.values[first] != nil {
			c.notes = append(c.notes, Note{key, "the same as " + first + ", which is given too: left out"})
			continue
		}
		c.values[first], c.as[first] = raw[key], key
	}
}

// snake makes max_restarts of maxRestarts.
func snake(key string) string {
	var b strings.Builder
	for i, r := range key {
		if r >= 'A' && r <= 'Z' && i > 0 && key != "windowsHide" {
			b.WriteByte('_')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// note says what became of a key.
func (c *conversion) note(key, format string, args ...any) {
	if as, ok := c.as[key]; ok {
		key = as
	}
	c.notes = append(c.notes, Note{key, oneLine(fmt.Sprintf(format, args...))})
}

// oneLine keeps what the file says from breaking a line of ours.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// take gives a key's value, once; nil when there is none, or none that JSON has.
func (c *conversion) take(key string) any {
	v := c.values[key]
	delete(c.values, key)
	if s, ok := v.(string); ok && strings.HasPrefix(s, "\x00") {
		c.note(key, "%s here, where the file was read: left out", told(v))
		return nil
	}
	return v
}

// naming is PM2's name of the app.
func (c *conversion) naming() string {
	if name := text(c.take("name")); name != "" {
		return name
	}
	script, _ := c.values["script"].(string)
	if script == "" {
		return ""
	}
	base := path.Base(script)
	if ext := path.Ext(base); ext != base {
		base = strings.TrimSuffix(base, ext)
	}
	return base
}

func (c *conversion) app(name string) (App, error) {
	if c.flag("append_env_to_name") && c.o.Env != "" {
		name += "-" + c.o.Env
	}
	clean := config.CleanName(name)
	if clean != name {
		c.note("name", "%q is %s here: a name has letters, digits, '_', '-' and '.'", name, clean)
	}
	c.file.comment("%s, of %s; drover check -c FILE checks it, drover -c FILE runs it", clean, c.o.From)
	c.file.pair("name", clean)
	if err := c.program(clean); err != nil {
		return App{}, err
	}
	c.times()
	c.restarts(clean)
	c.output()
	c.rest()
	return App{Name: clean, YAML: c.file.bytes(), Notes: c.notes}, nil
}
