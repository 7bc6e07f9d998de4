package npm

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// tree is a file system with an app in /srv/app.
func tree(start string) fs.FS {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	const node = "#!/usr/bin/env node\n"
	return fstest.MapFS{
		"srv/app/package.json": file(`{"main": "lib/app", "scripts": {"start": ` + quoteJSON(start) + `, "serve": "node dist --port 80", "loop": "npm run loop", "prestart": "tsc", "build": "tsc"}}`),
		"srv/app/server.js":    file(""), "srv/app/dist/index.js": file(""), "srv/app/lib/app.js": file(""), "srv/app/src/main.ts": file(""),
		"srv/app/my app.js":             file(""),
		"srv/app/node_modules/.bin/web": file(node), "srv/node_modules/.bin/next": file(node),
		"srv/app/node_modules/.bin/pn":         file("#!/bin/sh\nbasedir=$(dirname \"$0\")\nexec node  \"$basedir/../pn/cli.mjs\" \"$@\"\n"),
		"srv/app/node_modules/pn/cli.mjs":      file(""),
		"srv/app/node_modules/.bin/native":     file("\x7fELF"),
		"srv/bad/package.json":                 file("{"),
		"srv/plain/package.json":               file("{}"),
		"srv/plain/server.js":                  file(""),
		"srv/none/package.json":                file(`{"scripts": {"build": "tsc"}}`),
		"srv/app/node_modules/.bin/lost":       file("#!/bin/sh\nexec node  \"$basedir/../lost/cli.js\" \"$@\"\n"),
		"srv/app/node_modules/.bin/nodemonger": file(node),
	}
}

func quoteJSON(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func TestResolve(t *testing.T) {
	for _, c := range []struct {
		start, command string // what package.json's start is, and what is typed
		want           Program
	}{
		{"node server.js", "npm start", Program{Run: []string{"server.js"}}},
		{"node server", "npm start -- --port 3", Program{Run: []string{"server.js", "--port", "3"}}},
		{"node ./server.js", "npm run start --loglevel=error one", Program{Run: []string{"server.js", "one"}}},
		{"node .", "yarn start --port 3", Program{Run: []string{"lib/app.js", "--port", "3"}}},
		{"node dist", "pnpm run start", Program{Run: []string{"dist/index.js"}}},
		{"npm run serve -- --x", "/usr/bin/npm --silent start", Program{Run: []string{"dist/index.js", "--port", "80", "--x"}}},
		{"NODE_ENV=production PORT=\"30 00\" node server.js", "npm start", Program{Env: map[string]string{"NODE_ENV": "production", "PORT": "30 00"}, Run: []string{"server.js"}}},
		{"cross-env A=b exec node -r dotenv/config --inspect --max-old-space-size=512 server.js", "npm start", Program{
			Env: map[string]string{"A": "b"}, Args: []string{"--require=dotenv/config", "--inspect", "--max-old-space-size=512"}, Run: []string{"server.js"}}},
		{"node 'my app.js' a\\ b ''", "npm start", Program{Run: []string{"my app.js", "a b", ""}}},
		{"tsx src/main.ts", "npm start", Program{Args: []string{"--import=tsx"}, Run: []string{"src/main.ts"}}},
		{"ts-node -r tsconfig-paths/register src/main.ts", "npm start", Program{Args: []string{"--require=ts-node/register", "--require=tsconfig-paths/register"}, Run: []string{"src/main.ts"}}},
		{"web -p 3", "npm start", Program{Run: []string{"node_modules/.bin/web", "-p", "3"}}},
		{"next start", "npm start", Program{Run: []string{"/srv/node_modules/.bin/next", "start"}}},
		{"pn", "npm start", Program{Run: []string{"node_modules/pn/cli.mjs"}}},
		{"./node_modules/.bin/web", "npm start", Program{Run: []string{"./node_modules/.bin/web"}}},
		{"", "npx next start", Program{Run: []string{"/srv/node_modules/.bin/next", "start"}}},
		{"", "npm exec -- next start", Program{Run: []string{"/srv/node_modules/.bin/next", "start"}}},
		{"", "node --import tsx src/main.ts", Program{Args: []string{"--import=tsx"}, Run: []string{"src/main.ts"}}},
	} {
		got, err := Resolve(tree(c.start), "/srv/app", strings.Fields(c.command))
		if err != nil {
			t.Errorf("%q of %q: %v", c.command, c.start, err)
			continue
		}
		got.Notes = nil // TestHooksAreTold
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q of %q:\n%s", c.command, c.start, diff)
		}
	}
	for _, command := range []string{"npm start", "yarn start"} {
		got, err := Resolve(tree(""), "/srv/plain", strings.Fields(command))
		if err != nil || cmp.Diff(Program{Run: []string{"server.js"}}, got) != "" {
			t.Errorf("%q without a script start: %+v, %v", command, got, err)
		}
	}
}

