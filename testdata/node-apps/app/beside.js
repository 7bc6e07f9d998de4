// The app that drover, Node's primary and PM2 run: it closes its server on SIGINT
// and says 'ready', as PM2's documentation advises; drover needs neither.
const http = require('node:http');
const server = http.createServer((req, res) => {
  if (req.url === '/slow') return setTimeout(() => res.end('ok'), 200);
  res.end(req.url === '/pid' ? String(process.pid) : 'ok');
});
server.listen(process.env.PORT, '127.0.0.1', () => process.send && process.send('ready'));
process.on('SIGINT', () => server.close(() => process.exit(0)));
