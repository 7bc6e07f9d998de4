package pm2

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"drover/config"

	"github.com/google/go-cmp/cmp"
)

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

// root has an app in /srv/app.
var root fs.FS = fstest.MapFS{
	"srv/app/package.json":  file(`{"scripts": {"start": "NODE_ENV=production node -r dotenv/config server.js", "hard": "tsc && node server.js", "prestart": "tsc"}}`),
	"srv/app/server.js":     file(""),
	"srv/app/bin/www":       file("#!/usr/bin/env node\nrequire('../app')\n"),
	"srv/app/bin/text":      file("require('../app')\n"),
	"srv/app/run.bash":      file("#!/bin/bash\nexec ./api\n"),
	"srv/app/api":           file("\x7fELF\x02\x01\x01\x00"),
	"srv/app/a name/app.js": file(""),
}

func options() Options {
	return Options{From: "ecosystem.config.js", Dir: "/srv/app", Base: "/srv/app", Home: "/home/me", CPUs: 4, Root: root}
}

// head is what every file begins with.
func head(name string) string {
	return "# " + name + ", of ecosystem.config.js; drover check -c FILE checks it, drover -c FILE runs it\nname: " + name + "\n"
}

const (
	one    = "workers: 1    # auto: one for each CPU\n"
	stopBy = "  stop_by: INT    # as PM2; disconnect: for an app that does not handle SIGINT\n"
)

