const express = require("express");

const app = express();
app.get("/", (request, response) => {
  response.json({ version: process.env.APP_VERSION, uid: process.getuid(), query: request.query });
});
module.exports = app;
