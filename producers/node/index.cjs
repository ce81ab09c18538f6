"use strict";

const { randomUUID } = require("node:crypto");
const { EventEmitter, once } = require("node:events");
const { Redis } = require("ioredis");
const { Webhook } = require("standardwebhooks");

/** Version of the contract that requests follow. */
const VERSION = "1.2";
const PRIORITIES = [0, 3, 6, 9];
/** Lists on which requests wait, less the namespace. */
const WAITING = PRIORITIES.flatMap((step) => [`m3agiqa:inbox:${step}`, step ? `score:${step}` : "score"]);
/** Requests that `submitMany` sends in one round trip. */
const CHUNK = 500;
/** Milliseconds after which `result` looks for the verdict although no announcement came. */
const LOOK_AGAIN_MS = 1000;

/** Too many requests wait already. `submitted` has the ids of those that were enqueued before. */
class QueueFull extends Error {
  name = "QueueFull";
  constructor(maxQueued, submitted) {
    super(`${maxQueued} requests wait already; come back later (${submitted.length} enqueued)`);
    this.submitted = submitted;
  }
}

/** No verdict came in time. It may still come, or may have expired. */
class ResultTimeout extends Error {
  name = "ResultTimeout";
}

/** Submits images to the queue in Redis, and waits for verdicts. All waiters share one subscription. */
class Client {
  #redis;
  #subscriber;
  #prefix;
  #maxQueued;
  #announced = new EventEmitter().setMaxListeners(0);

  constructor(url, { namespace, maxQueued = 100_000, redis = {} } = {}) {
    const [address, named] = split(url);
    // A producer's user may not call INFO, which ioredis asks for before it is ready.
    const options = { enableReadyCheck: false, ...redis };
    this.#redis = new Redis(address, options);
    this.#subscriber = new Redis(address, { ...options, lazyConnect: true });
    // The promise of a command says what failed; an event that nobody listens to would end the process.
    for (const connection of [this.#redis, this.#subscriber]) connection.on("error", () => {});
    this.#subscriber.on("message", (channel) => this.#announced.emit(channel));
    this.#prefix = (namespace ?? named) ? `${namespace ?? named}:` : "";
    this.#maxQueued = maxQueued;
  }

  async submit(request) {
    return (await this.submitMany([request]))[0];
  }

  async submitMany(requests) {
    const ids = [];
    for (let start = 0; start < requests.length; start += CHUNK) {
      const chunk = requests.slice(start, start + CHUNK).map(prepared);
      const taken = chunk.slice(0, await this.#room());
      if (taken.length) {
        const pipeline = this.#redis.pipeline();
        for (const { priority, ...request } of taken) pipeline.lpush(this.#key(`m3agiqa:inbox:${priority}`), JSON.stringify(request));
        for (const [error] of await pipeline.exec()) if (error) throw error;
      }
      ids.push(...taken.map((request) => request.request_id));
      if (taken.length < chunk.length) throw new QueueFull(this.#maxQueued, ids);
    }
    return ids;
  }

  async result(requestId, { timeoutMs = Infinity } = {}) {
    const until = performance.now() + timeoutMs;
    const channel = this.#key(`m3agiqa:done:${requestId}`);
    const key = this.#key(`m3agiqa:result:${requestId}`);
    const waiting = new AbortController();
    // Listening begins before the first look, so that no announcement between the two is missed.
    let announced = this.#next(channel, waiting.signal);
    try {
      await this.#subscriber.subscribe(channel);
      for (;;) {
        const found = await this.#redis.get(key);
        if (found !== null) return JSON.parse(found);
        const leftMs = Math.min(LOOK_AGAIN_MS, until - performance.now());
        if (leftMs <= 0) throw new ResultTimeout(`no verdict for ${requestId} within ${timeoutMs} ms; is a worker running, and was it submitted?`);
        if (await Promise.race([announced, pause(leftMs, waiting.signal)])) announced = this.#next(channel, waiting.signal);
      }
    } finally {
      waiting.abort();
      if (!this.#announced.listenerCount(channel) && this.#subscriber.status === "ready") await this.#subscriber.unsubscribe(channel);
    }
  }

  async score(request, options) {
    return this.result(await this.submit(request), options);
  }

  async close() {
    this.#redis.disconnect();
    this.#subscriber.disconnect();
  }

  async #room() {
    const pipeline = this.#redis.pipeline();
    for (const list of WAITING) pipeline.llen(this.#key(list));
    const lengths = await pipeline.exec();
    for (const [error] of lengths) if (error) throw error;
    return Math.max(0, this.#maxQueued - lengths.reduce((sum, [, length]) => sum + length, 0));
  }

  #key(name) {
    return this.#prefix + name;
  }

  /** Whether the next announcement on `channel` came; false once `signal` ends the waiting. */
  #next(channel, signal) {
    return once(this.#announced, channel, { signal }).then(
      () => true,
      () => false,
    );
  }
}

/** The body of a callback, verified: its verdict. Throws if none of the secrets signed it within the last five minutes. */
function verify(secrets, headers, body) {
  const signed = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), String(value)]));
  let failure;
  for (const secret of [secrets].flat()) {
    try {
      return new Webhook(secret).verify(body, signed);
    } catch (error) {
      failure = error;
    }
  }
  throw failure ?? new Error("no secret is given");
}

function prepared({ priority = 3, metadata, ...fields }) {
  if (!PRIORITIES.includes(priority)) throw new RangeError(`priority ${priority} is none of ${PRIORITIES.join(", ")}`);
  for (const name of ["image_url", "prompt"]) if (typeof fields[name] !== "string") throw new TypeError(`${name} must be a string`);
  const made = { request_id: randomUUID(), submitted_at: new Date().toISOString(), version: VERSION };
  return { ...made, ...fields, ...(metadata && { metadata }), priority };
}

/** The URL that ioredis understands, and the namespace that `?namespace=` names. */
function split(url) {
  const address = new URL(url);
  const namespace = address.searchParams.get("namespace") ?? "";
  address.searchParams.delete("namespace");
  return [address.href, namespace];
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms, false);
    signal.addEventListener("abort", done, { once: true });
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve(false);
    }
  });
}

module.exports = { Client, QueueFull, ResultTimeout, VERSION, verify };