func TestConvert(t *testing.T) {
	for _, c := range []struct {
		name, in string
		change   func(*Options)
		yaml     string
		notes    []string
	}{
		{"least", `{"apps": [{"script": "app.js"}]}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, nil},
		{"a list", `[{"name": "web", "script": "./app.js"}]`, nil,
			head("web") + one + "run: [./app.js]\nkind: node\nnode:\n" + stopBy, nil},
		{"one app", `{"name": "web", "script": "app.mjs"}`, nil,
			head("web") + one + "run: [app.mjs]\nkind: node\nnode:\n" + stopBy, nil},
		{"apps is one app", `{"apps": {"script": "app.cjs"}}`, nil,
			head("app") + one + "run: [app.cjs]\nkind: node\nnode:\n" + stopBy, nil},
		{"package.json", `{"name": "x", "pm2": {"script": "app.js", "instances": 2}}`, nil,
			head("app") + "workers: 2\nrun: [app.js]\nkind: node\nnode:\n" + stopBy, nil},
		{"usual", `{"apps": [{
			"name": "api", "script": "dist/main.js", "args": "--port 3000 --title 'my api'", "instances": "max", "exec_mode": "cluster",
			"node_args": ["--max-old-space-size=512", "--require", "dotenv/config"],
			"env": {"NODE_ENV": "development", "DEBUG": "api:*", "WORKERS": 2, "TLS": true},
			"env_production": {"NODE_ENV": "production"}, "env_staging": {"NODE_ENV": "staging"},
			"max_memory_restart": "300M", "wait_ready": true, "listen_timeout": 10000, "kill_timeout": 5000, "min_uptime": "10s",
			"uid": "www-data", "gid": 33, "log_type": "json", "merge_logs": true, "autorestart": true, "watch": false, "time": true, "source_map_support": true
		}]}`, func(o *Options) { o.Env = "production" },
			head("api") + `workers: auto
run: [dist/main.js, --port, 3000, --title, "my api"]
kind: node
node:
  args: [--max-old-space-size=512, --require=dotenv/config, --enable-source-maps]
  wait_ready: true
` + stopBy + `env:
  DEBUG: "api:*"
  NODE_ENV: production
  TLS: "true"
  WORKERS: 2
ready_timeout: 10s
drain: 5s
min_uptime: 10s
limits:
  max_memory: 300MiB
user: www-data
group: 33
logs:
  format: json
`, []string{
				"env_staging: left out: drover import --env staging writes it",
				"listen_timeout: written as ready_timeout: 10s: PM2 takes the app for ready then, drover ends it and says why: raise it, or leave it out for 30s, if the app may take longer",
			}},
		{"what drover does otherwise", `{"script": "app.js", "exp_backoff_restart_delay": 100, "restart_delay": 0, "max_restarts": 10, "autorestart": true, "stop_exit_codes": [0],
			"cron_restart": "0 3 * * *", "watch": ["src"], "ignore_watch": ["node_modules"], "out_file": "./out.log", "error_file": "/dev/null", "log_date_format": "HH:mm",
			"increment_var": "PORT", "instance_var": "N", "vizion": false, "namespace": "default", "merge_logs": false, "post_update": ["npm i"], "colour": "red", "env_x": null}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy + "reload:\n  cron: \"0 3 * * *\"\n  watch: [src]\nlogs:\n  out_file: ./out.log\n", []string{
				"exp_backoff_restart_delay: 100: drover restarts at once what had served for min_uptime, and else after 0, 25 ms, and so on, four times as long each time, up to 5 s",
				"max_restarts: 10: drover gives up (exit code 3) only where no worker was ever ready; after that it never does, and waits longer instead",
				"stop_exit_codes: drover restarts whatever the exit code: drover stop --name app stops it",
				"merge_logs: PM2 has a file for each worker, such as out-0.log; here all write to one, with time and slot before each line",
				"colour: unknown: left out",
				"increment_var: all workers have the same environment but for NODE_APP_INSTANCE, their slot: add that in the app; a port needs none, since workers share it",
				"instance_var: drover gives each worker its slot in NODE_APP_INSTANCE, under no other name: read that",
				"log_date_format: drover's times are 15:04:05.000, in a file with the day before, and RFC 3339 with logs: {format: json}",
				"post_update: drover runs no commands: have the deploy run them, and then drover reload",
				"vizion: it is about PM2 itself: nothing is to be done",
			}},
		{"other names of keys", `{"exec": "app.js", "interpreterArgs": "--inspect", "maxMemoryRestart": 1000, "cron": "@daily", "output": "a.log", "killTimeout": "1600", "user": "me", "script_": 1}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n  args: [--inspect]\n" + stopBy + "drain: 1.6s\nlimits:\n  max_memory: 1000B\nreload:\n  cron: \"@daily\"\nuser: me\nlogs:\n  out_file: a.log\n", []string{
				"merge_logs: PM2 has a file for each worker, such as out-0.log; here all write to one, with time and slot before each line",
				"script_: unknown: left out",
			}},
		{"watch", `{"script": "app.js", "watch": true, "ignore_watch": ["node_modules", "./logs/", "**/*.tmp", "public/**", "[\\/\\\\]\\./"], "watch_delay": 1000, "watch_options": {"usePolling": true}}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy + "reload:\n  watch: [.]\n  ignore: [logs, \"*.tmp\", public]\n  delay: 1s\n", []string{
				`ignore_watch: "[\\/\\\\]\\.": here it is names and patterns such as *.log: left out`,
				"watch_options: they are chokidar's: drover looks at files by inotify(7), and has watch, ignore and delay under reload",
			}},
		{"watch some", `{"script": "app.js", "watch": ["./src", "lib/**/*.js", 3, {}], "ignore_watch": "src/a.js"}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy + "reload:\n  watch: [src, lib, 3]\n  ignore: [src/a.js]\n", []string{
				"watch: it holds an object: want paths: left out",
				"watch: \"lib/**/*.js\": all of lib is looked at: write what is not to be into ignore",
			}},
		{"times that are none", `{"script": "app.js", "cron_restart": "0 3 * * 7", "watch": "false"}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, []string{
				"cron_restart: \"0 3 * * 7\": end of range (7) above maximum (6): 7: want minute, hour, day of the month, month and day of the week, such as \"0 3 * * *\", or @daily: left out",
			}},
		{"log files", `{"script": "app.js", "log_type": "json", "log_file": "~/all.log", "out_file": "NULL", "error_file": "e r.log", "merge_logs": true}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy + "logs:\n  format: json\n  error_file: \"e r.log\"\n  file: /home/me/all.log\n", nil},
		{"log files that are none", `{"script": "app.js", "log_file": [], "out_file": false, "error_file": {}}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, []string{
				"error_file: it is an object: want a path: left out",
				"log_file: it is a list: want a path: left out"}},
		{"a key by two names", `{"script": "app.js", "exec": "other.js", "out": "a", "output": "b"}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy + "logs:\n  out_file: a\n", []string{
				"exec: the same as script, which is given too: left out",
				"output: the same as out_file, which is given too: left out",
				"merge_logs: PM2 has a file for each worker, such as out-0.log; here all write to one, with time and slot before each line",
			}},
		{"all CPUs but one", `{"script": "app.js", "instances": -1}`, nil,
			head("app") + "workers: 3\nrun: [app.js]\nkind: node\nnode:\n" + stopBy, []string{
				"instances: -1 is written as 3, of the 4 CPUs here: change workers on a machine with another number"}},
		{"as many as there are", `{"script": "app.js", "instances": -0}`, nil, head("app") + "workers: auto\nrun: [app.js]\nkind: node\nnode:\n" + stopBy, nil},
		{"fork of one, as others are without a word", `{"script": "app.js", "exec_mode": "fork_mode", "instances": "1"}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, []string{
				"exec_mode: fork: the app is a worker of Node's cluster here, too: where it calls cluster.fork() itself, it no longer does, and workers: auto does it instead; where it never listens, it needs never_listens: true under node"}},
		{"fork of several", `{"script": "app.js", "exec_mode": "fork", "instances": 3}`, nil,
			head("app") + "workers: 3\nrun: [app.js]\nkind: node\nnode:\n" + stopBy, []string{
				"exec_mode: fork: the 3 workers share the addresses that the app listens on, as those of a cluster; under PM2 each had to find a port of its own"}},
		{"shutdown by a message", `{"script": "app.js", "shutdown_with_message": true}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n  stop_by: shutdown\n", nil},
		{"port", `{"script": "app.js", "port": 3000, "env": {"PORT": 1}, "env_a": {"PORT": 2}}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy + "env:\n  PORT: 3000\n", []string{"env_a: left out: drover import --env a writes it"}},
		{"deploy", `{"apps": [{"script": "app.js", "env": {"B": 2}}], "deploy": {"production": {"env": {"A": 1, "B": 1}}}, "colour": 1}`, func(o *Options) { o.Env = "production" },
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy + "env:\n  A: 1\n  B: 2\n", []string{
				"colour: unknown beside apps: left out",
				"deploy: drover deploys nothing: put the files there as before, and then type drover reload",
				"env_production: the app has none: env alone is written"}},
		{"values that JSON has not", `{"script": "app.js", "env": {"A": "\u0000undefined", "B": null, "C": {"d": "<"}, "E": "x\u0000", "F=": "1"}, "cwd": "\u0000undefined", "watch": "\u0000function", "args": ["\u0000undefined", 1]}`, nil,
			head("app") + one + "run: [app.js, 1]\nkind: node\nnode:\n" + stopBy + "env:\n  B: \"null\"\n  C: \"{\\\"d\\\":\\\"<\\\"}\"\n", []string{
				"cwd: undefined here, where the file was read: left out",
				"args: it holds undefined: want words: left out",
				"env.A: undefined here, where the file was read: left out: set it where drover is started, or write it into env",
				"env.E: it holds a zero byte: left out: set it where drover is started, or write it into env",
				"env: \"F=\" is no name of an environment variable: left out",
				"watch: a function here, where the file was read: left out",
			}},
		{"what it cannot be", `{"script": "app.js", "instances": "many", "exec_mode": "x", "kill_timeout": "soon", "max_memory_restart": "1T", "env": "A=b", "wait_ready": 7, "uid": [1], "args": {}, "log_type": "xml", "port": []}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, []string{
				"instances: it is \"many\": want a number or max: 1 is written",
				"exec_mode: it is \"x\": want fork or cluster: left out",
				"args: it is an object: want text or a list: left out",
				"wait_ready: it is 7: want true or false: left out",
				"env: it is \"A=b\": want an object of names and values: left out",
				"port: it is a list: want a number: left out",
				"kill_timeout: it is \"soon\": want milliseconds: left out",
				"max_memory_restart: it is \"1T\": want bytes, or a number with K, M or G: left out",
				"uid: it is a list: want a name or a number: left out",
				"log_type: it is \"xml\": drover has text and json: left out",
			}},
		{"a name that is none", `{"name": "@me/my api", "script": "app.js", "append_env_to_name": true, "env_p": {}}`, func(o *Options) { o.Env = "p" },
			head("me-my-api-p") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, []string{
				"name: \"@me/my api-p\" is me-my-api-p here: a name has letters, digits, '_', '-' and '.'"}},
		{"only one", `[{"name": "a", "script": "a.js"}, {"name": "b b", "script": "b.js"}, {"name": "no script"}]`, func(o *Options) { o.Only = "b-b" },
			head("b-b") + one + "run: [b.js]\nkind: node\nnode:\n" + stopBy, []string{"name: \"b b\" is b-b here: a name has letters, digits, '_', '-' and '.'"}},

		// Where it works.
		{"cwd below the file", `{"script": "app.js", "cwd": "./sub"}`, nil, head("app") + "dir: sub\n" + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, nil},
		{"cwd of the file", `{"script": "app.js", "cwd": "/srv/app/"}`, nil, head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, nil},
		{"cwd elsewhere", `{"script": "app.js", "cwd": "/srv/other app"}`, nil, head("app") + "dir: \"/srv/other app\"\n" + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, nil},
		{"cwd at home", `{"script": "app.js", "cwd": "~/app"}`, nil, head("app") + "dir: /home/me/app\n" + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, nil},
		{"written elsewhere", `{"script": "app.js"}`, func(o *Options) { o.Base = "/etc/drover" }, head("app") + "dir: /srv/app\n" + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, nil},

		// What runs it.
		{"a node of its own", `{"script": "app.js", "interpreter": "/opt/node/bin/node"}`, nil,
			head("app") + one + "run: [/opt/node/bin/node, app.js]\nkind: node\nnode:\n" + stopBy, nil},
		{"a version of node", `{"script": "app.js", "interpreter": "node@18.0.0"}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, []string{
				"interpreter: node@18.0.0: the node of the PATH is run, whatever its version: put the path of that version's node before the script in run"}},
		{"node flags that are none", `{"script": "app.js", "node_args": "--inspect --import tsx -e 1"}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n  args: [--inspect, --import=tsx]\n" + stopBy, []string{
				"node_args: what is no flag of node's for a script is left out: 1 -e"}},
		{"a script of node's without an ending", `{"script": "bin/www"}`, nil, head("www") + one + "run: [bin/www]\nkind: node\nnode:\n" + stopBy, nil},
		{"text without an ending", `{"script": "bin/text"}`, nil, head("text") + one + "run: [bin/text]\nkind: node\nnode:\n" + stopBy, nil},
		{"TypeScript", `{"script": "src/main.ts"}`, nil, head("main") + one + "run: [src/main.ts]\nkind: node\nnode:\n" + stopBy, []string{
			"script: src/main.ts: PM2 runs TypeScript by bun; here it is node, which takes it from 22.18 on: older ones want args: [--import=tsx] under node, and the package tsx"}},
		{"ts-node", `{"script": "src/main.ts", "interpreter": "node_modules/.bin/ts-node"}`, nil,
			head("main") + one + "run: [src/main.ts]\nkind: node\nnode:\n  args: [--require=ts-node/register]\n" + stopBy, nil},
		{"babel-node", `{"script": "app.js", "exec_interpreter": "babel-node"}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n  args: [--require=@babel/register]\n" + stopBy, []string{
				"exec_interpreter: babel-node starts node itself, where drover cannot reach it: node is run with --require=@babel/register instead, a package to be installed; or build before, and run what was built"}},
		{"node as the script", `{"name": "x", "script": "node", "args": ["--env-file", ".env", "app.js", "-v"], "interpreter": "none"}`, nil,
			head("x") + one + "run: [app.js, -v]\nkind: node\nnode:\n  args: [--env-file=.env]\n" + stopBy, nil},
		{"node by its path as the script", `{"name": "x", "script": "/opt/node/bin/node", "args": "app.js"}`, nil,
			head("x") + one + "run: [/opt/node/bin/node, app.js]\nkind: node\nnode:\n" + stopBy, nil},
		{"a job", `{"script": "app.js", "autorestart": false, "cron_restart": "0 * * * *"}`, nil,
			head("app") + one + "run: [app.js]\nkind: node\nnode:\n" + stopBy, []string{
				"autorestart: false: drover restarts whatever ends: what is to end belongs into cron or a systemd timer",
				"cron_restart: a job that ends needs no drover: its command into crontab(5), behind 0 * * * *"}},
		{"a program", `{"script": "api", "kill_timeout": 3000}`, nil, head("api") + one + "run: [./api]\ndrain: 3s\n", nil},
		{"a program that is said to be one", `{"script": "./api", "interpreter": "none", "interpreter_args": "-x", "exec_mode": "cluster", "wait_ready": true, "shutdown_with_message": true}`, nil,
			head("api") + one + "run: [./api]\n", []string{
				"interpreter_args: there is no interpreter to take them: left out",
				"exec_mode: cluster is for node: ./api is given its sockets by LISTEN_FDS",
				"wait_ready: it is for node: another program says READY=1 (sd_notify(3)), with ready: notify",
				"shutdown_with_message: it is for node: another program is stopped by a signal"}},
		{"a program of the PATH", `{"script": "caddy", "args": ["run"]}`, nil, head("caddy") + one + "run: [caddy, run]\n", nil},
		{"a script of a shell's", `{"script": "run.bash"}`, nil, head("run") + one + "run: [./run.bash]\n", nil},
		{"Python", `{"script": "app.py", "interpreter_args": "-u", "args": "-v", "instances": 2}`, nil,
			head("app") + "workers: 2\nrun: [python3, -u, app.py, -v]\nkind: foreign\nstop_signal: INT\n", []string{
				"interpreter: python3: PM2 lets the program listen by itself; here it is to take its sockets by LISTEN_FDS, of the addresses in listen (README, Any other program)"}},
		{"npm start", `{"name": "web", "script": "npm", "args": "start", "env": {"NODE_ENV": "x"}}`, nil,
			head("web") + one + "run: [server.js]\nkind: node\nnode:\n  args: [--require=dotenv/config]\n" + stopBy + "env:\n  NODE_ENV: production\n", []string{
				"script: npm start comes to this, and is written so: NODE_ENV=production drover run node --require=dotenv/config server.js",
				"script: the script prestart is not run: type npm run prestart where it is needed"}},
		{"npm run that needs a shell", `{"name": "web", "script": "npm run hard"}`, nil,
			head("web") + one + "run: [npm, run, hard]\n", []string{
				"script: npm run hard in /srv/app: hard is `tsc && node server.js`, and `&&` needs a shell between drover and node: type `tsc` before, and then drover run server.js"}},
		{"a line", `{"script": "node --inspect app.js one", "args": "two"}`, nil,
			head("node---inspect-app") + one + "run: [app.js, one]\nkind: node\nnode:\n  args: [--inspect]\n" + stopBy, []string{
				"name: \"node --inspect app\" is node---inspect-app here: a name has letters, digits, '_', '-' and '.'"}},
		{"a line for a shell", `{"name": "x", "script": "cd x && ./api"}`, nil,
			head("x") + one + "run: [sh, -c, \"cd x && ./api\"]\nkind: foreign\nstop_signal: INT\n", []string{
				"script: it is a line for a shell, which hands no socket and no signal on to what it starts: write the program itself into run, if the line is more than a program and its arguments"}},
		{"a blank in the script's name", `{"name": "x", "script": "a name/app.js"}`, nil,
			head("x") + one + "run: [\"a name/app.js\"]\nkind: node\nnode:\n" + stopBy, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options()
			if c.change != nil {
				c.change(&o)
			}
			apps, whole, err := Convert([]byte(c.in), o)
			if err != nil || len(apps) != 1 {
				t.Fatalf("%d apps, %v", len(apps), err)
			}
			var notes []string
			for _, n := range append(whole, apps[0].Notes...) {
				if !strings.HasPrefix(n.Why, "fork: the app is") || strings.HasPrefix(c.name, "fork") {
					notes = append(notes, n.String())
				}
			}
			if diff := cmp.Diff(c.yaml, string(apps[0].YAML)); diff != "" {
				t.Errorf("%s", diff)
			}
			if diff := cmp.Diff(c.notes, notes); diff != "" {
				t.Errorf("notes:\n%s", diff)
			}
			good(t, apps[0])
		})
	}
}

