package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// find looks for a program in the PATH and where Debian has servers.
func find(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		if path, sbin := exec.LookPath(filepath.Join("/usr/sbin", program)); sbin == nil {
			return path, nil
		}
	}
	return path, err
}

// nginx answers by `return`, and serves files by sendfile. option is added to
// its listen directive.
func (s *site) nginx(name, option string, kinds []kind) server {
	binary, err := find("nginx")
	return server{
		name: name, kinds: kinds, sockets: s.workers, missing: missing(err, "nginx", "apt-get install nginx-light"),
		version: strings.TrimPrefix(firstLine(binary, "-v"), "nginx version: "),
		command: func(l load, port int) (command, error) {
			user, tls := "", ""
			if os.Getuid() == 0 {
				user = "user root;" // the files are in a directory of ours alone
			}
			listen := fmt.Sprintf("listen %s reuseport backlog=4096%s", local(port), option)
			if l.encrypted() {
				listen += " ssl"
				tls = fmt.Sprintf("ssl_certificate %s; ssl_certificate_key %s; ssl_protocols TLSv1.3;", s.cert, s.key)
			}
			path, err := s.write("nginx.conf", fmt.Sprintf(`%s
daemon off;
worker_processes %d;
worker_rlimit_nofile 20000;
pid %s/nginx.pid;
error_log stderr error;
events { worker_connections 16384; }
http {
	access_log off;
	server_tokens off;
	sendfile on;
	tcp_nopush on;
	open_file_cache max=100;
	keepalive_requests 1000000000;
	default_type application/octet-stream;
	client_body_temp_path %[3]s/nginx-body;
	proxy_temp_path %[3]s/nginx-proxy;
	fastcgi_temp_path %[3]s/nginx-fastcgi;
	uwsgi_temp_path %[3]s/nginx-uwsgi;
	scgi_temp_path %[3]s/nginx-scgi;
	server {
		%s;
		%s
		location = /plaintext {
			default_type "text/plain; charset=utf-8";
			return 200 "Hello, World!";
		}
		location / { root %s; }
	}
}
`, user, s.workers, s.dir, listen, tls, s.files))
			return command{args: []string{binary, "-c", path, "-e", "stderr"}}, err
		},
	}
}

// node is its cluster, in which the primary accepts and hands out in turn.
func (s *site) node() server {
	binary, err := find("node")
	return server{
		name: "Node cluster", kinds: all, sockets: 1, missing: missing(err, "node", "apt-get install nodejs"),
		version: "node " + firstLine(binary, "--version"),
		command: func(l load, port int) (command, error) {
			script, err := filepath.Abs("peer/js/cluster.js")
			return command{args: []string{binary, script, strconv.Itoa(port), strconv.Itoa(s.workers)}, env: s.nodeEnv(l)}, err
		},
	}
}

func (s *site) nodeEnv(l load) []string {
	env := []string{"NODE_ENV=production", "FILES=" + s.files}
	switch l.kind {
	case encrypted, shaking:
		env = append(env, "CERTIFICATE="+s.cert, "KEY="+s.key)
	case redis:
		env = append(env, "REDIS_PORT="+strings.TrimPrefix(s.redis, "127.0.0.1:"))
	}
	return env
}

// pm2 is the same program under PM2's cluster, whose daemon counts as master.
func (s *site) pm2() server {
	binary, err := find("pm2-runtime")
	return server{
		name: "PM2 cluster", kinds: []kind{keepalive, closing}, optional: true, sockets: 1,
		missing: missing(err, "pm2", "npm install --global pm2"),
		version: "pm2 " + firstLine("pm2", "--version"),
		command: func(l load, port int) (command, error) {
			script, err := filepath.Abs("peer/js/cluster.js")
			env := append(s.nodeEnv(l), "PORT="+strconv.Itoa(port), "PM2_HOME="+filepath.Join(s.dir, "pm2"))
			return command{args: []string{binary, "start", script, "-i", strconv.Itoa(s.workers)}, env: env}, err
		},
	}
}

// bun is a process for each CPU, under a shell.
func (s *site) bun() server {
	binary, err := find("bun")
	return server{
		name: "Bun", kinds: append([]kind{jsonKind}, web...), optional: true, sockets: s.workers,
		missing: missing(err, "bun", "npm install --global bun"),
		version: "bun " + firstLine(binary, "--version"),
		command: func(_ load, port int) (command, error) {
			script, err := filepath.Abs("peer/js/bun.js")
			shell := strings.Repeat(`"$0" "$1" "$2" & `, s.workers) + "wait"
			return command{args: []string{"/bin/sh", "-c", shell, binary, script, strconv.Itoa(port)}}, err
		},
	}
}

// haproxy answers by http-request return, on a socket for each thread.
func (s *site) haproxy() server {
	binary, err := find("haproxy")
	return server{
		name: "HAProxy", kinds: web, optional: true, sockets: s.workers,
		missing: missing(err, "haproxy", "apt-get install haproxy"), version: firstLine(binary, "-v"),
		command: func(_ load, port int) (command, error) {
			path, err := s.write("haproxy.cfg", fmt.Sprintf(`global
	nbthread %d
	maxconn 16384
defaults
	mode http
	timeout client 60s
	timeout server 60s
	timeout connect 5s
frontend all
	bind %s shards by-thread backlog 4096
	http-request return status 200 content-type "text/plain; charset=utf-8" string "Hello, World!" hdr Server haproxy hdr Date "%%[date(),http_date]"
`, s.workers, local(port)))
			return command{args: []string{binary, "-f", path}}, err
		},
	}
}

// h2o is here for files only: it has no answer of its own to give.
func (s *site) h2o() server {
	binary, err := find("h2o")
	return server{
		name: "h2o", kinds: []kind{file}, optional: true, sockets: 1,
		missing: missing(err, "h2o", "apt-get install h2o"), version: firstLine(binary, "--version"),
		command: func(_ load, port int) (command, error) {
			path, err := s.write("h2o.conf", fmt.Sprintf(`num-threads: %d
max-connections: 16384
server-name: h2o
listen:
  host: 127.0.0.1
  port: %d
file.send-gzip: OFF
hosts:
  default:
    paths:
      /:
        file.dir: %s
`, s.workers, port, s.files))
			return command{args: []string{binary, "-c", path}}, err
		},
	}
}
