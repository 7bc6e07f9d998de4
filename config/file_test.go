package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       File
	}{
		{"least", "listen: [':3000']\nserve:\n", File{Serve: &Serve{}, Config: Config{Listen: []Listen{{Address: ":3000"}}}}},
		{"a program that names its own addresses", "run: [./app, -v, 3]", File{Run: []string{"./app", "-v", "3"}}},
		{"all", `
# everything there is
name: api
workers: 4
procs: 2
listen:
  - address: ":3000"
  - {address: "[::1]:3001", name: admin}
  - 127.0.0.1:3002
  - {address: ":3003", steering: sticky}
  - {address: unix:/run/api.sock, mode: 0660}
serve: {root: public}
env: {NODE_ENV: production, PORT: 3000, DEBUG: "", YES: true}
ready_timeout: 1m30s
min_uptime: 2s
hang_timeout: 5s
drain: 10s
lame_duck: off
orphan_timeout: 5s
stop_delay: 0s
http:
  header_timeout: 5s
  body_timeout: off
  write_timeout: 1m
  idle_timeout: 500ms
  header_bytes: 32KiB
  body_bytes: off
  connections: 5000
  request_timeout: 90s
  connection_requests: 1000
  defer_accept: false
  access_log: combined
  access_file: access.log
  access_sample: 0.01
  crash_on_panic: true
schedtrace: false
logs: {format: json, file: all.log, out_file: out.log, error_file: err.log, max_size: 10MiB, keep: all}
reload: {cron: "CRON_TZ=UTC 30 0 3 * * 1-5", watch: [src, a.json], ignore: ["*.log"], delay: 1s}
limits: {max_memory: 512MiB, max_requests: 1000, max_age: 1h, request_timeout: 30s}
`, File{Serve: &Serve{Root: "public"}, Config: Config{
			Name: "api", Workers: 4, Procs: 2,
			Listen: []Listen{{Address: ":3000"}, {Address: "[::1]:3001", Name: "admin"}, {Address: "127.0.0.1:3002"},
				{Address: ":3003", Steering: Sticky}, {Address: "unix:/run/api.sock", Mode: 0o660}},
			Env:          map[string]string{"NODE_ENV": "production", "PORT": "3000", "DEBUG": "", "YES": "true"},
			ReadyTimeout: 90 * time.Second, MinUptime: 2 * time.Second, HangTimeout: 5 * time.Second, Drain: 10 * time.Second, LameDuck: -1, OrphanTimeout: 5 * time.Second,
			HTTP: HTTP{HeaderTimeout: 5 * time.Second, BodyTimeout: -1, RequestTimeout: 90 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 500 * time.Millisecond,
				HeaderBytes: 32 << 10, BodyBytes: -1, Connections: 5000, ConnectionRequests: 1000, NoDeferAccept: true, AccessLog: "combined", AccessFile: "access.log", AccessSample: 0.01, CrashOnPanic: true},
			NoSchedTrace: true,
			Limits:       Limits{MaxMemory: 512 << 20, MaxRequests: 1000, MaxAge: time.Hour, RequestTimeout: 30 * time.Second},
			LogFormat:    "json",
			Logs:         Logs{File: "all.log", OutFile: "out.log", ErrorFile: "err.log", MaxSize: 10 << 20, Keep: -1},
			Reload:       Reload{Cron: "CRON_TZ=UTC 30 0 3 * * 1-5", Watch: []string{"src", "a.json"}, Ignore: []string{"*.log"}, Delay: time.Second},
		}}},
		{"foreign", "run: [nginx]\nkind: foreign\nready: notify\nnonblocking: true\nstop_signal: QUIT", File{Run: []string{"nginx"}, Config: Config{Kind: "foreign", Ready: "notify", Nonblocking: true, StopSignal: "QUIT"}}},
		{"Node", "run: [app.js, --port, 3]\nkind: node\nnode: {args: [--max-old-space-size=512, -r=x], scheduling: rr, steering: sticky, wait_ready: true, stop_by: INT, drain_header: true}",
			File{Run: []string{"app.js", "--port", "3"}, Config: Config{Kind: "node", Node: Node{Args: []string{"--max-old-space-size=512", "-r=x"}, Scheduling: "rr", Steering: "sticky", WaitReady: true, StopBy: "INT", DrainHeader: true}}}},
		{"credentials", "run: [./app]\nuser: www-data\ngroup: 33\ngroups: []\nno_new_privs: true\noom_score_adj: -500\nrlimits: {nofile: 65536, core: unlimited, as: 1GiB}", File{Run: []string{"./app"}, Config: Config{
			User: "www-data", Group: "33", Groups: []string{}, NoNewPrivs: true, OOMScoreAdj: -500, Rlimits: map[string]int64{"nofile": 65536, "core": Unlimited, "as": 1 << 30}}}},
		{"TLS", "serve:\nlisten:\n- {address: ':443', tls: {certificate: a.pem, key: a.key}}\n- address: ':444'\n  tls:\n    certificate: a.pem\n    key: a.key\n    certificates: [{certificate: b.pem, key: b.key}]\n    client_ca: ca.pem\n    client_auth: optional\n    min_version: 1.3\n    post_quantum: true\n", File{Serve: &Serve{}, Config: Config{Listen: []Listen{
			{Address: ":443", TLS: &TLS{Certificates: []Certificate{{"a.pem", "a.key"}}}},
			{Address: ":444", TLS: &TLS{Certificates: []Certificate{{"a.pem", "a.key"}, {"b.pem", "b.key"}}, ClientCA: "ca.pem", ClientAuth: ClientOptional, MinVersion: "1.3", PostQuantum: true}},
		}}}},
		{"proxy", "listen: [{address: ':1', proxy_protocol: true}]\ntrusted_proxies: [10.0.0.0/8, '::1', unix]\nserve:\n  root: /srv\n  proxy:\n    /api: http://127.0.0.1:9000\n    /b: [http://a:1, https://b]\n    /c:\n      upstreams: [http://a]\n      strip_prefix: true\n      retries: off\n      dial_timeout: 1s\n      response_timeout: off\n      proxy_protocol: 2\n      health: {path: /healthz, interval: 5s, timeout: 500ms}\n",
			File{Serve: &Serve{Root: "/srv", Proxy: []Proxy{
				{Prefix: "/api", Upstreams: []string{"http://127.0.0.1:9000"}},
				{Prefix: "/b", Upstreams: []string{"http://a:1", "https://b"}},
				{Prefix: "/c", Upstreams: []string{"http://a"}, StripPrefix: true, Retries: -1, DialTimeout: time.Second, ResponseTimeout: -1, ProxyProtocol: 2,
					Health: ProxyHealth{"/healthz", 5 * time.Second, 500 * time.Millisecond}},
			}}, Config: Config{Listen: []Listen{{Address: ":1", ProxyProtocol: true}}, TrustedProxies: []string{"10.0.0.0/8", "::1", "unix"}}}},
		{"anchors", "run: [./app]\nenv: &e {A: b}\nname: &n x\nlogs: {format: &t text}\n", File{Run: []string{"./app"}, Config: Config{Env: map[string]string{"A": "b"}, Name: "x", LogFormat: "text"}}},
		{"aliases", "run: [./app]\ndrain: &d 5s\nready_timeout: *d\n", File{Run: []string{"./app"}, Config: Config{Drain: 5 * time.Second, ReadyTimeout: 5 * time.Second}}},
		{"JSON", `{"run": ["./app"], "workers": "auto"}`, File{Run: []string{"./app"}}},
		{"block text", "run:\n  - sh\n  - -c\n  - |\n    echo a\n", File{Run: []string{"sh", "-c", "echo a\n"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse("drover.yaml", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&c.want, got); diff != "" {
				t.Error(diff)
			}
			if err := got.Check(); err != nil {
				t.Errorf("the file is good, but its Config is not: %v", err)
			}
		})
	}
}

