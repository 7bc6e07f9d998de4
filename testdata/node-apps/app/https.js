const fs = require('node:fs');
const https = require('node:https');
const options = { cert: fs.readFileSync(process.env.CERTIFICATE), key: fs.readFileSync(process.env.KEY) };
https.createServer(options, (req, res) => res.end(String(process.pid))).listen(process.env.PORT);
