import { setTimeout as delay } from 'node:timers/promises';
import { z } from '@hono/zod-openapi';
import type pg from 'pg';
import { describeError } from '../errors.ts';
import { type Listener, startListening } from '../listen.ts';
import type { Logger } from '../log.ts';
import { type Database, inTransaction, query } from '../postgres.ts';
import { sleep } from '../sleep.ts';
import { type LiveSnapshot, readLive } from '../store/live.ts';
import { EventBuffer } from './event-buffer.ts';

const STATUS_EVERY_MS = 1_000;
/** What was read this recently is told again to whoever comes; less than a turn, so that no turn tells the last one's. */
const STATUS_KEPT_MS = 900;
const LOOK_EVERY_MS = 250;
const HEARTBEAT_EVERY_MS = 15_000;
/** PostgreSQL counts as away when it does not answer within this. */
const READ_MS_MAX = 2_000;

/** Changed bookings that one look shows; of more at once, the last ones. The figures of the status count all. */
const CHANGES_MAX = 50;
/** Changes whose publication is waited for, to be told too; of more, the last ones. */
const AWAITED_MAX = 200;
/** Bookings of which it is known what was shown last. */
const SHOWN_MAX = 1_000;

/** What market_sync.recompute() notifies; any role can notify, so nothing else is believed. */
const changedSchema = z.object({
  bookings: z.array(z.guid().toLowerCase()).max(1_000),
});

interface FeedContext {
  pool: pg.Pool;
  log: Logger;
  readStatus: (db: Database) => Promise<object>;
}

/**
 * What happens, for everybody who watches through this process: one listening connection and one look at a time, while
 * anybody watches, however many they are. A reader gets what comes after it has joined.
 */
export class LiveFeed {
  readonly #ctx: FeedContext;
  readonly #readers = new Set<EventBuffer>();
  readonly #changed = new Set<string>();
  /** By booking, what was shown last. */
  readonly #shown = new Map<string, number>();
  /** By booking, when the change was committed that MongoDB has not confirmed yet. */
  readonly #awaited = new Map<string, Date>();
  /** At most one is under way: where PostgreSQL is slow, asking more often would make it slower. */
  #reading: Promise<object> | undefined;
  #status: { at: number; value: object } | undefined;
  #running: { stop: () => Promise<void> } | undefined;

  constructor(ctx: FeedContext) {
    this.#ctx = ctx;
  }

  get readers(): number {
    return this.#readers.size;
  }

  /** `onDrop` is called when the reader is dropped because it is too slow. Whoever joins must leave. */
  join(onDrop: () => void): EventBuffer {
    const reader = new EventBuffer(onDrop);
    this.#readers.add(reader);
    this.#running ??= this.#start();
    return reader;
  }

  /** Resolves once nothing runs any more for nobody. */
  async leave(reader: EventBuffer): Promise<void> {
    reader.close();
    this.#readers.delete(reader);
    if (this.#readers.size > 0) return;
    const running = this.#running;
    this.#running = undefined;
    await running?.stop();
  }

  #start(): { stop: () => Promise<void> } {
    const abort = new AbortController();
    this.#changed.clear();
    this.#shown.clear();
    this.#awaited.clear();
    const listener: Listener = startListening(this.#ctx, {
      channel: 'market_sync_publish',
      onNotify: (payload) => this.#note(payload),
      onConnect: () => undefined,
    });
    const work = Promise.all([this.#tellStatus(abort.signal), this.#tellChanges(abort.signal)]);
    return {
      stop: async () => {
        abort.abort();
        await Promise.all([work, listener.stop()]);
      },
    };
  }

  #send(text: string): void {
    for (const reader of this.#readers) reader.push(text);
  }

  #tell(event: 'status' | 'change' | 'published', data: object): void {
    this.#send(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  #note(payload: string): void {
    for (const id of parseChanged(payload)) {
      this.#changed.delete(id);
      this.#changed.add(id);
      dropOldest(this.#changed, CHANGES_MAX);
    }
  }

  async #tellStatus(signal: AbortSignal): Promise<void> {
    let heartbeatAt = performance.now() + HEARTBEAT_EVERY_MS;
    while (!signal.aborted) {
      this.#tell('status', await this.#readStatus());
      if (performance.now() >= heartbeatAt) {
        this.#send(': still here\n\n');
        heartbeatAt += HEARTBEAT_EVERY_MS;
      }
      await sleep(STATUS_EVERY_MS, signal);
    }
  }

