const http = require('node:http');
const { Server } = require('socket.io');
const server = http.createServer();
new Server(server).on('connection', (s) => s.on('echo', (m, answer) => answer(`${m} ${process.pid}`)));
server.listen(process.env.PORT);