// Each bad file is answered with the place and the cure.
var badFiles = []struct {
	text string
	want string // "line:column: why" holds it
}{
	// What is no YAML.
	{"", "1:1: the file says nothing: want at least listen, and run or serve"},
	{"# only a comment\n", "1:1: the file says nothing"},
	{"\tlisten: x", "1:7: tab character"},
	{"run: [./app", "1:6: "},
	{"run: {a: b", "1:6: "},
	{"run: [./app]\n bad", "2:2: value is not allowed in this context at \"bad\": want YAML"},
	{"run: \"./app", "1:6: "},
	{"a: b: c", "1:4: "},
	{"run: [./app]\n---\nrun: [./b]", "3:1: a second document: want one file for each app"},
	{"just text", "1:1: the file is \"just text\": want a mapping, lines of `key: value`"},
	{"- run", "1:1: the file is a list: want a mapping"},
	{"42", "1:1: the file is \"42\": want a mapping"},
	{strings.Repeat("#", maxFile+1), "1:1: 1048577 bytes: want at most 1048576"},
	// The proxy.
	{"serve: {proxy: [a]}", "1:16: proxy is a list: want a mapping"},
	{"serve: {proxy: {api: http://a}}", "1:17: proxy: prefix \"api\" does not begin with '/': want a path such as /api, or / for everything"},
	{"serve: {proxy: {/api/: http://a}}", "1:17: proxy: prefix \"/api/\" ends with '/': want /api, which stands for all below it too"},
	{"serve: {proxy: {/a/../b: http://a}}", "1:17: proxy: prefix \"/a/../b\" has the segment \"..\""},
	{"serve: {proxy: {/a%20: http://a}}", "1:17: proxy: prefix \"/a%20\" holds what no plain path has"},
	{"serve: {proxy: {/api: 127.0.0.1:9000}}", "1:23: proxy: upstream \"127.0.0.1:9000\" is no URL: want http://HOST:PORT or https://HOST:PORT"},
	{"serve: {proxy: {/api: ftp://a}}", "1:23: proxy: upstream \"ftp://a\": want http://HOST:PORT"},
	{"serve: {proxy: {/api: 'http://:9'}}", "1:23: proxy: upstream \"http://:9\" names no host"},
	{"serve: {proxy: {/api: http://a/b}}", "1:23: proxy: upstream \"http://a/b\" holds more than an address"},
	{"serve: {proxy: {/api: 'http://a:0'}}", "1:23: proxy: upstream \"http://a:0\": port \"0\" is not a number from 1 to 65535"},
	{"serve: {proxy: {/api: [http://a, http://a]}}", "proxy: /api has upstream http://a twice: want each once"},
	{"serve: {proxy: {/api: {}}}", "1:23: proxy: /api has no upstream: want at least one"},
	{"serve: {proxy: {/api: }}", "upstream is nothing: want a URL, such as http://127.0.0.1:9000, a list of them, or a mapping with upstreams"},
	{"serve: {proxy: {/api: {upstream: http://a}}}", "1:24: unknown key \"upstream\" in /api: did you mean upstreams?"},
	{"serve: {proxy: {/api: {upstreams: http://a}}}", "1:35: upstreams is \"http://a\": want a list of URLs"},
	{"serve: {proxy: {/api: {upstreams: [http://a], retries: 11}}}", "1:56: retries is \"11\": want a number from 1 to 10, or off"},
	{"serve: {proxy: {/api: {upstreams: [http://a], health: {path: healthz}}}}", "1:62: proxy: health path \"healthz\": want a path, such as /healthz"},
	{"serve: {proxy: {/api: {upstreams: [http://a], health: {interval: 2}}}}", "1:66: interval is \"2\": want a number with a unit"},
	{"serve:\nlisten: [{address: ':1', proxy_protocol: true}]", "1:1: proxy_protocol on :1 without trusted_proxies: want whose word is believed too"},
	{"serve:\nlisten: [{address: ':1', proxy_protocol: v2}]", "proxy_protocol is \"v2\": want true or false"},
	{"serve:\ntrusted_proxies: [10.0.0.1/8]", "2:19: trusted proxies: \"10.0.0.1/8\" names a host in a network: want 10.0.0.0/8 for the network, or 10.0.0.1 for the host"},
	{"serve:\ntrusted_proxies: [everybody]", "2:19: trusted proxies: \"everybody\": want a network such as 10.0.0.0/8, an address, or unix"},
	{"serve:\ntrusted_proxies: 10.0.0.0/8", "2:18: trusted_proxies is \"10.0.0.0/8\": want a list of networks"},
	// TLS.
	{"serve:\nlisten: [{address: ':1', tls: {}}]", "2:31: tls: no certificate: want one and its key, such as {certificate: cert.pem, key: key.pem}"},
	{"serve:\nlisten: [{address: ':1', tls: {certificate: a}}]", "tls: certificate \"a\" without a key: want both"},
	{"serve:\nlisten: [{address: ':1', tls: {key: a}}]", "tls: key \"a\" without a certificate: want both"},
	{"serve:\nlisten: [{address: ':1', tls: {certificates: [{certificate: a}]}}]", "2:47: tls: certificate \"a\" without a key"},
	{"serve:\nlisten: [{address: ':1', tls: {cert: a, key: b}}]", "2:32: unknown key \"cert\" in tls: want one of certificate, certificates, client_auth, client_ca"},
	{"serve:\nlisten: [{address: ':1', tls: {certificate: a, key: b, client_auth: maybe, client_ca: c}}]", "client auth: \"maybe\": want one of require, optional"},
	{"serve:\nlisten: [{address: ':1', tls: {certificate: a, key: b, client_auth: require}}]", "client auth: \"require\" without authorities: want client_ca too"},
	{"serve:\nlisten: [{address: ':1', tls: {certificate: a, key: b, min_version: 1.1}}]", "min version: \"1.1\": want one of 1.2, 1.3"},
	{"serve:\nlisten: [{address: ':1', tls: true}]", "2:31: tls is \"true\": want a mapping"},
	// Keys.
	{"run: [./app]\nworker: 2", "2:1: unknown key \"worker\" in the file: did you mean workers?"},
	{"run: [./app]\nlistn: [':1']", "2:1: unknown key \"listn\" in the file: did you mean listen?"},
	{"run: [./app]\nreadyTimeout: 3s", "2:1: unknown key \"readyTimeout\" in the file: did you mean ready_timeout?"},
	{"run: [./app]\nreplicas: 3", "2:1: unknown key \"replicas\" in the file: want one of dir, drain, env,"},
	{"run: [./app]\nname: a\nname: b", "3:1: name is given twice: line 2 has it already"},
	{"run: [./app]\n? [a]\n: b", "3:1: found an invalid key"},
	{"run: [./app]\n<<: {name: a}", "2:1: << is not known here: write the keys out"},
	{"run: [./app]\nnull: 3", "2:1: the key of a line in the file is nothing: want a word"},
	{"run: [./app]\nname: *n", "2:7: *n: there is no &n above it"},
	// What is run.
	{"listen: [':3000']", "1:1: nothing to run: want run, such as `run: [./app]`, or serve"},
	{"listen: [':3000']\nrun: [./app]\nserve: {}", "1:1: both run and serve: want one of them"},
	{"run: ./app", "1:6: run is \"./app\": want a program and its arguments, such as [./app, --verbose]"},
	{"run: []", "1:6: run is empty: want a program and its arguments"},
	{"run: [[a]]", "1:7: run holds a list: want a program and its arguments"},
	{"run: ['']", "1:7: run holds \"\": want a program"},
	{"run:", "1:6: run is nothing: want a program"},
	{"run: {a: b}", "1:6: run is a mapping: want a program"},
	{"serve: {root: public}", "1:1: no address: want listen"},
	{"listen: [':1']\nserve: public", "2:8: serve is \"public\": want a mapping"},
	{"listen: [':1']\nserve: {dir: public}", "2:9: unknown key \"dir\" in serve: want one of proxy, root"},
	{"listen: [':1']\nserve: {root: [a]}", "2:15: root is a list: want a directory"},
	{"listen: [':1']\nserve: {root: ''}", "2:15: root is \"\": want a directory"},
	{"run: [./app]\nhttp: {idle_timeout: 5s}", "1:1: http is for serve"},
	{"run: [./app]\ndir: [a]", "2:6: dir is a list: want a directory"},
	{"run: [./app]\ndir: ''", "2:6: dir is \"\": want a directory"},
	// Addresses.
	{"run: [./app]\nlisten: :3000", "2:9: listen is \":3000\": want a list of addresses, such as [\":3000\"]"},
	{"run: [./app]\nlisten: []", "2:9: listen is empty: want a list of addresses"},
	{"run: [./app]\nlisten: ['3000']", "2:10: listen address \"3000\": missing port in address: want host:port, such as :3000"},
	{"run: [./app]\nlisten: [3000]", "2:10: listen address \"3000\": missing port"},
	{"run: [./app]\nlisten: [':http']", "2:10: listen address \":http\": port \"http\" is not a number from 0 to 65535"},
	{"run: [./app]\nlisten: [':70000']", "2:10: listen address \":70000\": port \"70000\" is not a number"},
	{"run: [./app]\nlisten: ['::1:80']", "2:10: listen address \"::1:80\": too many colons"},
	{"run: [./app]\nlisten: ['http://a:80']", "2:10: listen address \"http://a:80\": it looks like a path or URL"},
	{"run: [./app]\nlisten: [{name: a}]", "2:10: listen without an address"},
	{"run: [./app]\nlisten: [{address: ':1', port: 2}]", "2:26: unknown key \"port\" in listen: want one of address, mode, name, proxy_protocol, steering"},
	{"run: [./app]\nlisten: ['unix:app.sock']", "2:10: listen address \"unix:app.sock\": want the absolute path of a socket, such as unix:/run/app.sock"},
	{"run: [./app]\nlisten: [{address: ':1', steering: adaptive}]", "2:36: steering: \"adaptive\": want one of spread, sticky, cpu, shared"},
	{"run: [./app]\nlisten: [{address: ':1', steering: [cpu]}]", "2:36: steering is a list: want one of spread, sticky, cpu, shared"},
	{"run: [./app]\nlisten: [{address: 'unix:/a', steering: sticky}]", "2:10: steering: \"sticky\" on unix:/a: the kernel steers TCP only: want shared"},
	{"run: [./app]\nlisten: [{address: 'unix:/a', mode: rw}]", "2:37: mode is \"rw\": want permissions in octal, such as 0660"},
	{"run: [./app]\nlisten: [{address: 'unix:/a', mode: 01777}]", "2:37: mode is \"01777\": want permissions in octal"},
	{"run: [./app]\nlisten: [{address: ':1', mode: 0660}]", "2:10: mode: 0660 on :1: only the path of a unix socket has one"},
	{"run: [./app]\nworkers: 331\nlisten: [{address: ':1', steering: sticky}]", "1:1: workers is 331, and steering is sticky on :1: want at most 330 workers"},
	{"run: [./app]\nlisten: [{address: [a]}]", "2:20: address is a list: want host:port"},
	{"run: [./app]\nlisten: [':1', ':1']", "2:16: \":1\" is given twice"},
	{"run: [./app]\nlisten: [{address: ':1', name: a}, {address: ':2', name: a}]", "2:36: \"a\" is given twice"},
	{"run: [./app]\nlisten: [[':1']]", "2:10: listen is a list: want a mapping"},
	// Foreign programs.
	{"run: [./app]\nkind: go", "2:7: kind: \"go\": want one of auto, drover, foreign, node"},
	{"run: [./app]\nkind: [foreign]", "2:7: kind is a list: want auto, drover, foreign or node"},
	{"run: [./app]\nready: listen", "2:8: ready: \"listen\": want one of auto, notify"},
	{"run: [./app]\nready:", "2:8: ready is nothing: want auto or notify"},
	{"run: [./app]\nnonblocking: 1", "2:14: nonblocking is \"1\": want true or false"},
	{"run: [./app]\nstop_signal: KILL", "2:14: stop signal: \"KILL\": want one of HUP, INT, QUIT, TERM, USR1, USR2"},
	{"run: [./app]\nstop_signal: 15", "2:14: stop signal: \"15\": want one of"},
	{"listen: [':1']\nserve:\nready: notify", "1:1: kind, node, ready, stop_signal and nonblocking are for run"},
	// Node programs.
	{"run: [app.js]\nnode: --inspect", "2:7: node is \"--inspect\": want a mapping"},
	{"run: [app.js]\nnode: {args: --inspect}", "2:14: args is \"--inspect\": want a list of node's own flags"},
	{"run: [app.js]\nnode: {args: [inspect]}", "2:15: node args: \"inspect\": want a flag of node's, such as"},
	{"run: [app.js]\nnode: {scheduling: round-robin}", "2:20: scheduling: \"round-robin\": want one of shared, rr"},
	{"run: [app.js]\nnode: {stop_by: SIGINT}", "2:17: stop by: \"SIGINT\": want one of disconnect, INT, TERM, shutdown"},
	{"run: [app.js]\nnode: {wait_ready: 1}", "2:20: wait_ready is \"1\": want true or false"},
	{"run: [app.js]\nnode: {instances: 2}", "2:8: unknown key \"instances\" in node: want one of args, drain_header, never_listens, scheduling, steering, stop_by, wait_ready"},
	{"run: [./app]\nkind: foreign\nnode: {wait_ready: true}", "1:1: node: what is said of Node (as by --round-robin, --wait-ready) is for Node programs, and the program is none"},
	{"run: [app.js]\nnode: {wait_ready: true, never_listens: true}", "1:1: node: wait_ready and never_listens: want one of them"},
	{"run: [app.js]\nkind: node\nready: notify", "1:1: ready: notify is for foreign programs: a Node program is ready when it listens"},
	{"run: [app.js]\nkind: node\nstop_signal: INT", "1:1: stop signal: INT is for foreign programs: a Node program leaves by stop_by"},
	{"run: [app.js]\nkind: node\nnonblocking: true", "1:1: nonblocking: it is for foreign programs: a Node program always has such sockets"},
	{"listen: [':1']\nserve:\nnode: {wait_ready: true}", "1:1: kind, node, ready, stop_signal and nonblocking are for run"},
	// Who the workers are, and what they may have.
	{"run: [./app]\nuser: [a]", "2:7: user is a list: want a name or a number"},
	{"run: [./app]\nuser: ''", "2:7: user is \"\": want a name or a number"},
	{"run: [./app]\ngroup: {a: b}", "2:8: group is a mapping: want a name or a number"},
	{"run: [./app]\ngroups: adm", "2:9: groups is \"adm\": want a list of names or numbers, or [] for none"},
	{"run: [./app]\ngroups: [[adm]]", "2:10: groups is a list: want a name or a number"},
	{"run: [./app]\nno_new_privs: yes please", "2:15: no_new_privs is \"yes please\": want true or false"},
	{"run: [./app]\noom_score_adj: 1001", "2:16: oom_score_adj is \"1001\": want a number from -1000 to 1000"},
	{"run: [./app]\nrlimits: 64", "2:10: rlimits is \"64\": want a mapping"},
	{"run: [./app]\nrlimits: {nofiles: 64}", "2:11: unknown key \"nofiles\" in rlimits: did you mean nofile?"},
	{"run: [./app]\nrlimits: {nofile: many}", "2:19: nofile is \"many\": want a number, a size such as 1GiB, or unlimited"},
	{"run: [./app]\nrlimits: {core: -1}", "2:17: core is \"-1\": want a number"},
	// Values.
	{"run: [./app]\nname: 'a b'", "2:7: name: \"a b\" has ' ' at character 2: want letters, digits"},
	{"run: [./app]\nname: [a]", "2:7: name is a list: want a word"},
	{"run: [./app]\nname:", "2:7: name is nothing: want a word"},
	{"run: [./app]\nworkers: many", "2:10: workers is \"many\": want a number from 1 to 1024, or auto"},
	{"run: [./app]\nworkers: 0", "2:10: workers is \"0\": want a number from 1 to 1024, or auto"},
	{"run: [./app]\nworkers: -1", "2:10: workers is \"-1\": want a number"},
	{"run: [./app]\nworkers: 2.5", "2:10: workers is \"2.5\": want a number"},
	{"run: [./app]\nworkers: 99999999999999999999", "2:10: workers is \"99999999999999999999\": want a number"},
	{"run: [./app]\nprocs: auto", "2:8: procs is \"auto\": want a number from 1 to 1024"},
	{"run: [./app]\ndrain: 30", "2:8: drain is \"30\": want a number with a unit, such as 500ms, 30s or 1m30s"},
	{"run: [./app]\ndrain: 30 s", "2:8: drain is \"30 s\": want a number with a unit"},
	{"run: [./app]\ndrain: off", "2:8: drain is \"off\": want a number with a unit"},
	{"run: [./app]\ndrain: -1s", "2:8: drain is \"-1s\": want a duration of at least 0"},
	{"run: [./app]\nlame_duck: -1s", "2:12: lame_duck is \"-1s\": want a duration above 0, or off"},
	{"run: [./app]\ndrain: 5s\nlame_duck: 10s", "1:1: lame_duck is 10s, and drain 5s, of which it is a part: want a shorter one"},
	{"run: [./app]\nlame_duck: no", "2:12: lame_duck is \"no\": want a number with a unit, such as 500ms, 30s or 1m30s, or off"},
	{"run: [./app]\nready_timeout: {a: b}", "2:16: ready_timeout is a mapping: want a number with a unit"},
	{"run: [./app]\nstop_delay:\n", "2:13: stop_delay is nothing: want a number with a unit"},
	{"run: [./app]\nmin_uptime: 99999999h", "2:13: min_uptime is \"99999999h\": want a number with a unit"},
	{"run: [./app]\nenv: [A=b]", "2:6: env is a list: want a mapping"},
	{"run: [./app]\nenv: {A: [b]}", "2:10: env A is a list: want text"},
	{"run: [./app]\nenv: {A=b: c}", "2:7: \"A=b\" is no name of an environment variable"},
	{"run: [./app]\nenv: {A: }", "env A is nothing: want text"},
	{"run: [./app]\nlimits: {max_memory: 512}", "2:22: max_memory is \"512\": want a size with its unit"},
	{"run: [./app]\nlimits: {max_requests: -1}", "2:24: max_requests is \"-1\": want a number from 0"},
	{"run: [./app]\nlimits: {max_age: 1}", "2:19: max_age is \"1\": want a number with a unit"},
	{"run: [./app]\nlogs: {format: xml}", "2:16: log format: \"xml\": want text or json"},
	{"run: [./app]\nlogs: {file: a.log, max_size: 10KiB}", "2:7: logs: max_size is 10240 bytes: want at least 1MiB, or off"},
	{"run: [./app]\nlogs: {keep: 3}", "2:7: logs: max_size or keep without a file: want file, out_file or error_file too"},
	{"run: [./app]\nlogs: {file: a.log, keep: 0}", "2:27: keep is \"0\": want a number from 1 to 2147483647, or all"},
	{"run: [./app]\nlogs: {file: [a]}", "2:14: file is a list: want a path"},
	{"run: [./app]\nreload: {cron: 0 3 * *}", `2:16: cron: "0 3 * *": expected 5 to 6 fields, found 4: [0 3 * *]: want minute, hour, day of the month, month and day of the week, such as "0 3 * * *", or @daily`},
	{"run: [./app]\nreload: {cron: 0 24 * * *}", `2:16: cron: "0 24 * * *": end of range (24) above maximum (23): 24: want minute, hour`},
	{"run: [./app]\nreload: {cron: '@never'}", `2:16: cron: "@never": unrecognized descriptor: @never: want`},
	{"run: [./app]\nreload: {cron: 0 0 30 2 *}", `2:16: cron: "0 0 30 2 *": there is no such day`},
	{"run: [./app]\nreload: {cron: CRON_TZ=UTC}", `2:16: cron: "CRON_TZ=UTC": nothing follows the zone: want`},
	{"run: [./app]\nreload: {cron: CRON_TZ=Mars 0 3 * * *}", `2:16: cron: "CRON_TZ=Mars 0 3 * * *": provided bad location Mars`},
	{"run: [./app]\nreload: {watch: src}", `2:17: watch is "src": want a list of files and directories, such as [src]`},
	{"run: [./app]\nreload: {watch: [src], ignore: ['[']}", `2:33: ignore: "[": want a name, or a pattern`},
	{"run: [./app]\nreload: {delay: 1s}", "2:9: reload: ignore or delay without watch: want the files and directories that are looked at, such as watch: [src]"},
	{"run: [./app]\nreload: {watch: [src], delay: -1s}", `2:31: delay is "-1s": want a duration of at least 0`},
	{"run: [./app]\nlogs: json", "2:7: logs is \"json\": want a mapping"},
	{"listen: [':1']\nserve:\nhttp: {header_bytes: 16}", "3:22: header_bytes is \"16\": want a size with its unit"},
	{"listen: [':1']\nserve:\nhttp: {body_bytes: 4MB}", "3:20: body_bytes is \"4MB\": want a size with its unit, such as 512B, 16KiB, 4MiB or 1GiB, or off"},
	{"listen: [':1']\nserve:\nhttp: {body_bytes: 9999999999GiB}", "3:20: body_bytes is \"9999999999GiB\": want a size"},
	{"listen: [':1']\nserve:\nhttp: {connections: none}", "3:21: connections is \"none\": want a number from 1 to 2147483647, or off"},
	{"listen: [':1']\nserve:\nschedtrace: off", "3:13: schedtrace is \"off\": want true or false"},
	{"listen: [':1']\nserve:\nhttp: {defer_accept: 1s}", "3:22: defer_accept is \"1s\": want true or false"},
	{"listen: [':1']\nserve:\nhttp: {access_log: common}", "3:20: access log: \"common\": want one of combined, json"},
	{"listen: [':1']\nserve:\nhttp: {access_log: json, access_sample: 2}", "3:41: access_sample is \"2\": want a number above 0, and at most 1, such as 0.01"},
	{"listen: [':1']\nserve:\nhttp: {access_file: a.log}", "3:7: access file: \"a.log\" without an access log: want its format too, combined or json"},
	{"listen: [':1']\nserve:\nhttp: {crash_on_panic: 1}", "3:24: crash_on_panic is \"1\": want true or false"},
	{"listen: [':1']\nserve:\nhttp: {keep_alive: 5s}", "3:8: unknown key \"keep_alive\" in http: want one of access_file, access_log, access_sample, body_bytes,"},
	{"listen: [':1']\nserve:\nhttp: 5s", "3:7: http is \"5s\": want a mapping"},
}

