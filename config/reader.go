package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// reader walks a file's syntax tree, and notes what is wrong with it.
type reader struct {
	name    string
	anchors map[string]ast.Node
	errs    FileErrors
}

// parse gives the tree, or nil after noting an error.
func (r *reader) parse(data []byte) ast.Node {
	if len(data) > maxFile {
		r.errs = append(r.errs, &FileError{r.name, 1, 1, fmt.Sprintf("%d bytes: want at most %d", len(data), maxFile)})
		return nil
	}
	tree, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	var syntax yaml.Error
	switch {
	case errors.As(err, &syntax):
		at := syntax.GetToken()
		r.errs = append(r.errs, &FileError{r.name, max(1, at.Position.Line), max(1, at.Position.Column),
			fmt.Sprintf("%s at %.40q: want YAML, lines of `key: value`, indented by spaces", syntax.GetMessage(), strings.TrimSpace(at.Value))})
		return nil
	case err != nil:
		r.errs = append(r.errs, &FileError{r.name, 1, 1, err.Error()})
		return nil
	}
	var top ast.Node
	for _, doc := range tree.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if top != nil {
			r.wrong(doc.Body, "a second document: want one file for each app")
			return nil
		}
		top = doc.Body
	}
	if top == nil {
		r.errs = append(r.errs, &FileError{r.name, 1, 1, "the file says nothing: want at least listen, and run or serve"})
	}
	return top
}

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// wrong notes an error at a node.
func (r *reader) wrong(n ast.Node, format string, args ...any) {
	line, column := 1, 1
	if at := position(n); at != nil && at.Position != nil {
		line, column = max(1, at.Position.Line), max(1, at.Position.Column)
	}
	r.errs = append(r.errs, &FileError{r.name, line, column, fmt.Sprintf(format, args...)})
}

// position is a node's first token.
func position(n ast.Node) *token.Token {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return position(n.Values[0])
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken()
	}
	return n.GetToken()
}

// told is how a node looks in an error.
func told(n ast.Node) string {
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.LiteralNode:
		return fmt.Sprintf("%.40q", n.Value.Value)
	}
	return fmt.Sprintf("%.40q", n.GetToken().Value)
}

// plain follows anchors, aliases and tags to what they stand for.
func (r *reader) plain(n ast.Node) ast.Node {
	for range 16 { // an alias of an alias of …
		switch t := n.(type) {
		case *ast.AnchorNode:
			r.anchors[t.Name.GetToken().Value] = t.Value
			n = t.Value
		case *ast.AliasNode:
			name := t.Value.GetToken().Value
			target, ok := r.anchors[name]
			if !ok {
				r.wrong(t, "*%s: there is no &%s above it", name, name)
				return nil
			}
			n = target
		case *ast.TagNode:
			n = t.Value
		default:
			return n
		}
	}
	r.wrong(n, "aliases of aliases without end")
	return nil
}

// keys are what a mapping may hold, and what takes each value.
type keys map[string]func(ast.Node)

// mapping walks a mapping; what says what it is of, in errors.
func (r *reader) mapping(n ast.Node, what string, takes keys) {
	r.pairs(n, what, func(key string, at, value ast.Node) {
		take, ok := takes[key]
		if !ok {
			hint := "want one of " + strings.Join(slices.Sorted(maps.Keys(takes)), ", ")
			if near := nearest(key, takes); near != "" {
				hint = fmt.Sprintf("did you mean %s?", near)
			}
			r.wrong(at, "unknown key %.40q in %s: %s", key, what, hint)
			return
		}
		take(value)
	})
}

// pairs walks the pairs of a mapping, each key once.
func (r *reader) pairs(n ast.Node, what string, take func(key string, at, value ast.Node)) {
	var values []*ast.MappingValueNode
	switch n := r.plain(n).(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	case nil:
		return
	default:
		r.wrong(n, "%s is %s: want a mapping, lines of `key: value`", what, told(n))
		return
	}
	seen := map[string]int{}
	for _, v := range values {
		if v.Key.IsMergeKey() {
			r.wrong(v.Key, "<< is not known here: write the keys out")
			continue
		}
		key, ok := r.text(v.Key)
		if !ok {
			r.wrong(v.Key, "the key of a line in %s is %s: want a word", what, told(v.Key))
			continue
		}
		if line, twice := seen[key]; twice {
			r.wrong(v.Key, "%s is given twice: line %d has it already", key, line)
			continue
		}
		seen[key] = v.Key.GetToken().Position.Line
		take(key, v.Key, v.Value)
	}
}

// nearest is the key that was probably meant, or empty.
func nearest(key string, takes keys) string {
	best, least := "", 3 // two slips at most
	for _, k := range slices.Sorted(maps.Keys(takes)) {
		if d := distance(key, k); d < least && d < len(k) {
			best, least = k, d
		}
	}
	return best
}