// good fails unless drover takes an app's file.
func good(t *testing.T, app App) *config.File {
	t.Helper()
	f, err := config.Parse("drover.yaml", app.YAML)
	if err == nil {
		err = f.Check()
	}
	if err != nil {
		t.Fatalf("drover does not take it: %v\n%s", err, app.YAML)
	}
	if f.Name != app.Name {
		t.Fatalf("the name is %q, and in the file %q", app.Name, f.Name)
	}
	return f
}

func TestConvertSeveral(t *testing.T) {
	apps, _, err := Convert([]byte(`{"apps": [{"name": "a", "script": "a.js"}, {"name": "b", "script": "b.js"}]}`), options())
	if err != nil || len(apps) != 2 || apps[0].Name != "a" || apps[1].Name != "b" {
		t.Fatalf("%+v, %v", apps, err)
	}
}

func TestConvertErrors(t *testing.T) {
	for in, want := range map[string]string{
		``:                     "ecosystem.config.js: it says nothing",
		`{`:                    "ecosystem.config.js: unexpected EOF",
		`{} {}`:                "ecosystem.config.js: something follows the JSON value",
		`3`:                    "ecosystem.config.js: it is 3: want {apps: [...]}, a list of apps, or one app",
		`null`:                 "it is nothing: want",
		`"\u0000function"`:     "it is a function: want",
		`[]`:                   "it has no app: want",
		`{"apps": []}`:         "it has no app: want",
		`{"apps": ["app.js"]}`: `app 1 is "app.js": want an object with a script`,
		`{}`:                   `app 1, "": it has no script`,
		`[{"script": "a.js"}, {"name": "b", "script": 3.5}, {"name": "c"}]`: `app 3, "c": it has no script: want the file that is run`,
	} {
		if apps, _, err := Convert([]byte(in), options()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v: want %q", in, apps, err, want)
		}
	}
	o := options()
	o.Only = "c"
	if _, _, err := Convert([]byte(`[{"name": "a", "script": "a.js"}, {"script": "b.js"}]`), o); err == nil || !strings.Contains(err.Error(), `no app is called "c": there are a, b`) {
		t.Errorf("%v", err)
	}
}