func TestBadFiles(t *testing.T) {
	if len(badFiles) < 60 {
		t.Fatalf("%d bad files: want at least 60", len(badFiles))
	}
	for _, c := range badFiles {
		_, err := Parse("drover.yaml", []byte(c.text))
		var errs FileErrors
		if !errors.As(err, &errs) || len(errs) == 0 {
			t.Errorf("%.60q: %v, want FileErrors", c.text, err)
			continue
		}
		if got := errs[0].Error(); !strings.HasPrefix(got, "drover.yaml:") || !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%.60q:\n got %s\nwant %s", c.text, got, c.want)
		}
	}
}

// All that is wrong is told at once, in the order of the file.
func TestEveryErrorIsTold(t *testing.T) {
	_, err := Parse("d.yaml", []byte("workers: none\nlisten: [3000]\nrun: ./app\ncolour: red\n"))
	lines := strings.Split(fmt.Sprint(err), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines, want 4:\n%v", len(lines), err)
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, fmt.Sprintf("d.yaml:%d:", i+1)) {
			t.Errorf("line %d: %s", i+1, line)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "drover.yaml")
	if err := os.WriteFile(path, []byte("listen: [':0']\nserve: {root: public}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if f.Dir != dir || f.Serve.Root != filepath.Join(dir, "public") {
		t.Errorf("%q below %q: a path is relative to the file", f.Serve.Root, f.Dir)
	}
	for text, want := range map[string]string{"dir: sub/x": filepath.Join(dir, "sub/x"), "dir: ..": filepath.Dir(dir), "dir: /srv": "/srv"} {
		if err := os.WriteFile(path, []byte("run: [./app]\n"+text), 0o644); err != nil {
			t.Fatal(err)
		}
		if f, err := Load(path); err != nil || f.Dir != want {
			t.Errorf("%s: %+v, %v: want %s", text, f, err, want)
		}
	}
	if _, err := Load(filepath.Join(dir, "missing.yaml")); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "missing.yaml") {
		t.Errorf("a missing file: %v", err)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"0B": 0, "512B": 512, "16KiB": 16 << 10, "4 MiB": 4 << 20, "1GiB": 1 << 30} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "MiB", "-1MiB", "1.5MiB", "1MB", "9223372036854775807KiB"} {
		if n, err := ParseSize(text); err == nil {
			t.Errorf("%q: %d, want an error", text, n)
		}
	}
}

