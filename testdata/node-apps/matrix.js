// Runs each app under drover with each version of Node, in both modes, under
// load: node matrix.js DROVER "20 22" "http express …" SECONDS. Prints a
// Markdown table; what a failed run printed goes to standard error, and the
// exit code is then 1.
'use strict';
const { spawn, execFile, execFileSync } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');

const [drover, versions, apps, seconds] = [process.argv[2], process.argv[3].split(' '), process.argv[4].split(' '), process.argv[5]];
const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'node-apps-'));
process.on('exit', () => fs.rmSync(dir, { recursive: true, force: true }));

const certificate = path.join(dir, 'cert.pem');
const key = path.join(dir, 'key.pem');
execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
  '-subj', '/CN=localhost', '-keyout', key, '-out', certificate], { stdio: 'ignore' });

const modes = { shared: [], rr: ['--round-robin'] };
const sticky = { sticky: ['--steering', 'sticky'] };

// What is run, in which modes, and what its clients do. Each returns what went
// well and what did not, and which processes answered.
const kinds = {
  http: { load: wrk }, express: { load: wrk }, fastify: { load: wrk }, koa: { load: wrk }, hono: { load: wrk },
  https: { load: wrk, scheme: 'https' },
  next: { load: wrk, file: path.join(__dirname, 'node_modules/next/dist/bin/next'), args: ['start', path.join(__dirname, 'next')], pid: '/pid' },
  prom: { load: prometheus },
  ws: { load: websockets },
  socketio: { load: (a) => socketio(a, 'websocket') },
  polling: { file: path.join(__dirname, 'app/socketio.js'), load: (a) => socketio(a, 'polling'), modes: sticky },
};

function run(file, args) {
  return new Promise((resolve) => execFile(file, args, { env: environment }, (err, stdout, stderr) => resolve({ err, stdout, stderr })));
}

const environment = { ...process.env, DROVER_RUNTIME_DIR: dir, NEXT_TELEMETRY_DISABLED: '1', NODE_ENV: 'production', CERTIFICATE: certificate, KEY: key };

async function wrk({ url, kind }) {
  const { stdout, err } = await run('wrk', ['-t1', '-c20', `-d${seconds}s`, url]);
  if (err) throw new Error(`wrk: ${err.message}`);
  const number = (re) => [...(re.exec(stdout) || [])].slice(1).reduce((sum, n) => sum + Number(n), 0);
  const bad = number(/connect (\d+), read (\d+), write (\d+), timeout (\d+)/) + number(/Non-2xx or 3xx responses: (\d+)/);
  const pids = {};
  for (let i = 0; i < 40; i++) {
    const pid = await get(url + (kind.pid || '/'));
    pids[pid] = (pids[pid] || 0) + 1;
  }
  return { good: number(/(\d+) requests in/), bad, pids, unit: 'requests' };
}

// What prom-client counts in both workers is in drover's own metrics, merged.
async function prometheus(a) {
  const told = await wrk(a);
  const most = told.good + 40 + 20; // wrk's last ones may have been answered, and not counted
  const text = await new Promise((resolve, reject) => http.get({ socketPath: path.join(dir, `${a.name}.sock`), path: '/metrics' }, (res) => {
    let body = '';
    res.setEncoding('utf8').on('data', (d) => { body += d; }).on('end', () => resolve(body));
  }).on('error', reject));
  const [, counted] = /^app_answers_total (\d+)$/m.exec(text) || [];
  if (!(counted >= told.good + 40 && counted <= most)) {
    told.bad++;
    told.why = `app_answers_total is ${counted}, want ${told.good + 40} to ${most}`;
  }
  return told;
}

function get(url) {
  return new Promise((resolve, reject) => {
    const client = url.startsWith('https') ? https : http;
    client.get(url, { agent: false, rejectUnauthorized: false }, (res) => {
      let body = '';
      res.setEncoding('utf8').on('data', (d) => { body += d; }).on('end', () => resolve(body)).on('error', reject);
    }).on('error', reject);
  });
}

// Twenty clients, each with an echo under way all the time.
async function websockets({ port }) {
  const { WebSocket } = require('ws');
  const told = { good: 0, bad: 0, pids: {}, unit: 'echoes' };
  const end = Date.now() + seconds * 1000;
  await Promise.all(Array.from({ length: 20 }, (_, id) => new Promise((resolve) => {
    const ws = new WebSocket(`ws://127.0.0.1:${port}`);
    let n = 0;
    let done = false;
    ws.on('open', () => ws.send(`${id}-${n}`));
    ws.on('message', (m) => {
      const [text, pid] = String(m).split(' ');
      if (text !== `${id}-${n}`) told.bad++;
      else told.good++;
      if (n++ === 0) told.pids[pid] = (told.pids[pid] || 0) + 1;
      if (Date.now() < end) return ws.send(`${id}-${n}`);
      done = true;
      ws.close();
    });
    ws.on('error', () => { told.bad++; });
    ws.on('close', () => { if (!done) told.bad++; resolve(); });
  })));
  return told;
}

