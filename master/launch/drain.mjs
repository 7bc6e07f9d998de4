// Loaded before a Node program (--import) where drover is to have its responses ask
// clients to close, once its worker is about to leave. Of tls servers it also renews
// the keys of session tickets. Changes nothing else.
import { subscribe } from 'node:diagnostics_channel';

let draining = false;
const open = new Set(); // responses under way

const last = (response) => {
  if (!response.headersSent) response.shouldKeepAlive = false; // writes Connection: close, and does
};

subscribe('http.server.request.start', ({ response }) => {
  if (draining) return last(response);
  open.add(response);
  response.once('close', () => open.delete(response));
});

const encrypted = new Set(); // tls servers that have had a connection
const next = new Map(); // keys of tickets: those in their place

const renew = (server) => {
  let keys = server.getTicketKeys().toString('hex');
  if (!next.has(keys)) return;
  while (next.has(keys)) keys = next.get(keys);
  server.setTicketKeys(Buffer.from(keys, 'hex'));
};

subscribe('net.server.socket', ({ socket: { server } }) => {
  if (encrypted.has(server) || typeof server?.setTicketKeys !== 'function') return;
  encrypted.add(server);
  server.once('close', () => encrypted.delete(server));
  renew(server);
});

process.on('internalMessage', (message) => {
  switch (message?.cmd) {
    case 'NODE_DROVER_DRAIN':
      draining = true;
      for (const response of open) last(response);
      open.clear();
      break;
    case 'NODE_DROVER_TICKETS':
      for (const [old, keys] of Object.entries(message.next)) next.set(old, keys);
      for (const server of encrypted) renew(server);
  }
});
