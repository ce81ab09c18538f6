// Receives verdicts, and prints those that were signed with our secret; needs no package:
//   WEBHOOK_SECRET=whsec_... node receive.mjs 9000
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const key = Buffer.from(process.env.WEBHOOK_SECRET.replace("whsec_", ""), "base64");

/** Whether `body` was signed with our secret within the last five minutes (Standard Webhooks). */
function verified(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": time, "webhook-signature": signatures = "" } = headers;
  if (!(Math.abs(Date.now() / 1000 - Number(time)) <= 300)) return false;
  const expected = createHmac("sha256", key).update(`${id}.${time}.`).update(body).digest();
  // While the sender changes its secret there are two signatures, and one of them is by ours.
  return signatures.split(" ").some((signature) => {
    const given = Buffer.from(signature.replace("v1,", ""), "base64");
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
}

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  // The signature covers the bytes as they came: verify first, parse afterwards.
  const body = Buffer.concat(chunks);
  if (!verified(request.headers, body)) return response.writeHead(401).end();
  const verdict = JSON.parse(body);
  console.log(verdict.request_id, verdict.decision);
  response.writeHead(204).end();
}).listen(Number(process.argv[2]), "127.0.0.1");
