const { Hono } = require('hono');
const { serve } = require('@hono/node-server');
const app = new Hono();
app.get('/', (c) => c.text(String(process.pid)));
serve({ fetch: app.fetch, port: Number(process.env.PORT) });
