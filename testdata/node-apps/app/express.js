const express = require('express');
const app = express();
app.get('/', (req, res) => res.send(String(process.pid)));
app.listen(process.env.PORT);
