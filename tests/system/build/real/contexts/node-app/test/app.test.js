const test = require("node:test");
const assert = require("node:assert");
const request = require("supertest");
const app = require("../src/app");

test("answers", async () => {
  const { body } = await request(app).get("/?a=1");
  assert.deepStrictEqual(body.query, { a: "1" });
});
