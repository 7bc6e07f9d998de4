package launch

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"drover/config"
	"drover/internal/authority"
)

// files makes files of these texts in a new directory, which is returned.
func files(t *testing.T, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestForNode(t *testing.T) {
	dir := files(t, map[string]string{
		"www": "#!/usr/bin/env node\n", "strict": "#!/usr/bin/env -S node --use-strict\n", "old": "#!/usr/bin/nodejs\n",
		"shell": "#!/bin/sh\nexec node\n", "binary": "\x7fELF", "python": "#!/usr/bin/python3\n",
	})
	for name, want := range map[string]bool{
		"app.js": true, "dist/app.mjs": true, "a.cjs": true, "a.ts": true, "node": true, "/usr/local/bin/node": true,
		"./www": true, "./strict": true, "./old": true, "./shell": false, "./binary": false, "./python": false, "./none": false, "app.json": false,
	} {
		if got := ForNode(name, dir); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPinNode(t *testing.T) {
	dir := files(t, map[string]string{"node": "\x7fELF", "app.js": "", "www": "#!/usr/bin/env node\n", "index.ts": ""})
	t.Setenv("PATH", dir)
	c := config.Node{Args: []string{"--max-old-space-size=99"}}
	for _, try := range []struct {
		run  []string
		want string // argv, or the error
	}{
		{[]string{"app.js", "-v"}, "node --max-old-space-size=99 DIR/app.js -v"},
		{[]string{"./www"}, "node --max-old-space-size=99 DIR/www"},
		{[]string{"www"}, "node --max-old-space-size=99 DIR/www"},
		{[]string{"node", "--inspect", "app.js", "x"}, "node --max-old-space-size=99 --inspect app.js x"},
		{[]string{"node", "-r", "dotenv", "app.js"}, "node --max-old-space-size=99 -r dotenv app.js"},
		{[]string{"node", "-e", "code"}, "node -e code without a script"},
		{[]string{"missing.js"}, "script: DIR/missing.js is not there"},
		{[]string{"node"}, "node without a script: Node makes no cluster worker of -e and the like: give a file"},
		{[]string{"node", "--version"}, "node --version without a script"},
		{[]string{"DIR/bin/node", "app.js"}, "program: stat DIR/bin/node"},
	} {
		run := slices.Clone(try.run)
		for i := range run {
			run[i] = strings.ReplaceAll(run[i], "DIR", dir)
		}
		p, err := PinNode(c, run, nil, dir)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = strings.Join(p.Argv, " ")
			if !p.Node || p.Path != filepath.Join(dir, "node") {
				t.Errorf("%q is %+v", try.run, p)
			}
			p.Close()
		}
		if want := strings.ReplaceAll(try.want, "DIR", dir); !strings.HasPrefix(got, want) {
			t.Errorf("%q:\n got %s\nwant %s", try.run, got, want)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := PinNode(c, []string{"app.js"}, nil, dir); err == nil || !strings.Contains(err.Error(), "install Node.js") {
		t.Errorf("without node: %v", err)
	}
}

// Each worker has a port of its own for a debugger, where one is asked for.
func TestInspected(t *testing.T) {
	dir := files(t, map[string]string{"node": "\x7fELF", "app.js": ""})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	for _, c := range []struct {
		flags, options string
		slot           int
		want           string // before the script; empty: nothing is added
	}{
		{"--inspect", "", 1, "--inspect-port=127.0.0.1:9230"},
		{"--inspect-brk=9300 --no-warnings", "", 0, "--inspect-port=127.0.0.1:9300"},
		{"--inspect=127.0.0.2:9300", "", 2, "--inspect-port=127.0.0.2:9302"},
		{"--inspect=127.0.0.2", "", 0, "--inspect-port=127.0.0.2:9229"},
		{"--inspect --inspect-port=9400", "", 1, "--inspect-port=127.0.0.1:9401"},
		{"", "--no-warnings --inspect=9300", 3, "--inspect-port=127.0.0.1:9303"},
		{"--inspect=" + strconv.Itoa(taken-1), "", 1, "--inspect-port=127.0.0.1:0"},
		{"--inspect=0", "", 1, ""},
		{"--inspect-port=9300", "", 1, ""},
		{"--max-old-space-size=99", "", 1, ""},
	} {
		p, err := PinNode(config.Node{Args: strings.Fields(c.flags)}, []string{dir + "/node", "app.js", "--inspect"}, []string{"NODE_OPTIONS=" + c.options}, dir)
		if err != nil {
			t.Fatal(err)
		}
		want := append(append([]string{"node"}, strings.Fields(c.flags+" "+c.want)...), "app.js", "--inspect")
		if got := p.Inspected(c.slot); !slices.Equal(got, want) {
			t.Errorf("%q, NODE_OPTIONS %q, slot %d:\n got %q\nwant %q", c.flags, c.options, c.slot, got, want)
		}
		p.Close()
	}
}

func TestNodeVersion(t *testing.T) {
	for version, want := range map[string]string{
		"v20.20.2": "v20.20.2", "v23.0.0-nightly2024": "v23.0.0",
		"": "no version", "v20": "no version", "v20.x.1": "no version", "v14.1.0": "want 16 or later",
	} {
		dir := files(t, map[string]string{"node": "#!/bin/sh\necho " + version + "\n", "app.js": ""})
		p, err := PinNode(config.Node{}, []string{dir + "/node", "app.js"}, os.Environ(), dir)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if v, err := p.NodeVersion(); err != nil {
			got = err.Error()
		} else {
			got = v.String()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", version, got, want)
		}
		p.Close()
	}
}

// TypeScript is run by the Nodes that can, which some must be told.
func TestNodeStripsTypes(t *testing.T) {
	for _, c := range []struct {
		v     Version
		argv  []string
		added bool
		bad   bool
	}{
		{Version{20, 1, 0}, []string{"node", "a.ts"}, false, true},
		{Version{20, 1, 0}, []string{"node", "--import", "tsx", "a.ts"}, false, false},
		{Version{22, 7, 0}, []string{"node", "a.ts"}, true, false},
		{Version{22, 18, 0}, []string{"node", "a.ts"}, false, false},
		{Version{23, 5, 0}, []string{"node", "a.ts"}, true, false},
		{Version{24, 0, 0}, []string{"node", "a.ts"}, false, false},
	} {
		p := &Program{Argv: c.argv, Script: "a.ts"}
		err := p.stripTypes(c.v)
		if added := len(p.Argv) > len(c.argv); (err != nil) != c.bad || added != c.added {
			t.Errorf("%s %q: %q, %v", c.v, c.argv, p.Argv, err)
		}
	}
}

// The module that is loaded before programs renews the keys of session tickets: of a
// server that has had connections at once, of another with its first; and those of
// others it leaves alone.
func TestModuleRenewsTicketKeys(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("no node")
	}
	dir := t.TempDir()
	pem, key := authority.New().Write(dir, "app", "app.test")
	script := filepath.Join(dir, "app.js")
	if err := os.WriteFile(script, []byte(`
const fs = require('fs'), net = require('net'), tls = require('tls');
const keys = (c) => Buffer.alloc(48, c);
const tell = (next) => process.emit('internalMessage', { cmd: 'NODE_DROVER_TICKETS', next });
const server = (ticketKeys) => new Promise((done) => {
  const s = tls.createServer({ cert: fs.readFileSync(process.argv[2]), key: fs.readFileSync(process.argv[3]), ticketKeys }, (c) => c.end());
  s.listen(0, '127.0.0.1', () => done(s));
});
const connect = (s, session) => new Promise((done) => {
  const c = tls.connect({ port: s.address().port, host: '127.0.0.1', rejectUnauthorized: false, maxVersion: 'TLSv1.2', session });
  c.on('secureConnect', () => { const is = c.isSessionReused(), has = c.getSession(); c.resume(); c.on('close', () => done([is, has])); });
});
const plain = net.createServer((c) => c.end()).listen(0, '127.0.0.1', async () => {
  const [first, second, own] = await Promise.all([server(keys('a')), server(keys('b')), server(keys('x'))]);
  const [, session] = await connect(first);
  const [before] = await connect(first, session);
  await connect(own);
  await new Promise((done) => net.connect(plain.address().port, '127.0.0.1').resume().on('close', done));
  tell({ [keys('a').toString('hex')]: keys('c').toString('hex'), [keys('b').toString('hex')]: keys('d').toString('hex') });
  const [after] = await connect(first, session); // which is unknown then, and so it is made anew
  tell({ [keys('d').toString('hex')]: keys('e').toString('hex') });
  await connect(second);
  console.log([before, after, ...[first, second, own].map((s) => s.getTicketKeys().toString('latin1', 47))].join(' '));
  for (const s of [plain, first, second, own]) s.close();
});
`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("node", "--import", drainModule, script, pem, key).CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "true false c e x" {
		t.Errorf("%q, %v, want the session resumed before and not after, and the keys c, e and x", got, err)
	}
}
