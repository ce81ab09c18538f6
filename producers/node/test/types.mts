import { Client, verify, type Verdict } from "m3agiqa";

export async function decisionOf(url: string): Promise<Verdict["decision"]> {
  const client = new Client("redis://localhost", { namespace: "staging" });
  const verdict = await client.score({ image_url: url, prompt: "a cat", priority: 0 }, { timeoutMs: 1000 });
  return verdict.aspects.quality && verdict.aspects.quality.score > 4 ? verdict.decision : "review";
}

// @ts-expect-error: there is no such priority
export const wrong = new Client("redis://localhost").submit({ image_url: "https://x.example", prompt: "", priority: 4 });

export const name: string = verify(["whsec_x"], { "webhook-id": "1" }, Buffer.from("{}")).request_id;
