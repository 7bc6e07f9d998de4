const { WebSocketServer } = require('ws');
const wss = new WebSocketServer({ port: Number(process.env.PORT) });
wss.on('connection', (ws) => ws.on('message', (m) => ws.send(`${m} ${process.pid}`)));
