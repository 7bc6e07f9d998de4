// Node's own primary, as its documentation has it: two workers, another for each
// that ends; on SIGHUP one after the other is replaced by one that listens.
const cluster = require('node:cluster');
cluster.schedulingPolicy = process.env.SCHED === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR;
cluster.setupPrimary({ exec: process.argv[2] });
cluster.fork();
cluster.fork();
cluster.on('exit', (worker) => { if (!worker.exitedAfterDisconnect) cluster.fork(); });
process.on('SIGHUP', async () => {
  for (const old of Object.values(cluster.workers)) {
    await new Promise((resolve) => cluster.fork().once('listening', resolve));
    old.disconnect();
    await new Promise((resolve) => old.once('exit', resolve));
  }
  console.log('reloaded');
});