// Whatever the file: an error, or files that drover takes, with the environment
// as it was, and notes of one line. No key is lost: it is in the file or noted.
func FuzzConvert(f *testing.F) {
	for _, seed := range []string{
		`{"apps": [{"name": "a\u2028\u0085 b", "script": "app.js", "env": {"A": "\u0001\"\\\n é 😀 # : - ", "true": "no", "-": "1e3"}, "args": ["", "- ", "a, b", "%x", "&a", "*a", "!t"]}]}`,
		`{"script": "npm start", "args": [1, true, null], "instances": -9, "cwd": "~", "uid": "\u0000", "kill_timeout": 1e14, "max_memory_restart": "0.3G"}`,
		`[{"exec": "x y", "interpreter": "python@3", "node_args": "-r", "watch": {}, "cron": "TZ=x", "deploy": 1}, {"script": "a.js", "watch": ["a*", "\u0000", "[", ""], "ignore_watch": ["[", "", 3], "log_file": "\u0001", "cron_restart": "@every -1h"}]`,
		`{"pm2": {"apps": [{"script": "a.ts", "exec_mode": 3, "port": "x", "env_production": []}]}, "deploy": {"production": {"env": {"A": [1]}}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		o := options()
		o.Env = "production"
		apps, notes, err := Convert(in, o)
		if err != nil {
			return
		}
		for _, app := range apps {
			good(t, app)
			notes = append(notes, app.Notes...)
		}
		for _, n := range notes {
			if strings.ContainsAny(n.String(), "\n\r\x00") || n.Why == "" {
				t.Fatalf("a note of several lines, or none: %q", n)
			}
		}
	})
}

// Any value of the environment comes through.
func FuzzEnvironment(f *testing.F) {
	for _, seed := range []string{"", "a", "null", "1e3", "~", "é\u2028\u0085", "\x01\x7f\n\t\r", `\"'#: - {}[]`, "=", "<<", "😀\U000e0001", " a ", "@", "-", "0o7", ".5", "1_000", "2001-01-01"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if strings.ContainsRune(value, 0) || strings.ToValidUTF8(value, "") != value {
			t.Skip()
		}
		var out document
		out.list("run", []string{"./app", value})
		out.mapping("env", []string{scalar("A") + ": " + scalar(value)})
		parsed, err := config.Parse("drover.yaml", out.bytes())
		if err != nil {
			t.Fatalf("%v\n%s", err, out.bytes())
		}
		if parsed.Env["A"] != value || parsed.Run[1] != value {
			t.Fatalf("%q became %q and %q:\n%s", value, parsed.Env["A"], parsed.Run[1], out.bytes())
		}
	})
}
