const Koa = require('koa');
const app = new Koa();
app.use((ctx) => { ctx.body = String(process.pid); });
app.listen(process.env.PORT);
