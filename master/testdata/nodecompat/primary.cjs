// Loaded ahead of one of Node's own test-cluster files, in the process that its
// test starts: the cluster's primary. Node's code of the primary stays as it is,
// but the channels of the workers that it forks lead to drover, which answers
// them; here is told what they say, so that the test can check it, and asked for
// what the test wants of them. Nothing of this is loaded in the workers.
'use strict';

const { isMainThread } = require('worker_threads');

if (isMainThread && process.env.DROVER_COMPAT_CHANNELS) {
  const child = require('child_process');
  const fs = require('fs');
  const net = require('net');

  const channels = process.env.DROVER_COMPAT_CHANNELS.split(',').map(Number);
  delete process.env.DROVER_COMPAT_CHANNELS;
  // This file is no affair of the workers'.
  const at = process.execArgv.indexOf('--require');
  process.execArgv.splice(at, 2);

  const drover = new net.Socket({ fd: 3, readable: true, writable: true });
  drover.unref();
  const workers = new Map(); // by their ids
  const tell = (what) => drover.write(`${JSON.stringify(what)}\n`);
  const hold = () => { // as Node's own channels hold the process
    if ([...workers.values()].some((w) => !w.lost && (w.connected || w.ended))) drover.ref(); else drover.unref();
  };

  let rest = '';
  drover.setEncoding('utf8');
  drover.on('data', (data) => {
    const lines = (rest + data).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      const { id, gone, internal, value } = JSON.parse(line);
      const worker = workers.get(id);
      if (gone) lost(worker);
      else if (internal) worker.emit('internalMessage', internal);
      else worker.emit('message', value);
    }
  });
  drover.on('error', (err) => { throw err; });

  function lost(worker) {
    if (worker.lost) return;
    worker.lost = true;
    worker.connected = false;
    worker.channel = null;
    hold();
    worker.emit('disconnect');
    if (worker.ended) worker.emit('exit', ...worker.ended);
  }

  const fork = child.fork;
  child.fork = function(file, args, options) {
    if (!options?.env?.NODE_UNIQUE_ID || !Array.isArray(args)) return fork.apply(this, arguments); // no worker of the cluster
    const id = Number(options.env.NODE_UNIQUE_ID);
    if (options.serialization === 'advanced') throw new Error('drover: serialization is json');
    const fd = channels.shift();
    if (fd === undefined) throw new Error('drover: too many workers for this test');
    const preset = options.stdio ?? (options.silent ? 'pipe' : 'inherit');
    const stdio = Array.isArray(preset) ? [...preset] : [preset, preset, preset, 'ipc'];
    const number = stdio.indexOf('ipc');
    stdio[number] = fd;
    tell({ fork: id, rr: require('cluster').schedulingPolicy === 2 });
    const worker = child.spawn(options.execPath ?? process.execPath, [...options.execArgv, file, ...args], {
      ...options, stdio,
      env: { ...options.env, NODE_CHANNEL_FD: `${number}`, NODE_CHANNEL_SERIALIZATION_MODE: 'json' },
    });
    fs.closeSync(fd);
    workers.set(id, worker);
    worker.connected = true;
    worker.channel = { fd: -1, ref() {}, unref() {} };
    worker.send = (message, handle, options, callback) => {
      callback = [handle, options, callback].find((a) => typeof a === 'function');
      if (!worker.connected) {
        const err = Object.assign(new Error('Channel closed'), { code: 'ERR_IPC_CHANNEL_CLOSED' });
        process.nextTick(() => (callback ? callback(err) : worker.emit('error', err)));
        return false;
      }
      if (handle && typeof handle === 'object') throw new Error('drover: it is Node code of the primary that sends a handle');
      if (message?.cmd === 'NODE_CLUSTER') {
        if (message.act === 'disconnect') tell({ dismiss: id }); // else an answer, which drover gives
      } else {
        tell({ tell: id, value: message });
      }
      if (callback) process.nextTick(callback, null);
      return true;
    };
    worker.disconnect = () => {
      if (!worker.connected) {
        worker.emit('error', Object.assign(new Error('IPC channel is already disconnected'), { code: 'ERR_IPC_DISCONNECTED' }));
        return;
      }
      worker.connected = false;
      hold();
      tell({ disconnect: id });
    };
    const emit = worker.emit;
    worker.emit = (name, ...args) => { // what it said last comes first
      if (name !== 'exit' || worker.lost) return emit.call(worker, name, ...args);
      worker.ended = args;
      hold();
      tell({ exit: id });
      return true;
    };
    hold();
    return worker;
  };
}
