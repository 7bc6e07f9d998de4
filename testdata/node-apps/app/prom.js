const http = require('node:http');
const { AggregatorRegistry, Counter } = require('prom-client');
new AggregatorRegistry();
const answers = new Counter({ name: 'app_answers_total', help: 'Requests that were answered' });
http.createServer((req, res) => { answers.inc(); res.end(String(process.pid)); }).listen(process.env.PORT);
