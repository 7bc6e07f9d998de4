// A server that does not know of drover, nor of Node's cluster. The environment
// says what else it does.
const fs = require('fs');
const http = require('http');

const channel = /NODE_CHANNEL_FD=(\d+)/.exec(fs.readFileSync('/proc/self/environ', 'latin1'));

// Messages of Socket.IO's adapter, which answers requests.
const heard = [];
process.on('message', (m) => {
  if (m.source !== '_sio_adapter') return;
  heard.push({ pid: process.pid, type: m.type, to: m.requesterUid });
  if (m.type === 3) process.send({ source: '_sio_adapter', uid: `adapter ${process.pid}`, type: 8, nsp: '/', requesterUid: m.uid });
});

// What prom-client's AggregatorRegistry answers.
process.on('message', (m) => {
  if (m.type !== 'prom-client:getMetricsReq') return;
  const metric = (name, type, aggregator, value, labels = {}) => ({ name, help: 'of a test', type, aggregator, values: [{ value, labels }] });
  process.send({
    type: 'prom-client:getMetricsRes', requestId: m.requestId, metrics: [[
      metric('app_requests_total', 'counter', 'sum', 7, { path: '/' }), metric('app_uptime_seconds', 'gauge', 'max', 7),
      metric('not a name', 'gauge', 'sum', 1), metric('drover_generation', 'gauge', 'sum', 99),
    ]],
  });
});

const [cert, key] = (process.env.APP_TLS || '').split(':').filter(Boolean).map((path) => fs.readFileSync(path));
const server = (cert ? require('https') : http).createServer({ cert, key }, (req, res) => {
  switch (req.url) {
    case '/pid': return res.end(String(process.pid));
    case '/slow': return setTimeout(() => res.end('ok'), 200);
    case '/spin': fs.writeSync(2, 'spinning\n'); for (;;);
    case '/exit': return process.exit(0);
    case '/leave': process.disconnect(); return res.end('ok');
    case '/garbage':
      fs.writeSync(Number(channel[1]), '{"cmd":"NODE_CLUSTER",\n"cmd"}\n\n{"cmd":"NODE_CLUSTER","act":"bogus"}\n{"cmd":"NODE_HANDLE_ACK"}\n');
      return res.end('ok');
    case '/publish':
      process.send({ source: '_sio_adapter', uid: `adapter ${process.pid}`, type: 3, nsp: '/', data: 'hello' });
      return res.end(String(process.pid));
    case '/flood': // one line of 100 MB, of which a channel that works on takes what follows
      process.send('x'.repeat(100 << 20));
      process.send({ drover: 'all', message: { source: '_sio_adapter', type: 1 } });
      return res.end(String(process.pid));
    case '/owes': { // a socket to the primary: nothing more goes there before that has said it has it
      const socket = require('dgram').createSocket('udp4');
      return socket.bind({ port: 0, exclusive: true }, () => {
        process.send('a socket', socket);
        res.end(String(process.pid));
      });
    }
    case '/heard': return res.end(JSON.stringify(heard));
    case '/env': return res.end(JSON.stringify(process.env));
    case '/args': return res.end(JSON.stringify({ args: process.argv.slice(2), flags: process.execArgv }));
  }
  res.end('ok');
});
server.on('error', (err) => {
  console.error(`app: ${err.code}`);
  process.exit(1);
});
const port = process.env.APP_PORT || 3000;
const fd = process.env.APP_FD;
const abstract = process.env.APP_ABSTRACT && `\0${process.env.APP_ABSTRACT}`;
server.listen(abstract || (fd ? { fd: Number(fd) } : process.env.APP_HOST ? { port, host: process.env.APP_HOST } : port), () => {
  if (process.env.APP_READY_AFTER) setTimeout(() => process.send('ready'), Number(process.env.APP_READY_AFTER));
  if (process.env.APP_TWICE) http.createServer().on('error', (err) => console.error(`twice: ${err.code}`)).listen(port, process.env.APP_HOST);
});
if (process.env.APP_UDP) {
  const socket = require('dgram').createSocket('udp4');
  socket.on('message', (m, from) => socket.send(`${m} from ${process.pid}`, from.port, from.address));
  socket.bind(Number(process.env.APP_UDP));
}
for (const signal of ['SIGINT', 'SIGTERM']) {
  if (process.env.APP_HANDLES === signal) process.on(signal, () => server.close(() => process.exit(0)));
}
if (process.env.APP_HANDLES === 'shutdown') {
  process.on('message', (m) => { if (m === 'shutdown') server.close(() => process.exit(0)); });
}
