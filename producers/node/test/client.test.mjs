// Runs against a worker: REDIS_URL, IMAGE_URL of a server of images, PORT on which callbacks are expected, SECRET that signs.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { Redis } from "ioredis";
import { Client, QueueFull, RequestConflict, ResultTimeout, verify } from "m3agiqa";

const { REDIS_URL, IMAGE_URL, PORT, SECRET } = process.env;
const OTHER = `whsec_${Buffer.alloc(32).toString("base64")}`;
const image = (name, more = {}) => ({ image_url: `${IMAGE_URL}/${name}.png`, prompt: 'a "quoted" café', ...more });

let client;
before(() => (client = new Client(REDIS_URL)));
after(() => client.close());

test("a package of either kind has the same client", () => {
  assert.equal(createRequire(import.meta.url)("m3agiqa").Client, Client);
});

test("an image is scored", async () => {
  const verdict = await client.score(image("one", { metadata: { user: 7 } }), { timeoutMs: 60_000 });
  assert.equal(verdict.status, "scored");
  assert.deepEqual(verdict.metadata, { user: 7 });
  assert.deepEqual(Object.keys(verdict.aspects).sort(), ["authenticity", "correspondence", "quality"]);
});

test("an image is scored that the caller has as bytes", async () => {
  const bytes = Buffer.from(await (await fetch(`${IMAGE_URL}/bytes.png`)).arrayBuffer());
  const verdict = await client.score({ image: bytes, prompt: "" }, { timeoutMs: 60_000 });
  assert.equal(verdict.status, "scored");
  assert.equal(verdict.image.sha256, createHash("sha256").update(bytes).digest("hex"));
  // A broken image of some parts went the same way.
  const broken = await client.score({ image: new Uint8Array(1_500_000).fill(7), prompt: "" }, { timeoutMs: 60_000 });
  assert.equal(broken.error.code, "image_unreadable");
});

test("images have limits", async () => {
  const small = new Client(REDIS_URL, { inlineMaxBytes: 10, inlineBudgetBytes: 15, namespace: "small" });
  await assert.rejects(small.submit({ image: Buffer.alloc(11), prompt: "" }), RangeError);
  await assert.rejects(small.submit({ image: Buffer.alloc(0), prompt: "" }), TypeError);
  await assert.rejects(small.submit({ image: Buffer.alloc(1), image_url: "https://x.example", prompt: "" }), TypeError);
  const ten = (name) => ({ image: Buffer.alloc(10), prompt: "", request_id: name });
  await small.submit(ten("again"));
  await small.submit(ten("again"));
  await assert.rejects(small.submitMany([image("x"), ten("more")]), (error) => error instanceof QueueFull && error.submitted.length === 1);
  await small.close();
});

test("a thousand waiters share a subscription", async () => {
  const ids = await client.submitMany(Array.from({ length: 1000 }, (_, number) => image(`many-${number % 7}`, { priority: 9 })));
  assert.equal(new Set(ids).size, 1000);
  const verdicts = await Promise.all(ids.map((id) => client.result(id, { timeoutMs: 120_000 })));
  assert.deepEqual(verdicts.map((verdict) => verdict.request_id), ids);
});

test("a verdict that is there is read at once, and one that does not come is waited for no longer than asked", async () => {
  const id = await client.submit(image("there", { request_id: "node-1", priority: 0 }));
  assert.equal(id, "node-1");
  await client.result(id, { timeoutMs: 60_000 });
  assert.equal((await client.result(id, { timeoutMs: 0 })).request_id, id);
  await assert.rejects(client.result("never-submitted", { timeoutMs: 50 }), ResultTimeout);
});

test("another request under an id that is taken is refused, and a repetition is not", async () => {
  // What JavaScript and Python write in two ways: escapes, orders of names, small numbers.
  const metadata = { "\u{1f600}": 1e-7, "\uffee": [0.00001, 1e21, -0, 1.5, 2 ** 60, 1e-10], z: { b: "\u007fé\u2028\n/", a: undefined }, t: new Date(0) };
  const whole = image("conflict", { request_id: "node-3", metadata, aspects: ["quality", "quality"], policy: null, s3_uri: undefined });
  await client.score(whole, { timeoutMs: 60_000 });
  assert.equal(await client.submit({ ...whole, priority: 9, batch_id: "again" }), "node-3");
  const other = { ...whole, prompt: "another" };
  await assert.rejects(client.submitMany([image("fine"), other]), (error) => error instanceof RequestConflict && error.requestIds.join() === "node-3");
  const twice = ["a", "b"].map((prompt) => image("twice", { request_id: "node-4", prompt }));
  await assert.rejects(client.submitMany(twice), RequestConflict);
  await client.submitMany([twice[0], twice[0]]);
});

