// A server on two processes, as Node's cluster has it. main.go is the same program
// on drover.
const cluster = require('node:cluster');
const http = require('node:http');

if (cluster.isPrimary) {
  for (let i = 0; i < 2; i++) cluster.fork();

  cluster.on('exit', (worker) => {
    if (!worker.exitedAfterDisconnect) cluster.fork();
  });
  cluster.on('message', (_, page) => {
    for (const worker of Object.values(cluster.workers)) worker.send(page);
  });
  process.on('SIGTERM', () => cluster.disconnect());
} else {
  const cache = new Map();
  let made = 0;
  process.on('message', (page) => cache.delete(page));

  http.createServer((req, res) => {
    switch (req.method) {
      case 'GET':
        if (!cache.has(req.url)) cache.set(req.url, ++made);
        return res.end(`${process.pid} made this page ${cache.get(req.url)}`);
      case 'PUT':
        process.send(req.url); // every worker forgets the page
        return res.end();
      case 'DELETE':
        process.exit(1);
    }
  }).listen(process.env.PORT);
}
