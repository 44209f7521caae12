import { type ClaimedListing, releaseClaims } from '../src/store/outbox.ts';
import { type PublishContext, type PublishResult, publishClaimed } from '../src/store/publish.ts';
import type { ClaimFor } from '../src/store/reconcile.ts';
import { type Lane, type LaneOutcome, startLane } from './lane.ts';

/** A lane that is kept free for what one recompute claims for it. Ends with one call of `publish` or `cancel`. */
export interface Reservation extends ClaimFor {
  /** Publishes what was claimed; settles nothing, the caller does not wait. */
  publish(claims: readonly ClaimedListing[]): void;
  /** The recompute has claimed nothing; or, where its answer was lost, it may have, and may do so yet. */
  cancel(options: { uncertain: boolean }): void;
}

/** Publishes what recomputes of this process have claimed for it. */
export interface DirectLanes {
  /** Undefined while all lanes are busy, or wait for a server: what changes then is published by whoever claims it. */
  reserve(): Reservation | undefined;
  /** PostgreSQL may have gone away and come back. */
  reconnected(): void;
  /** What recomputes were doing whose answers were lost, they have done by now, or never will. */
  fenced(): void;
  /** Finishes what is reserved, then ends. */
  stop(): Promise<void>;
  ended: Promise<void>;
}

const LANES = 3;

/** Nobody comes with work for so long: then there is none, and it waits again. */
const IDLE_MS = 3_600_000;

/** What became of the batch of a reservation, after its marks. */
type OnPublished = (results: readonly PublishResult[]) => void;

export function startDirectLanes(
  ctx: PublishContext,
  { batchMax, onReserved }: { batchMax: number; onReserved: () => OnPublished },
): DirectLanes {
  const abort = new AbortController();
  const lanes: DirectLane[] = [];
  for (let number = 1; number <= LANES; number += 1) {
    const named = { ...ctx, publisher: `${ctx.publisher}:direct:${number}` };
    lanes.push(new DirectLane(named, { batchMax, signal: abort.signal }));
  }
  const ended = Promise.all(lanes.map((lane) => lane.ended)).then(() => undefined);
  return {
    reserve: () => lanes.find((lane) => lane.free)?.reserve(onReserved()),
    reconnected: () => {
      for (const lane of lanes) lane.abandonClaims();
    },
    fenced: () => {
      for (const lane of lanes) lane.fenced();
    },
    stop: async () => {
      await Promise.all(lanes.map((lane) => lane.settled));
      abort.abort();
      for (const lane of lanes) lane.wake();
      await ended;
    },
    ended,
  };
}

class DirectLane {
  readonly #ctx: PublishContext;
  readonly #batchMax: number;
  readonly #lane: Lane;
  #reservation: { done: () => void; onPublished: OnPublished } | undefined;
  #claims: readonly ClaimedListing[] | undefined;
  #settled: Promise<void> = Promise.resolve();
  /** Claims are to be given back once nothing is reserved: a recompute under way may be claiming more in this name. */
  #abandoned = false;
  /** A recompute whose answer was lost may still claim in this name. */
  #unfenced = false;

  constructor(ctx: PublishContext, { batchMax, signal }: { batchMax: number; signal: AbortSignal }) {
    this.#ctx = ctx;
    this.#batchMax = batchMax;
    this.#lane = startLane(ctx, { publishNext: () => this.#publishNext(), signal });
  }

  get free(): boolean {
    return this.#reservation === undefined && !this.#unfenced && this.#lane.idle;
  }

  get settled(): Promise<void> {
    return this.#settled;
  }

  get ended(): Promise<void> {
    return this.#lane.ended;
  }

  wake(): void {
    this.#lane.wakeup.notify();
  }

  abandonClaims(): void {
    if (this.#reservation === undefined) this.#lane.abandonClaims();
    else this.#abandoned = true;
  }

  fenced(): void {
    if (!this.#unfenced) return;
    this.#unfenced = false;
    this.abandonClaims();
  }

  reserve(onPublished: OnPublished): Reservation {
    this.#settled = new Promise((done) => {
      this.#reservation = { done, onPublished };
    });
    return {
      publisher: this.#ctx.publisher,
      leaseSeconds: this.#ctx.leaseSeconds,
      publish: (claims) => {
        this.#claims = claims;
        this.wake();
      },
      cancel: ({ uncertain }) => {
        this.#unfenced ||= uncertain;
        this.#end();
      },
    };
  }

  async #publishNext(): Promise<LaneOutcome> {
    const claims = this.#claims;
    if (claims === undefined) return { outcome: 'idle', waitMs: IDLE_MS };
    try {
      return await this.#publish(claims);
    } finally {
      this.#claims = undefined;
      this.#end();
    }
  }

  async #publish(claims: readonly ClaimedListing[]): Promise<LaneOutcome> {
    const results: PublishResult[] = [];
    try {
      for (let first = 0; first < claims.length; first += this.#batchMax) {
        const outcome = await publishClaimed(this.#ctx, claims.slice(first, first + this.#batchMax));
        if (outcome.outcome === 'unavailable') {
          // The rest is in this name, too.
          await releaseClaims(this.#ctx.pool, { publisher: this.#ctx.publisher });
          return outcome;
        }
        results.push(...outcome.results);
      }
      return { outcome: 'published', results };
    } finally {
      if (results.length > 0) this.#reservation?.onPublished(results);
    }
  }

  #end(): void {
    const reservation = this.#reservation;
    this.#reservation = undefined;
    if (this.#abandoned) {
      this.#abandoned = false;
      this.#lane.abandonClaims();
    }
    reservation?.done();
  }
}
