// What stands on the queue for a picture to be scored; needs no package. As a program it prints the message:
//   node score-message.mjs https://host/picture.png "its prompt" | redis-cli -x LPUSH score:3
import { randomUUID } from "node:crypto";
import { pathToFileURL } from "node:url";

/**
 * @param request the fields of `ScoreRequest` in m3agiqa/contract.py; `image_url` and `prompt` are required.
 * @returns {{id: string, key: string, message: string}} LPUSH `message` on the Redis list `key`.
 */
export function scoreMessage(request) {
  const { priority = 3, request_id: id = randomUUID() } = request;
  const payload = { submitted_at: new Date().toISOString(), ...request, priority, request_id: id };
  const message = JSON.stringify({
    body: Buffer.from(JSON.stringify([[payload], {}, {}])).toString("base64"),
    "content-type": "application/json",
    "content-encoding": "utf-8",
    headers: { task: "m3agiqa.score", id },
    properties: {
      body_encoding: "base64",
      delivery_info: { exchange: "", routing_key: "score" },
      // Another one for every message, also where a request is submitted again.
      delivery_tag: randomUUID(),
      priority,
    },
  });
  return { id, key: priority === 0 ? "score" : `score:${priority}`, message };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [image_url, prompt] = process.argv.slice(2);
  process.stdout.write(scoreMessage({ image_url, prompt }).message);
}
