"use strict";

const { createHash, randomUUID } = require("node:crypto");
const { EventEmitter, once } = require("node:events");
const { Redis } = require("ioredis");
const { Webhook } = require("standardwebhooks");
const { fingerprint } = require("./fingerprint.cjs");
const { PRIORITIES, answers, lists, standing } = require("./standing.cjs");

/** Version of the contract that requests follow. */
const VERSION = "1.3";
/** Lists on which requests wait, less the namespace. */
const WAITING = PRIORITIES.flatMap(lists);
/** Hashes of how many requests of each tenant wait in a lane behind these lists. */
const LANES = PRIORITIES.map((step) => `m3agiqa:lanes:${step}`);
/** Requests that one round trip sends or asks for. */
const CHUNK = 500;
/** Bytes of images that wait, by the minute since 1970 in which they expire. */
const IMAGES = "m3agiqa:images";
/** Bytes of an image that one value of Redis holds. */
const PART_BYTES = 2 ** 19;
/** Milliseconds after which `result` looks for the verdict although no announcement came. */
const LOOK_AGAIN_MS = 1000;

/** Too many requests, or bytes of images, wait already. `submitted` has the ids of those that were enqueued before. */
class QueueFull extends Error {
  name = "QueueFull";
  constructor(what, submitted) {
    super(`${what} wait already; come back later (${submitted.length} enqueued)`);
    this.submitted = submitted;
  }
}

/** Other requests stand under the ids `requestIds`, and stay; `submitted` has the ids of those that were enqueued before. */
class RequestConflict extends Error {
  name = "RequestConflict";
  constructor(requestIds, submitted) {
    super(`request_id: another request stands under ${requestIds.slice(0, 8).join(", ")} (${submitted.length} enqueued)`);
    this.requestIds = requestIds;
    this.submitted = submitted;
  }
}

/** Redis cannot be reached. To submit again under the same `request_id` is safe. */
class QueueUnavailable extends Error {
  name = "QueueUnavailable";
}

/** No verdict came in time. It may still come, or may have expired. */
class ResultTimeout extends Error {
  name = "ResultTimeout";
}

/** Submits images to the queue in Redis, and waits for verdicts. All waiters share one subscription. */
class Client {
  #address;
  #redis;
  #subscriber;
  #prefix;
  #maxQueued;
  #inline;
  #tenant;
  #announced = new EventEmitter().setMaxListeners(0);