test("one can ask where requests are", async () => {
  await client.score(image("where", { request_id: "node-5", batch_id: "monday" }), { timeoutMs: 60_000 });
  const found = await client.statusMany(["node-5", "unknown", "node-5"]);
  assert.deepEqual(found.get("node-5"), { state: "settled", batchId: "monday", position: null, expectedS: null });
  assert.deepEqual([found.size, found.get("unknown").state], [2, null]);
});

test("what cannot be a request is refused here", async () => {
  await assert.rejects(client.submit(image("x", { priority: 4 })), RangeError);
  await assert.rejects(client.submit({ prompt: "no image" }), TypeError);
});

test("a full queue refuses", async () => {
  const full = new Client(REDIS_URL, { maxQueued: 0 });
  await assert.rejects(full.submit(image("x")), (error) => error instanceof QueueFull && error.submitted.length === 0);
  await full.close();
});

test("what waits in lanes fills a queue", async () => {
  const redis = new Redis(REDIS_URL);
  await redis.hset("laned:m3agiqa:lanes:3", "acme", 2);
  const laned = new Client(`${REDIS_URL}?namespace=laned`, { maxQueued: 3 });
  await laned.submit(image("x"));
  await assert.rejects(laned.submit(image("y")), QueueFull);
  await laned.close();
  redis.disconnect();
});

test("another namespace is another queue", async () => {
  const elsewhere = new Client(`${REDIS_URL}?namespace=elsewhere`);
  const id = await elsewhere.submit(image("elsewhere"));
  await assert.rejects(client.result(id, { timeoutMs: 1500 }), ResultTimeout);
  await elsewhere.close();
});

test("a tenant's ids are its own", async () => {
  const acme = new Client(REDIS_URL, { tenant: "acme" });
  assert.equal(await acme.submit(image("hers", { request_id: "same" })), "same");
  assert.equal(await client.submit(image("ours", { request_id: "same" })), "same");
  const bytes = Buffer.from(await (await fetch(`${IMAGE_URL}/tenant.png`)).arrayBuffer());
  const named = await client.submit({ image: bytes, prompt: "", request_id: "bytes", tenant: "acme" });
  assert.equal(named, "acme/bytes");
  const verdicts = [await acme.result("same"), await acme.result("bytes"), await client.result(named), await client.result("same")];
  assert.deepEqual(verdicts.map(({ tenant }) => tenant), ["acme", "acme", "acme", null]);
  assert.deepEqual(verdicts.map(({ status }) => status), ["scored", "scored", "scored", "scored"]);
  await assert.rejects(acme.submit(image("a", { tenant: "umbra" })), TypeError);
  await acme.close();
});

test("who waits for a Redis that is away waits no longer than asked, and is told", async () => {
  const away = new Client("redis://127.0.0.1:1/0");
  const told = { name: "QueueUnavailable", message: "Redis at 127.0.0.1:1 cannot be reached" };
  await assert.rejects(away.score(image("a"), { timeoutMs: 1500 }), told);
  await assert.rejects(away.result("a", { timeoutMs: 1500 }), told);
  await away.close();
});

test("a callback is believed if our secret signed it", async () => {
  const got = await new Promise((resolve, reject) => {
    const server = createServer(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      response.writeHead(204).end();
      server.close();
      resolve([request.headers, Buffer.concat(chunks)]);
    }).listen(Number(PORT), "127.0.0.1", () =>
      client.submit(image("told", { request_id: "node-2", callback_url: `http://127.0.0.1:${PORT}/verdicts` })).catch(reject),
    );
  });
  assert.equal(verify(SECRET, ...got).request_id, "node-2");
  assert.equal(verify([OTHER, SECRET], ...got).request_id, "node-2");
  assert.throws(() => verify(OTHER, ...got));
  assert.throws(() => verify([], ...got));
  assert.throws(() => verify(SECRET, got[0], Buffer.from(got[1].toString().replace("node-2", "node-3"))));
});

test("who closes ends who waits", async () => {
  const closing = new Client(REDIS_URL);
  const waiting = closing.result("never-submitted");
  setTimeout(() => closing.close(), 50);
  await assert.rejects(waiting);
});