  async #readStatus(): Promise<object> {
    try {
      if (this.#status === undefined || performance.now() - this.#status.at > STATUS_KEPT_MS) {
        this.#reading ??= this.#askStatus().finally(() => {
          this.#reading = undefined;
        });
        this.#status = { value: await within(this.#reading), at: performance.now() };
      }
      return { available: true, ...this.#status.value };
    } catch (error) {
      this.#ctx.log.debug({ error: describeError(error) }, 'status for watchers cannot be read');
      return { available: false };
    }
  }

  /** PostgreSQL itself gives up on what nobody waits for any more. */
  async #askStatus(): Promise<object> {
    return inTransaction(this.#ctx.pool, async (client) => {
      await query(client, `set local statement_timeout to ${READ_MS_MAX}`);
      return this.#ctx.readStatus(client);
    });
  }

  async #tellChanges(signal: AbortSignal): Promise<void> {
    for (; !signal.aborted; await sleep(LOOK_EVERY_MS, signal)) {
      if (this.#changed.size === 0 && this.#awaited.size === 0) continue;
      const ids = [...this.#changed];
      this.#changed.clear();
      try {
        for (const snapshot of await within(readLive(this.#ctx.pool, [...ids, ...this.#awaited.keys()]))) {
          this.#show(snapshot);
        }
      } catch (error) {
        // They are shown when PostgreSQL is back, unless newer ones take their place.
        for (const id of ids) this.#changed.add(id);
        dropOldest(this.#changed, CHANGES_MAX);
        this.#ctx.log.debug({ error: describeError(error) }, 'changes for watchers cannot be read');
      }
    }
  }

  #show(snapshot: LiveSnapshot): void {
    const { booking_id: id, revision, confirmed_at: confirmedAt } = snapshot;
    if (this.#shown.get(id) !== revision) {
      this.#shown.delete(id);
      this.#shown.set(id, revision);
      dropOldest(this.#shown, SHOWN_MAX);
      this.#tell('change', {
        booking_id: id,
        crop_type: snapshot.crop_type,
        status: snapshot.status,
        revision,
        updated_at: snapshot.updated_at,
      });
      if (!this.#awaited.has(id)) this.#awaited.set(id, snapshot.changed_at);
      dropOldest(this.#awaited, AWAITED_MAX);
    }
    const changedAt = this.#awaited.get(id);
    if (confirmedAt === null || changedAt === undefined) return;
    this.#awaited.delete(id);
    const latencyMs = confirmedAt.getTime() - changedAt.getTime();
    this.#tell('published', { booking_id: id, revision, latency_ms: latencyMs >= 0 ? latencyMs : null });
  }
}

function parseChanged(payload: string): string[] {
  if (payload === '') return [];
  try {
    return changedSchema.parse(JSON.parse(payload)).bookings;
  } catch {
    return [];
  }
}

/** Sets and maps keep the order in which keys came. */
function dropOldest(collection: Set<string> | Map<string, unknown>, max: number): void {
  for (const key of collection.keys()) {
    if (collection.size <= max) return;
    collection.delete(key);
  }
}

async function within<Result>(work: Promise<Result>): Promise<Result> {
  const abort = new AbortController();
  const late = delay(READ_MS_MAX, undefined, { signal: abort.signal }).then(
    () => {
      throw new Error(`no answer within ${READ_MS_MAX} ms`);
    },
    () => new Promise<never>(() => undefined),
  );
  try {
    return await Promise.race([work, late]);
  } finally {
    abort.abort();
  }
}
