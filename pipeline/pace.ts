import type { LiveWork } from '../src/store/live-work.ts';

// How work that nobody waits for shares with work that somebody waits for. Two kinds of that:
//
// - Live batches: a chunk holds the lock of all recomputes, and a batch that comes meanwhile waits until the chunk is through.
//   So chunks are short beside them, and rests between them leave at least half of the time, or three quarters once somebody
//   had to wait.
// - The application, which waits for no lock of ours but for processors and disks. What it writes says how busy it is,
//   also where no pipeline runs. The more it writes, the longer the rests: by what a chunk would have taken alone, because of
//   a chunk that took long where processors are scarce most was waiting itself.

/** Milliseconds that a chunk beside live work may take: the most that a live batch waits for it. */
const CHUNK_MS_BESIDE = 10;

/** Bookings of the smallest chunk: below that the transaction costs more than what is in it. */
const CHUNK_MIN = 25;

/** Bookings of a chunk where nobody waits for the lock, or nobody knows yet how long one takes: the transaction costs little by then. */
const CHUNK_UNWAITED = 100;

/** Milliseconds for which a sign of live work is remembered. */
const LIVE_MS = 2_000;

/** Rest after a chunk, in times that the chunk took: a share of a half, of a quarter. */
const REST_BESIDE = 1;
const REST_WAITED = 3;

/** Rest for the application's sake in times that the chunk takes alone; one more for so many rows a second, up to a share of a tenth. */
const REST_WRITES = 1;
const WRITES_PER_REST = 250;
const REST_MAX = 9;

/** How often it is looked what the application writes. PostgreSQL's statistics are a second behind. */
const LOOK_MS = 1_000;

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
  #leastItemMs = Number.POSITIVE_INFINITY;
  #batches: number | undefined;
  #liveUntilMs = Number.NEGATIVE_INFINITY;
  #waitedUntilMs = Number.NEGATIVE_INFINITY;
  #waitingSeenMs = Number.NEGATIVE_INFINITY;
  #looked: { rows: number; atMs: number } | undefined;
  /** Undefined until it was looked twice: as if the application wrote. */
  #writesPerSecond: number | undefined;

  constructor({ chunkMax, nowMs = () => performance.now() }: { chunkMax: number; nowMs?: () => number }) {
    this.#chunkMax = chunkMax;
    this.#nowMs = nowMs;
  }

  /** Whether it is time to see to the statistics of what is being filled: after so many chunks. */
  get isCountDue(): boolean {
    return this.#chunks % CHUNKS_BETWEEN_COUNTS === 1;
  }

  /** Whether it is time to look what the application writes. */
  get isLookDue(): boolean {
    return this.#looked === undefined || this.#nowMs() - this.#looked.atMs >= LOOK_MS;
  }

  /** Takes the count of rows that the application has written. A smaller one than before begins anew. */
  lookAtWrites(rows: number): void {
    const atMs = this.#nowMs();
    if (this.#looked !== undefined) {
      const seconds = Math.max(atMs - this.#looked.atMs, 1) / 1_000;
      this.#writesPerSecond = Math.max(rows - this.#looked.rows, 0) / seconds;
    }
    this.#looked = { rows, atMs };
  }

  /** How many bookings the next chunk may have. */
  get size(): number {
    if (!this.#isBeside) return this.#chunkMax;
    if (this.#itemMs === undefined || this.#restForBatches === 0) {
      return Math.min(this.#chunkMax, CHUNK_UNWAITED);
    }
    return Math.min(this.#chunkMax, Math.max(CHUNK_MIN, Math.floor(CHUNK_MS_BESIDE / this.#itemMs)));
  }

  /** Milliseconds to rest after a chunk of so many bookings that held the lock so long, beside this live work. */
  restMs({ items, tookMs, live }: { items: number; tookMs: number; live: LiveWork }): number {
    this.#chunks += 1;
    const now = this.#nowMs();
    const itemMs = tookMs / Math.max(items, 1);
    this.#itemMs = this.#itemMs === undefined ? itemMs : (this.#itemMs + itemMs) / 2;
    this.#leastItemMs = Math.min(this.#leastItemMs, itemMs);
    // Once is no sign: while nothing comes the consumer moves its checkpoint every ten seconds, and takes the lock for it.
    const waits = live.waiting && now - this.#waitingSeenMs < LIVE_MS;
    if (live.waiting) this.#waitingSeenMs = now;
    if (waits) this.#waitedUntilMs = now + LIVE_MS;
    // It falls when an old minute is left out of it.
    if (waits || live.batches > (this.#batches ?? live.batches)) this.#liveUntilMs = now + LIVE_MS;
    this.#batches = live.batches;
    return Math.min(
      Math.max(tookMs * this.#restForBatches, items * this.#leastItemMs * this.#restForWrites),
      REST_MS_MAX,
    );
  }

  get #restForBatches(): number {
    const now = this.#nowMs();
    if (now >= this.#liveUntilMs) return 0;
    return now < this.#waitedUntilMs ? REST_WAITED : REST_BESIDE;
  }

  get #restForWrites(): number {
    if (this.#writesPerSecond === 0) return 0;
    return Math.min(REST_WRITES + (this.#writesPerSecond ?? 0) / WRITES_PER_REST, REST_MAX);
  }

  /** Whether there is anybody to make way for. */
  get #isBeside(): boolean {
    return this.#restForBatches > 0 || this.#restForWrites > 0;
  }
}