// Thirty clients, each from an address of its own, as sticky steering needs it,
// and with a connection for each request where they poll.
async function socketio({ port }, transport) {
  const { io } = require('socket.io-client');
  const told = { good: 0, bad: 0, pids: {}, unit: 'echoes' };
  let whole = 0;
  const end = Date.now() + seconds * 1000;
  await Promise.all(Array.from({ length: 30 }, (_, id) => new Promise((resolve) => {
    const agent = new http.Agent({ localAddress: `127.0.1.${id + 1}`, keepAlive: false });
    const socket = io(`http://127.0.0.1:${port}`, { transports: [transport], agent, forceNew: true, reconnection: false });
    let n = 0;
    const seen = new Set();
    const lost = (why) => { told.bad++; told.why = told.why || String(why); socket.close(); resolve(); };
    const echo = () => socket.timeout(5000).emit('echo', `${id}-${n}`, (err, answer) => {
      if (err) return lost(err);
      const [text, pid] = answer.split(' ');
      if (text !== `${id}-${n}`) return lost(`${answer} for ${id}-${n}`);
      told.good++;
      seen.add(pid);
      if (n++ === 0) told.pids[pid] = (told.pids[pid] || 0) + 1;
      if (Date.now() < end) return echo();
      if (seen.size === 1) whole++;
      socket.off('disconnect');
      socket.close();
      resolve();
    });
    socket.on('connect', echo).on('connect_error', lost).on('disconnect', lost);
  })));
  told.note = `${whole} of 30 clients`;
  if (whole !== 30) told.bad += 30 - whole;
  return told;
}

function freePort() {
  return new Promise((resolve) => {
    const s = net.createServer().listen(0, () => { const { port } = s.address(); s.close(() => resolve(port)); });
  });
}

async function measure(app, version, mode, flags) {
  const kind = kinds[app];
  const port = await freePort();
  const node = version === 'PATH' ? process.env.PATH : `${path.join(__dirname, 'node/node_modules', `node${version}`, 'bin')}:${process.env.PATH}`;
  const name = `${app}-${version}-${mode}`;
  const child = spawn(drover, ['run', '--workers', '2', '--name', name, ...flags, kind.file || path.join(__dirname, 'app', `${app}.js`), ...(kind.args || [])],
    { env: { ...environment, PATH: node, PORT: String(port) }, stdio: ['ignore', 'pipe', 'pipe'] });
  let printed = '';
  for (const s of [child.stdout, child.stderr]) s.setEncoding('utf8').on('data', (d) => { printed += d; });
  const exited = new Promise((resolve) => child.on('exit', (code, signal) => resolve(signal || code)));
  let ended;
  exited.then((how) => { ended = how; });
  try {
    for (const deadline = Date.now() + 20000; ;) {
      if (ended !== undefined) throw new Error(`drover ended: ${ended}`);
      const { stdout } = await run(drover, ['status', '--json', '--name', name]);
      if (stdout && JSON.parse(stdout).workers.filter((w) => w.state === 'ready').length === 2) break;
      if (Date.now() > deadline) throw new Error('no two workers are ready after 20 s');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const told = await kind.load({ url: `${kind.scheme || 'http'}://127.0.0.1:${port}`, port, kind, name });
    const stopped = await run(drover, ['stop', '--name', name]);
    if (stopped.err) throw new Error(`drover stop: ${stopped.stderr}`);
    const code = await exited;
    if (code !== 0) throw new Error(`drover exited: ${code}`);
    const odd = printed.split('\n').filter((l) => / (WARN|ERROR) /.test(l));
    if (told.bad || told.good === 0 || Object.keys(told.pids).length !== 2 || odd.length) {
      throw new Error(`${told.good} ${told.unit}, ${told.bad} bad ${told.why || ''}, answered by ${JSON.stringify(told.pids)}${odd.map((l) => `\n${l}`)}`);
    }
    return `${told.note ? `${told.note}, ` : ''}${told.good} ${told.unit}, 0 bad`;
  } catch (err) {
    process.exitCode = 1;
    console.error(`== ${name}: ${err.message}\n${printed}`);
    return `FAILED: ${err.message.split('\n')[0]}`;
  } finally {
    if (ended === undefined) child.kill('SIGKILL');
  }
}

(async () => {
  console.log(`| Node | app | mode | in ${seconds} s |\n|---|---|---|---|`);
  for (const version of versions) {
    const file = version === 'PATH' ? 'node' : path.join(__dirname, 'node/node_modules', `node${version}`, 'bin/node');
    const full = execFileSync(file, ['--version'], { encoding: 'utf8' }).trim();
    for (const app of apps) {
      for (const [mode, flags] of Object.entries(kinds[app].modes || modes)) {
        console.log(`| ${full} | ${app} | ${mode} | ${await measure(app, version, mode, flags)} |`);
      }
    }
  }
})();
