// One process of Bun: bun bun.js PORT. Several share the port.
const answers = {
  '/plaintext': () => new Response('Hello, World!', { headers: head('text/plain; charset=utf-8') }),
  '/json': () => new Response(JSON.stringify({ message: 'Hello, World!' }), { headers: head('application/json') }),
};

function head(type) {
  return { 'Content-Type': type, Server: 'bun', Date: date };
}

let date = new Date().toUTCString();
setInterval(() => { date = new Date().toUTCString(); }, 1000);

Bun.serve({
  hostname: '127.0.0.1',
  port: Number(process.argv[2]),
  reusePort: true,
  fetch(req) {
    const answer = answers[req.url.slice(req.url.indexOf('/', 8))];
    return answer ? answer() : new Response('not found\n', { status: 404 });
  },
});
