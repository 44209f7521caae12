import { createRandom } from '../support/random.ts';

/** What is simulated: one consumer and some publishers over one PostgreSQL. Times in ms. */
export interface Scenario {
  publishers: number;
  /** Changes a second, of bookings chosen at random. */
  changesPerSecond: number;
  bookings: number;
  seconds: number;
  /** Most listings that a publisher claims at once. */
  batchMax: number;
  /** Most bookings that one recompute takes. */
  recomputeMax: number;
  /** Of a recompute: for each batch, and for each booking in it. */
  recomputeBatchMs: number;
  recomputeEachMs: number;
  /** From claim to mark: for each batch, and for each listing in it. */
  publishBatchMs: number;
  publishEachMs: number;
  /** The part of the time from claim to mark that PostgreSQL works; MongoDB does the rest. */
  databaseShare: number;
  /** Processors of PostgreSQL, which recomputes and claims share. */
  cores: number;
  seed: number;
}

export interface Outcome {
  publishedPerSecond: number;
  /** From change to listing. */
  p50Ms: number;
  p99Ms: number;
  /** Bookings that wait at the end: much of it means that it diverges. */
  waiting: number;
}

/**
 * Steps through time, a millisecond at a step. Work in PostgreSQL goes at full speed while there are processors for all of it, and
 * slower in proportion when there are not. Changes of a booking that waits already merge with it, as they do in
 * PostgreSQL: the oldest one counts for its latency.
 */
export function simulate(scenario: Scenario): Outcome {
  const random = createRandom(scenario.seed);
  const dirty = new Map<number, number>();
  const outbox = new Map<number, number>();
  const latencies: number[] = [];
  const publishers: (Work | undefined)[] = Array.from({ length: scenario.publishers });
  let consumer: Work | undefined;
  let published = 0;
  const arrivalsPerMs = scenario.changesPerSecond / 1_000;
  let due = 0;

  for (let nowMs = 0; nowMs < scenario.seconds * 1_000; nowMs += 1) {
    for (due += arrivalsPerMs; due >= 1; due -= 1) keepOldest(dirty, random.below(scenario.bookings), nowMs);

    consumer ??= begin(dirty, scenario.recomputeMax, {
      batchMs: scenario.recomputeBatchMs,
      eachMs: scenario.recomputeEachMs,
      databaseShare: 1,
    });
    for (const [index, work] of publishers.entries()) {
      publishers[index] =
        work ??
        begin(outbox, scenario.batchMax, {
          batchMs: scenario.publishBatchMs,
          eachMs: scenario.publishEachMs,
          databaseShare: scenario.databaseShare,
        });
    }

    const all = [consumer, ...publishers].filter((work) => work !== undefined);
    const wanted = all.filter((work) => work.databaseMs > 0).length;
    const speed = Math.min(1, scenario.cores / Math.max(wanted, 1));
    for (const work of all) advance(work, speed);

    if (consumer !== undefined && isDone(consumer)) {
      for (const [booking, sinceMs] of consumer.taken) keepOldest(outbox, booking, sinceMs);
      consumer = undefined;
    }
    for (const [index, work] of publishers.entries()) {
      if (work === undefined || !isDone(work)) continue;
      published += work.taken.size;
      for (const sinceMs of work.taken.values()) latencies.push(nowMs + 1 - sinceMs);
      publishers[index] = undefined;
    }
  }
  latencies.sort((one, other) => one - other);
  const at = (part: number): number => latencies[Math.floor(latencies.length * part)] ?? Number.NaN;
  return {
    publishedPerSecond: Math.round(published / scenario.seconds),
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    waiting: dirty.size + outbox.size,
  };
}

interface Work {
  taken: Map<number, number>;
  databaseMs: number;
  marketMs: number;
}

function keepOldest(waiting: Map<number, number>, booking: number, sinceMs: number): void {
  waiting.set(booking, Math.min(waiting.get(booking) ?? Infinity, sinceMs));
}

/** Takes the oldest of what waits; nothing when nothing does. */
function begin(
  waiting: Map<number, number>,
  most: number,
  { batchMs, eachMs, databaseShare }: { batchMs: number; eachMs: number; databaseShare: number },
): Work | undefined {
  if (waiting.size === 0) return undefined;
  const taken = new Map<number, number>();
  for (const [booking, sinceMs] of waiting) {
    if (taken.size === most) break;
    taken.set(booking, sinceMs);
    waiting.delete(booking);
  }
  const totalMs = batchMs + eachMs * taken.size;
  return { taken, databaseMs: totalMs * databaseShare, marketMs: totalMs * (1 - databaseShare) };
}

function advance(work: Work, speed: number): void {
  if (work.databaseMs > 0) work.databaseMs -= speed;
  else work.marketMs -= 1;
}

const isDone = ({ databaseMs, marketMs }: Work): boolean => databaseMs <= 0 && marketMs <= 0;
