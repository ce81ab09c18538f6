// The request that goes into the inbox for an image to be scored; needs no package. As a program it prints it:
//   node score-request.mjs https://host/image.png "its prompt" | redis-cli -x LPUSH m3agiqa:inbox:3
import { randomUUID } from "node:crypto";
import { pathToFileURL } from "node:url";

/**
 * @param fields those of `ScoreRequest` in m3agiqa/contract.py; `image_url` and `prompt` are required.
 * @returns {{id: string, key: string, request: string}} LPUSH `request` on the Redis list `key`; the verdict comes
 *   under `id`. To push it again is safe: there is one verdict for an id.
 */
export function scoreRequest({ priority = 3, ...fields }) {
  const request = { request_id: randomUUID(), submitted_at: new Date().toISOString(), version: "1.2", ...fields };
  return { id: request.request_id, key: `m3agiqa:inbox:${priority}`, request: JSON.stringify(request) };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [image_url, prompt] = process.argv.slice(2);
  process.stdout.write(scoreRequest({ image_url, prompt }).request);
}