// Whatever the text: a File whose Config is good, or errors with a place, and
// no panic.
func FuzzParse(f *testing.F) {
	for _, c := range badFiles {
		if len(c.text) < 1000 {
			f.Add([]byte(c.text))
		}
	}
	f.Add([]byte("run: [./app]\nenv: &e {A: b}\nname: &n x\nlogs: {format: text}\nhttp: *e"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse("f", text)
		if err != nil {
			var errs FileErrors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("%v is no FileErrors", err)
			}
			for _, e := range errs {
				if e.Line < 1 || e.Column < 1 || e.Why == "" {
					t.Fatalf("%+v has no place or no reason", e)
				}
			}
			return
		}
		if err := file.Check(); err != nil {
			t.Fatalf("the file is taken, but its Config is bad: %v", err)
		}
	})
}

// The file that the README shows is a good one, and says what the defaults are.
func TestFileOfTheREADME(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(text), "\n    name: api ")
	if !found {
		t.Fatal("the README has no file that begins with a name")
	}
	block, _, _ = strings.Cut("name: api "+block, "\n\n")
	f, err := Parse("README.md", []byte(strings.ReplaceAll(block, "\n    ", "\n")))
	if err != nil {
		t.Fatalf("%v\n%s", err, block)
	}
	got, want := f.WithDefaults(), Config{}.WithDefaults()
	for _, d := range [][2]time.Duration{
		{got.ReadyTimeout, want.ReadyTimeout}, {got.MinUptime, want.MinUptime}, {got.HangTimeout, want.HangTimeout}, {got.Drain, want.Drain},
		{got.LameDuck, want.LameDuck}, {got.OrphanTimeout, want.OrphanTimeout}, {got.StopDelay, want.StopDelay},
	} {
		if d[0] != d[1] {
			t.Errorf("the file says %s, the default is %s", d[0], d[1])
		}
	}
}
