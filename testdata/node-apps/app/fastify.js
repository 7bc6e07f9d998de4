const app = require('fastify')();
app.get('/', async () => String(process.pid));
app.listen({ port: Number(process.env.PORT), host: '0.0.0.0' });