  constructor(url, { namespace, tenant, maxQueued = 100_000, inlineMaxBytes = 8 * 2 ** 20, inlineBudgetBytes = 2 ** 29, inlineTtlS = 3600, redis = {} } = {}) {
    const [address, named] = split(url);
    this.#address = new URL(address).host;
    // A producer's user may not call INFO, which ioredis asks for before it is ready.
    const options = { enableReadyCheck: false, ...redis };
    this.#redis = new Redis(address, options);
    this.#subscriber = new Redis(address, { ...options, lazyConnect: true });
    // The promise of a command says what failed; an event that nobody listens to would end the process.
    for (const connection of [this.#redis, this.#subscriber]) connection.on("error", () => {});
    this.#subscriber.on("message", (channel) => this.#announced.emit(channel));
    this.#prefix = (namespace ?? named) ? `${namespace ?? named}:` : "";
    this.#maxQueued = maxQueued;
    this.#tenant = tenant;
    this.#inline = { maxBytes: inlineMaxBytes, budgetBytes: inlineBudgetBytes, ttlS: inlineTtlS };
  }

  async submit(request) {
    return (await this.submitMany([request]))[0];
  }

  async submitMany(requests) {
    return this.#reach(this.#submitted(requests));
  }

  async #submitted(requests) {
    const ids = [];
    for (let start = 0; start < requests.length; start += CHUNK) {
      const chunk = requests.slice(start, start + CHUNK).map((request) => prepared(this.#owned(request), this.#inline.maxBytes));
      const conflicts = await this.#conflicts(chunk);
      if (conflicts.length) throw new RequestConflict(conflicts, ids);
      const room = chunk.slice(0, await this.#room());
      const taken = room.slice(0, await this.#keep(room));
      if (taken.length) {
        const pipeline = this.#redis.pipeline();
        for (const { priority, image, ...request } of taken) pipeline.lpush(this.#key(`m3agiqa:inbox:${priority}`), JSON.stringify(request));
        answers(await pipeline.exec());
      }
      ids.push(...taken.map((request) => this.#id(request)));
      if (taken.length < chunk.length) throw new QueueFull(room.length < chunk.length ? `${this.#maxQueued} requests` : "as many bytes of images as may", ids);
    }
    return ids;
  }

  async result(requestId, { timeoutMs = Infinity } = {}) {
    return this.#within(timeoutMs, requestId, this.#verdict(requestId, timeoutMs));
  }

  async #verdict(requestId, timeoutMs) {
    const until = performance.now() + timeoutMs;
    const name = nameOf({ tenant: this.#tenant, request_id: requestId });
    const channel = this.#key(`m3agiqa:done:${name}`);
    const key = this.#key(`m3agiqa:result:${name}`);
    const waiting = new AbortController();
    // Listening begins before the first look, so that no announcement between the two is missed.
    let announced = this.#next(channel, waiting.signal);
    try {
      await this.#subscriber.subscribe(channel);
      for (;;) {
        const found = await this.#redis.get(key);
        if (found !== null) return JSON.parse(found);
        const leftMs = Math.min(LOOK_AGAIN_MS, until - performance.now());
        if (leftMs <= 0) throw late(requestId, timeoutMs);
        if (await Promise.race([announced, pause(leftMs, waiting.signal)])) announced = this.#next(channel, waiting.signal);
      }
    } finally {
      waiting.abort();
      if (!this.#announced.listenerCount(channel) && this.#subscriber.status === "ready") await this.#subscriber.unsubscribe(channel);
    }
  }

  async score(request, { timeoutMs = Infinity } = {}) {
    const until = performance.now() + timeoutMs;
    const requestId = await this.#within(timeoutMs, "the image", this.submit(request));
    return this.result(requestId, { timeoutMs: Math.max(0, until - performance.now()) });
  }

  async statusMany(requestIds) {
    const ids = [...new Set(requestIds)];
    const found = new Map();
    for (let start = 0; start < ids.length; start += CHUNK) {
      const some = ids.slice(start, start + CHUNK);
      const names = some.map((requestId) => nameOf({ tenant: this.#tenant, request_id: requestId }));
      const statuses = await this.#reach(standing(this.#redis, (name) => this.#key(name), names));
      some.forEach((requestId, at) => found.set(requestId, statuses[at]));
    }
    return found;
  }

  async close() {
    this.#redis.disconnect();
    this.#subscriber.disconnect();
  }

  /** What `work` gives; an error that says so, if Redis is away. */
  async #reach(work) {
    try {
      return await work;
    } catch (error) {
      throw error.name === "MaxRetriesPerRequestError" ? this.#away(error) : error;
    }
  }

  /** What `work` gives within some time; it goes on by itself afterwards. */
  async #within(timeoutMs, what, work) {
    // A look takes as long as Redis takes to answer it.
    const patienceMs = Math.max(timeoutMs, LOOK_AGAIN_MS);
    if (patienceMs === Infinity) return this.#reach(work);
    const over = new AbortController();
    work.catch(() => {});
    const deadline = pause(patienceMs, over.signal).then(() => {
      throw this.#redis.status === "ready" ? late(what, timeoutMs) : this.#away();
    });
    deadline.catch(() => {});
    try {
      return await this.#reach(Promise.race([work, deadline]));
    } finally {
      over.abort();
    }
  }

  #away(cause) {
    return new QueueUnavailable(`Redis at ${this.#address} cannot be reached`, { cause });
  }

  /** Ids under which others stand, here or with the workers. Who may not read the ledger finds the former alone. */
  async #conflicts(requests) {
    const pipeline = this.#redis.pipeline();
    const first = new Map();
    for (const request of requests) pipeline.hget(this.#key(`m3agiqa:request:${nameOf(request)}`), "content");
    const found = await pipeline.exec();
    const taken = requests.filter((request, at) => {
      const content = fingerprint(request);
      const [name, standing] = [nameOf(request), found[at][0] ? null : found[at][1]];
      if (!first.has(name)) first.set(name, content);
      return first.get(name) !== content || ![null, content].includes(standing);
    });
    return [...new Set(taken.map((request) => this.#id(request)))];
  }

  /** What this client calls a request. */
  #id(request) {
    return this.#tenant ? request.request_id : nameOf(request);
  }

  async #room() {
    const pipeline = this.#redis.pipeline();
    for (const list of WAITING) pipeline.llen(this.#key(list));
    for (const lanes of LANES) pipeline.hgetall(this.#key(lanes));
    const done = await pipeline.exec();
    // A user with rights of before there were lanes counts none.
    const lanes = done.slice(WAITING.length).flatMap(([error, lengths]) => (error ? [] : Object.values(lengths).map(whole)));
    const lengths = [...answers(done.slice(0, WAITING.length)), ...lanes];
    return Math.max(0, this.#maxQueued - lengths.reduce((sum, length) => sum + length, 0));
  }

  /** Puts images beside their requests. Gives how many requests, from the first on, have what they need. */
  async #keep(requests) {
    const given = requests.filter(({ image }) => image);
    if (!given.length) return requests.length;
    const pipeline = this.#redis.pipeline().hgetall(this.#key(IMAGES));
    for (const request of given) pipeline.hmget(this.#key(`m3agiqa:image:${nameOf(request)}`), "minute", "bytes");
    const [byMinute, ...counted] = answers(await pipeline.exec());
    const now = Math.floor(Date.now() / 60_000);
    let waiting = Object.entries(byMinute).reduce((sum, [minute, bytes]) => (Number(minute) >= now ? sum + whole(bytes) : sum), 0);
    for (const [at, request] of given.entries()) {
      const before = whole(counted[at][1]);
      waiting += request.image.length - before;
      if (waiting > this.#inline.budgetBytes) return requests.indexOf(request);
      await this.#put(request, counted[at][0], before);
    }
    return requests.length;
  }

  /** Puts an image beside its request, and counts it: instead of `before` bytes of `minute`, where it was there already. */
  async #put({ image_url, image, ...request }, minute, before) {
    const key = this.#key(`m3agiqa:image:${nameOf(request)}`);
    const images = this.#key(IMAGES);
    const { ttlS } = this.#inline;
    const expires = Math.floor((Date.now() / 1000 + ttlS) / 60);
    const fields = { minute: expires, bytes: image.length };
    for (let at = 0; at * PART_BYTES < image.length; at++) {
      fields[`${image_url.slice("inline:".length)}:${at}`] = image.subarray(at * PART_BYTES, (at + 1) * PART_BYTES);
    }
    const step = this.#redis.multi();
    if (minute && before) step.hincrby(images, minute, -before);
    step.hset(key, fields).expire(key, ttlS).hincrby(images, expires, image.length).expire(images, ttlS + 60);
    answers(await step.exec());
  }

  /** The request, as one of this client's tenant. */
  #owned(request) {
    if (!this.#tenant) return request;
    if (![undefined, this.#tenant].includes(request.tenant)) throw new TypeError(`tenant: this client submits for ${this.#tenant} alone`);
    return { ...request, tenant: this.#tenant };
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

/** The name by which the queue knows a request. */
function nameOf({ tenant, request_id }) {
  return tenant ? `${tenant}/${request_id}` : request_id;
}

function prepared({ priority = 3, metadata, image, ...fields }, maxBytes) {
  if (image !== undefined) {
    if (!(image instanceof Uint8Array) || !image.length || fields.image_url !== undefined) throw new TypeError("image must be bytes, and goes without image_url");
    if (image.length > maxBytes) throw new RangeError(`image: ${image.length} bytes are more than ${maxBytes}`);
    image = Buffer.from(image.buffer, image.byteOffset, image.byteLength);
    fields.image_url = `inline:${createHash("sha256").update(image).digest("hex")}`;
  }
  if (!PRIORITIES.includes(priority)) throw new RangeError(`priority ${priority} is none of ${PRIORITIES.join(", ")}`);
  for (const name of ["image_url", "prompt"]) if (typeof fields[name] !== "string") throw new TypeError(`${name} must be a string`);
  const made = { request_id: randomUUID(), submitted_at: new Date().toISOString(), version: VERSION };
  return { ...made, ...fields, ...(metadata && { metadata }), ...(image && { image }), priority };
}

function late(what, timeoutMs) {
  return new ResultTimeout(`no verdict for ${what} within ${timeoutMs} ms; is a worker running, and was it submitted?`);
}

/** A number that somebody wrote; 0 if it is none. */
function whole(text) {
  const number = Number(text ?? 0);
  return Number.isSafeInteger(number) ? number : 0;
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

module.exports = { Client, QueueFull, QueueUnavailable, RequestConflict, ResultTimeout, VERSION, verify };
