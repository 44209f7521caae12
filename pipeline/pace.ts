import type { LiveWork } from '../src/store/live-work.ts';

// How work that nobody waits for shares with work that somebody waits for: a chunk holds the lock of all recomputes, and
// a live batch that comes meanwhile waits until the chunk is through. So chunks are short while there is live work, and
// rests between them leave it at least half of the time, or three quarters once somebody had to wait.

/** Milliseconds that a chunk beside live work may take: the most that a live batch waits for it. */
const CHUNK_MS_BESIDE = 10;

/** Bookings of the smallest chunk: below that the transaction costs more than what is in it. */
const CHUNK_MIN = 25;

/** Milliseconds for which a sign of live work is remembered. */
const LIVE_MS = 2_000;

/** Rest after a chunk, in times that the chunk took: a share of a half, of a quarter. */
const REST_BESIDE = 1;
const REST_WAITED = 3;

/** Few enough that a first backfill does not slow down, and next to nothing where there is nothing to do. */
const CHUNKS_BETWEEN_COUNTS = 4;

/** Longest rest: what took that long was not the chunk's own work. */
const REST_MS_MAX = 1_000;

/** Decides the size of each chunk and the rest after it. Knows no clock but the one it is given. */
export class Pace {
  readonly #chunkMax: number;
  readonly #nowMs: () => number;
  #chunks = 0;
  #itemMs: number | undefined;
  #batches: number | undefined;
  #liveUntilMs = Number.NEGATIVE_INFINITY;
  #waitedUntilMs = Number.NEGATIVE_INFINITY;

  constructor({ chunkMax, nowMs = () => performance.now() }: { chunkMax: number; nowMs?: () => number }) {
    this.#chunkMax = chunkMax;
    this.#nowMs = nowMs;
  }

  /** Whether it is time to see to the statistics of what is being filled: after so many chunks. */
  get isCountDue(): boolean {
    return this.#chunks % CHUNKS_BETWEEN_COUNTS === 1;
  }

  /** How many bookings the next chunk may have. */
  get size(): number {
    if (!this.#isLive || this.#itemMs === undefined) return this.#chunkMax;
    return Math.min(this.#chunkMax, Math.max(CHUNK_MIN, Math.floor(CHUNK_MS_BESIDE / this.#itemMs)));
  }

  /** Milliseconds to rest after a chunk of so many bookings that held the lock so long, beside this live work. */
  restMs({ items, tookMs, live }: { items: number; tookMs: number; live: LiveWork }): number {
    this.#chunks += 1;
    const now = this.#nowMs();
    const itemMs = tookMs / Math.max(items, 1);
    this.#itemMs = this.#itemMs === undefined ? itemMs : (this.#itemMs + itemMs) / 2;
    if (live.waiting) this.#waitedUntilMs = now + LIVE_MS;
    // It falls when an old minute is left out of it.
    if (live.waiting || live.batches > (this.#batches ?? live.batches)) this.#liveUntilMs = now + LIVE_MS;
    this.#batches = live.batches;
    if (!this.#isLive) return 0;
    return Math.min(tookMs * (now < this.#waitedUntilMs ? REST_WAITED : REST_BESIDE), REST_MS_MAX);
  }

  get #isLive(): boolean {
    return this.#nowMs() < this.#liveUntilMs;
  }
}
