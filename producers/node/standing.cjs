"use strict";

const PRIORITIES = [0, 3, 6, 9];
/** Names on a list among which a request is searched for, from the one that is next. */
const SEARCHED = 10_000;

/** Lists of a priority on which requests wait: before and after a worker took them in, less the namespace. */
const lists = (step) => [`m3agiqa:inbox:${step}`, step ? `score:${step}` : "score"];

/** Where the requests of these names stand, in order; in two round trips. `key` puts the namespace in front. */
async function standing(redis, key, names) {
  const first = redis.pipeline();
  for (const name of names) first.hmget(key(`m3agiqa:request:${name}`), "state", "batch", "priority");
  const told = answers(await first.hgetall(key("m3agiqa:rate")).exec());
  const rate = perSecond(told.pop());
  const asked = new Map();
  told.forEach(([state, , priority], at) => {
    if (state === "submitted" && PRIORITIES.map(String).includes(priority)) asked.set(names[at], Number(priority));
  });
  const places = await positions(redis, key, asked);
  return told.map(([state, batchId], at) => {
    const position = places.get(names[at]) ?? null;
    return { state, batchId, position, expectedS: position === null || rate === null ? null : position / rate };
  });
}

/** Verdicts a second over the last minutes, but for the latest one, which is not over; null without any. */
function perSecond(counted) {
  const minutes = Object.entries(counted).map((pair) => pair.map(Number));
  const latest = Math.max(...minutes.map(([minute]) => minute));
  const past = minutes.filter(([minute]) => minute < latest);
  if (!past.length) return null;
  return past.reduce((sum, [, count]) => sum + count, 0) / (60 * (latest - Math.min(...past.map(([minute]) => minute))));
}

/** Places of requests, of which priorities are known, that are on a list; 1 is next. */
async function positions(redis, key, asked) {
  const found = new Map();
  if (!asked.size) return found;
  const pipeline = redis.pipeline();
  for (const step of PRIORITIES) for (const list of lists(step)) pipeline.llen(key(list));
  // From the end that workers take from.
  for (const [name, step] of asked) pipeline.lpos(key(lists(step)[1]), name, "RANK", -1, "MAXLEN", SEARCHED);
  const told = answers(await pipeline.exec());
  const before = new Map();
  const waiting = new Map();
  let urgent = 0;
  PRIORITIES.forEach((step, at) => {
    before.set(step, urgent);
    waiting.set(step, told[2 * at + 1]);
    urgent += told[2 * at] + told[2 * at + 1];
  });
  [...asked].forEach(([name, step], at) => {
    const index = told[2 * PRIORITIES.length + at];
    if (index !== null) found.set(name, before.get(step) + Math.max(1, waiting.get(step) - index));
  });
  return found;
}

/** What commands answered; throws what the first one that failed did. */
function answers(done) {
  for (const [error] of done) if (error) throw error;
  return done.map(([, answer]) => answer);
}

module.exports = { PRIORITIES, answers, lists, standing };
