// Loaded before a Node program (--import) where drover is to have its responses ask
// clients to close, once its worker is about to leave. Changes nothing before.
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

process.on('internalMessage', (message) => {
  if (message?.cmd !== 'NODE_DROVER_DRAIN') return;
  draining = true;
  for (const response of open) last(response);
  open.clear();
});
