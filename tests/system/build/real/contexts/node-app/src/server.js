const app = require("./app");

const server = app.listen(3000, () => console.log("listening"));
process.on("SIGINT", () => server.close(() => process.exit(0)));
