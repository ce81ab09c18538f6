import type { RedisOptions } from "ioredis";

export type Aspect = "quality" | "correspondence" | "authenticity";
export type Decision = "accept" | "review" | "reject";
export type Json = string | number | boolean | null | Json[] | { [key: string]: Json };

/** One image to score. The fields are those of the Python contract, under the same names. */
export interface ScoreRequest {
  /** Where the image lies; left out with `image`. */
  image_url?: string;
  /** The bytes of the image's file, which lie in Redis until the verdict. */
  image?: Uint8Array;
  prompt: string;
  callback_url?: string;
  s3_uri?: string;
  aspects?: Aspect[];
  policy?: string;
  /** 0 goes first. Default 3. */
  priority?: 0 | 3 | 6 | 9;
  /** Default a UUID. To submit a request again under its id is safe: there is one verdict. */
  request_id?: string;
  metadata?: { [key: string]: Json };
  expires_at?: string;
  submitted_at?: string;
  traceparent?: string;
  /** The caller's label of requests that belong together; the verdict returns it. */
  batch_id?: string;
  /** Whether to try a request anew that is settled with a failure. */
  retry_failed?: boolean;
  /** The customer it is for, within which ids are unique. */
  tenant?: string;
}

export interface AspectScore {
  /** MOS scale, 0 to 5. */
  score: number;
  rating: "bad" | "poor" | "fair" | "good" | "excellent";
  description: string;
  slices: number;
  cut_tokens: number;
}

export interface PolicyRef {
  name: string;
  version: number;
  digest: string | null;
}

export interface Failure {
  code: string;
  message: string;
  retryable: boolean;
}

export interface Verdict {
  version: string;
  request_id: string;
  status: "scored" | "failed";
  decision: Decision;
  reasons: string[];
  aspects: { [aspect in Aspect]?: AspectScore };
  policy: PolicyRef | null;
  model: { profile: string; trained: boolean; [more: string]: Json } | null;
  image: { sha256: string; width: number; height: number; format: string; frames: number } | null;
  timings_ms: { [stage: string]: number };
  batch: number | null;
  attempt: number;
  submitted_at: string;
  scored_at: string;
  metadata: { [key: string]: Json };
  error: Failure | null;
  /** The event that a callback tells. Since version 1.2, as all below. */
  type?: "verdict.scored" | "verdict.redecided" | (string & {});
  failures?: { [aspect in Aspect]?: Failure };
  neutral?: { [aspect in Aspect]?: number };
  request?: { image_url: string; prompt: string; callback_url: string | null; s3_uri: string | null } | null;
  shadow?: { policy: PolicyRef; decision: Decision; reasons: string[] } | null;
  redecided?: { decision: Decision; policy: PolicyRef | null; at: string } | null;
  batch_id?: string | null;
  /** Since version 1.3. */
  tenant?: string | null;
}

export interface ClientOptions {
  /** The workers' M3AGIQA_NAMESPACE; goes before `?namespace=` of the URL. */
  namespace?: string;
  /** Submits for this tenant alone, and every id is one of its. Without, ids of requests that have one are `TENANT/ID`. */
  tenant?: string;
  /** `submit` refuses while so many requests wait. Default 100,000. */
  maxQueued?: number;
  /** Bytes of an `image` at most. Default 8 MiB. */
  inlineMaxBytes?: number;
  /** `submit` refuses images while those that wait have so many bytes. Default 512 MiB. */
  inlineBudgetBytes?: number;
  /** Seconds for which an `image` is kept. Default an hour. */
  inlineTtlS?: number;
  /** More options for ioredis, such as `tls` or `sentinels`. */
  redis?: RedisOptions;
}

export interface WaitOptions {
  /** Milliseconds; 0 only looks. Default: for ever. */
  timeoutMs?: number;
}

/** Where a request is. */
export interface Status {
  /** Null before a worker has taken it in, and long after it was settled. */
  state: "submitted" | "fetching" | "scoring" | "scored" | "delivering" | "settled" | "cancelled" | "dead" | (string & {}) | null;
  batchId: string | null;
  /** Its place among those that wait, 1 for the next one; null if it does not wait, or waits far behind. */
  position: number | null;
  /** Seconds until its turn at the rate of the last minutes; null without any. */
  expectedS: number | null;
}

/** Submits images to the queue in Redis, and waits for verdicts. All waiters share one subscription. */
export class Client {
  /** @param url `redis://` or `rediss://`, also with `?namespace=NAME`. */
  constructor(url: string, options?: ClientOptions);
  /** Enqueues one image; gives its request id. Rejects with `QueueFull`, `RequestConflict`, or with the error of Redis. */
  submit(request: ScoreRequest): Promise<string>;
  /** Enqueues many images, 500 in a round trip; gives their request ids in order. */
  submitMany(requests: readonly ScoreRequest[]): Promise<string[]>;
  /** Waits for a verdict. Rejects with `ResultTimeout`. */
  result(requestId: string, options?: WaitOptions): Promise<Verdict>;
  /** Submits, and waits for the verdict. */
  score(request: ScoreRequest, options?: WaitOptions): Promise<Verdict>;
  /** Where requests are, 500 in two round trips. */
  statusMany(requestIds: Iterable<string>): Promise<Map<string, Status>>;
  /** Leaves Redis; whoever waits gets an error. */
  close(): Promise<void>;
}

/** Too many requests, or bytes of images, wait already. */
export class QueueFull extends Error {
  /** Ids of the requests that were enqueued before. */
  readonly submitted: string[];
}

/** Redis cannot be reached; to submit again under the same id is safe. */
export class QueueUnavailable extends Error {}

/** Other requests stand under some ids: they came first, and stay. */
export class RequestConflict extends Error {
  readonly requestIds: string[];
  /** Ids of the requests that were enqueued before. */
  readonly submitted: string[];
}

/** No verdict came in time. It may still come, or may have expired. */
export class ResultTimeout extends Error {}

/** Version of the contract that requests follow. */
export const VERSION: string;

/**
 * The verdict in a callback. Throws if no secret signed these bytes within the last five minutes (Standard Webhooks).
 *
 * @param secrets `whsec_...`; several while you change yours.
 * @param body the bytes or text as they came, before any parser.
 */
export function verify(
  secrets: string | readonly string[],
  headers: { readonly [name: string]: string | readonly string[] | undefined },
  body: string | Buffer,
): Verdict;
