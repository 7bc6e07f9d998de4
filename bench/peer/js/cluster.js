// Node's cluster, round robin, or one worker of PM2's: node cluster.js PORT WORKERS.
// TLS with CERTIFICATE and KEY, /redis with REDIS_PORT, files of FILES.
'use strict';
const cluster = require('node:cluster');
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const net = require('node:net');
const path = require('node:path');

const port = Number(process.env.PORT || process.argv[2]);
const workers = Number(process.env.WORKERS || process.argv[3]);

if (cluster.isPrimary) {
  cluster.schedulingPolicy = cluster.SCHED_RR;
  for (let i = 0; i < workers; i++) cluster.fork();
} else {
  const options = { keepAliveTimeout: 65000 }; // as long as others', for idle connections
  if (process.env.CERTIFICATE) {
    options.cert = fs.readFileSync(process.env.CERTIFICATE);
    options.key = fs.readFileSync(process.env.KEY);
  }
  const server = process.env.CERTIFICATE ? https.createServer(options, answer) : http.createServer(options, answer);
  server.listen(port, '127.0.0.1', 4096);
}

function answer(req, res) {
  res.setHeader('Server', 'node');
  if (req.url === '/plaintext') return send(res, 'text/plain; charset=utf-8', 'Hello, World!');
  if (req.url === '/json') return send(res, 'application/json', JSON.stringify({ message: 'Hello, World!' }));
  if (req.url === '/redis') {
    return get('hello', (err, value) => {
      if (err) {
        res.statusCode = 502;
        return send(res, 'text/plain; charset=utf-8', String(err));
      }
      send(res, 'text/plain; charset=utf-8', value);
    });
  }
  // As static file servers do: stat, then a stream.
  const file = path.join(process.env.FILES || '/nonexistent', path.posix.normalize(req.url));
  fs.stat(file, (err, info) => {
    if (err || !info.isFile()) {
      res.statusCode = 404;
      return send(res, 'text/plain; charset=utf-8', 'not found\n');
    }
    res.setHeader('Content-Type', 'application/octet-stream');
    res.setHeader('Content-Length', info.size);
    res.setHeader('Last-Modified', info.mtime.toUTCString());
    fs.createReadStream(file).pipe(res);
  });
}

function send(res, type, body) {
  res.setHeader('Content-Type', type);
  res.setHeader('Content-Length', Buffer.byteLength(body));
  res.end(body);
}

// A connection to Redis for each request in flight, kept for the next.
const idle = [];

function get(key, done) {
  let link = idle.pop();
  if (!link) {
    link = { socket: net.connect(Number(process.env.REDIS_PORT), '127.0.0.1'), got: '', done: null };
    link.socket.setNoDelay(true);
    link.socket.setEncoding('latin1');
    link.socket.on('data', (data) => {
      link.got += data;
      const head = link.got.indexOf('\r\n');
      if (head < 0) return;
      const length = Number(link.got.slice(1, head));
      if (link.got.length < head + 2 + length + 2) return;
      const value = link.got.slice(head + 2, head + 2 + length);
      link.got = '';
      const done = link.done;
      idle.push(link);
      done(null, value);
    });
    link.socket.on('error', (err) => link.done(err));
  }
  link.done = done;
  link.socket.write(`*2\r\n$3\r\nGET\r\n$${key.length}\r\n${key}\r\n`);
}