// distance is how many letters are to be added, dropped or changed to make b of
// a (Levenshtein's).
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// text is a scalar as it is written, and whether it is one.
func (r *reader) text(n ast.Node) (string, bool) {
	switch n := r.plain(n).(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// What follows makes takers: of a key's value into a field.

func (r *reader) str(what, want string, into *string, check func(string) error) func(ast.Node) {
	return func(n ast.Node) {
		s, ok := r.text(n)
		if !ok || s == "" {
			r.wrong(n, "%s is %s: want %s", what, told(r.plain(n)), want)
			return
		}
		if check != nil {
			if err := check(s); err != nil {
				r.wrong(n, "%v", err)
				return
			}
		}
		*into = s
	}
}

func (r *reader) list(what, want string, take func(ast.Node)) func(ast.Node) {
	return func(n ast.Node) {
		seq, ok := r.plain(n).(*ast.SequenceNode)
		if !ok {
			r.wrong(n, "%s is %s: want %s", what, told(r.plain(n)), want)
			return
		}
		if len(seq.Values) == 0 {
			r.wrong(n, "%s is empty: want %s", what, want)
		}
		for _, v := range seq.Values {
			take(v)
		}
	}
}

// duration takes a Go duration; from least on, unless a negative one means off.
func (r *reader) duration(what string, off bool, into *time.Duration) func(ast.Node) {
	return func(n ast.Node) {
		s, _ := r.text(n)
		d, err := time.ParseDuration(s)
		switch {
		case s == "off" && off:
			*into = -1
		case err != nil:
			want := "a number with a unit, such as 500ms, 30s or 1m30s"
			if off {
				want += ", or off"
			}
			r.wrong(n, "%s is %s: want %s", what, told(r.plain(n)), want)
		case d < 0 && off:
			r.wrong(n, "%s is %q: want a duration above 0, or off", what, s)
		case d < 0:
			r.wrong(n, "%s is %q: want a duration of at least 0", what, s)
		default:
			*into = d
		}
	}
}

func (r *reader) number(what string, least, most int, into *int) func(ast.Node) {
	return func(n ast.Node) {
		s, _ := r.text(n)
		v, err := strconv.Atoi(s)
		if err != nil || v < least || v > most {
			r.wrong(n, "%s is %s: want a number from %d to %d", what, told(r.plain(n)), least, most)
			return
		}
		*into = v
	}
}

// numberOr takes a number, or a word that stands for one.
func (r *reader) numberOr(what, word string, meaning, least, most int, into *int) func(ast.Node) {
	return func(n ast.Node) {
		s, _ := r.text(n)
		v, err := strconv.Atoi(s)
		switch {
		case s == word:
			*into = meaning
		case err != nil || v < least || v > most:
			r.wrong(n, "%s is %s: want a number from %d to %d, or %s", what, told(r.plain(n)), least, most, word)
		default:
			*into = v
		}
	}
}

// part takes a number above 0, and at most 1.
func (r *reader) part(what string, into *float64) func(ast.Node) {
	return func(n ast.Node) {
		s, _ := r.text(n)
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || !(v > 0 && v <= 1) {
			r.wrong(n, "%s is %s: want a number above 0, and at most 1, such as 0.01", what, told(r.plain(n)))
			return
		}
		*into = v
	}
}

// sizes are the units of a size in bytes.
var sizes = []struct {
	unit  string
	bytes int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}}

// ParseSize reads a size in bytes: a number with the unit B, KiB, MiB or GiB.
func ParseSize(s string) (int64, error) {
	for _, size := range sizes {
		digits, ok := strings.CutSuffix(s, size.unit)
		if !ok {
			continue
		}
		v, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || v < 0 || v > math.MaxInt64/size.bytes {
			break
		}
		return v * size.bytes, nil
	}
	return 0, fmt.Errorf("%q: want a size with its unit, such as 512B, 16KiB, 4MiB or 1GiB", s)
}

// size takes a size in bytes, or off.
func (r *reader) size(what string, into *int) func(ast.Node) {
	return func(n ast.Node) {
		s, _ := r.text(n)
		if s == "off" {
			*into = -1
			return
		}
		v, err := ParseSize(s)
		if err != nil || v == 0 {
			r.wrong(n, "%s is %s: want a size with its unit, such as 512B, 16KiB, 4MiB or 1GiB, or off", what, told(r.plain(n)))
			return
		}
		*into = int(v)
	}
}

func (r *reader) boolean(what string, into *bool) func(ast.Node) {
	return func(n ast.Node) {
		b, ok := r.plain(n).(*ast.BoolNode)
		if !ok {
			r.wrong(n, "%s is %s: want true or false", what, told(r.plain(n)))
			return
		}
		*into = b.Value
	}
}

// unless takes false for a field that switches something off.
func (r *reader) unless(what string, off *bool) func(ast.Node) {
	on := true
	take := r.boolean(what, &on)
	return func(n ast.Node) {
		take(n)
		*off = !on
	}
}