// What npm would have run besides is told.
func TestHooksAreTold(t *testing.T) {
	for command, want := range map[string][]string{
		"npm start":     {"the script prestart is not run: type npm run prestart where it is needed"},
		"npm run serve": nil,
	} {
		if got, err := Resolve(tree("node server.js"), "/srv/app", strings.Fields(command)); err != nil || cmp.Diff(want, got.Notes) != "" {
			t.Errorf("%s: %q, %v: want %q", command, got.Notes, err, want)
		}
	}
}

// What cannot be seen through is told, and what to type instead.
func TestResolveSaysWhy(t *testing.T) {
	for _, c := range []struct{ start, command, want string }{
		{"tsc && NODE_ENV=production node dist a&&b", "npm start", "`&&` needs a shell between drover and node: type drover run and the script"},
		{"tsc -p . && NODE_ENV=production node dist 'a b'", "npm start", "type `tsc -p .` before, and then NODE_ENV=production drover run dist/index.js 'a b'"},
		{"tsc && node -r x/y dist", "npm start", "type `tsc` before, and then drover run node --require=x/y dist/index.js"},
		{"node server.js | pino-pretty", "npm start", "start is `node server.js | pino-pretty`, and `|` needs a shell"},
		{"node server.js --port $PORT", "npm start", "`$` needs a shell"},
		{"node server.js \"", "npm start", "an open quote needs a shell"},
		{"nodemon server.js", "npm start", "nodemon is for developing, it starts the program anew when a file changes: type drover run server.js"},
		{"tsx watch src/main.ts", "npm start", "tsx is for developing"},
		{"pm2-runtime ecosystem.config.js", "npm start", "drover import"},
		{"concurrently a b", "npm start", "concurrently runs several programs"},
		{"nest start", "npm start", "drover run dist/main.js"},
		{"node missing.js", "npm start", "there is no script missing.js: it may have to be built first"},
		{"node -e 1", "npm start", "node -e runs no script"},
		{"node --watch server.js", "npm start", "node --watch runs no script"},
		{"node", "npm start", "node is given no script"},
		{"node --require", "npm start", "node --require runs no script"},
		{"A=b", "npm start", "it runs nothing"},
		{"missing", "npm start", "missing is in no node_modules/.bin here"},
		{"native", "npm start", "native is no script of node's"},
		{"lost", "npm start", "there is no script node_modules/lost/cli.js"},
		{"./gone", "npm start", "there is no program ./gone"},
		{"", "npm run loop", "the script loop runs itself"},
		{"", "npm run other", `package.json has no script "other": want one of build, loop, prestart, serve, start`},
		{"", "npm", "it starts nothing"},
		{"", "npm run", "npm run names no script"},
		{"", "npm install", "it starts no server: want npm start"},
		{"", "npm --prefix x start", "an option --prefix that is not seen through"},
	} {
		got, err := Resolve(tree(c.start), "/srv/app", strings.Fields(c.command))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), c.command+" in /srv/app: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q of %q: %+v, %v: want %q", c.command, c.start, got, err, c.want)
		}
	}
	for dir, want := range map[string]string{
		"/srv/nowhere": "there is no package.json", "/srv/bad": "package.json: unexpected end of JSON", "/srv/none": `no script "start": want one of build`,
	} {
		if _, err := Resolve(tree(""), dir, []string{"npm", "start"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v: want %q", dir, err, want)
		}
	}
}

// Whatever package.json says: a script that is there, or a reason.
func FuzzResolve(f *testing.F) {
	for _, seed := range []string{"node server.js", "A='b c' node -r x dist", "tsc && node .", "npm run serve", "web \\", "node --", "npx npm start"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, start string) {
		p, err := Resolve(tree(start), "/srv/app", []string{"npm", "start"})
		if err == nil && (len(p.Run) == 0 || p.Run[0] == "") {
			t.Fatalf("%q: %+v", start, p)
		}
		for _, a := range p.Args {
			if !strings.HasPrefix(a, "-") {
				t.Fatalf("%q: node's flag %q", start, a)
			}
		}
	})
}
