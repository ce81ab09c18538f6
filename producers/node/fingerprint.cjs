"use strict";

const { createHash } = require("node:crypto");

/** What a request asks for, as Python's contract has it: no time, no priority, no label, and not the tenant. */
const ASKED = ["image_url", "prompt", "callback_url", "s3_uri", "aspects", "policy", "request_id"];

/** 32 hexadecimal digits of what is asked for: those that a worker keeps of a request, and compares with its repetitions. */
function fingerprint(request) {
  const asked = { metadata: request.metadata ?? {} };
  for (const name of ASKED) asked[name] = request[name] ?? null;
  if (asked.aspects) asked.aspects = [...new Set(asked.aspects)];
  // Through JSON, as the request goes: `undefined` is left out, a Date is text.
  const text = canonical(JSON.parse(JSON.stringify(asked)));
  return createHash("sha256").update(text).digest("hex").slice(0, 32);
}

/** JSON as Python's `json.dumps(value, sort_keys=True)` writes it. */
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(", ")}]`;
  if (typeof value === "number") return number(value);
  if (typeof value === "string") return JSON.stringify(value).replace(/[^ -~]/g, escape);
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  // By code points, as Python compares; the bytes of UTF-8 are in the same order.
  const names = Object.keys(value).sort((one, other) => Buffer.compare(Buffer.from(one), Buffer.from(other)));
  return `{${names.map((name) => `${canonical(name)}: ${canonical(value[name])}`).join(", ")}}`;
}

/** JavaScript writes 0.00001 and 1e-7 where Python writes 1e-05 and 1e-07. */
function number(value) {
  const isSmall = value !== 0 && Math.abs(value) < 1e-4;
  return isSmall ? value.toExponential().replace(/e-(\d)$/, "e-0$1") : JSON.stringify(value);
}

function escape(unit) {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

module.exports = { fingerprint };
