import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import type pg from 'pg';
import { describeError } from '../../src/errors.ts';
import { type History, type HistoryEvent, historyArbitrary } from '../oracle/commands.ts';
import { PossibleSnapshots } from '../oracle/possible-snapshots.ts';
import { Session } from '../oracle/session.ts';
import { checkBooking, type Seen } from '../oracle/settled-state.ts';
import { loadWorld } from '../oracle/source-rows.ts';
import { GENESIS, idOf } from '../oracle/statements.ts';
import { runTransaction, runTwoTransactions } from '../oracle/transactions.ts';
import { TABLE_NAMES, TABLES } from '../oracle/tables.ts';
import { type Difference, formatDifferences, type ListingDocument, type SnapshotRow } from './compare.ts';
import { type ExpectedContent, type OracleSettings, snapshotFrom } from './oracle.ts';

/**
 * The pipeline under test, as histories see it.
 *
 * A history writes to `pool` as the application would, moves the clock forward, and at each settle point waits for
 * `settle` and compares. Ids are fresh for every history, so what earlier ones left behind is not looked at; their
 * source rows are deleted. `pool` needs three connections, its tables must be found by their bare names.
 */
export type Harness = {
  pool: pg.Pool;
  settings: OracleSettings;
  /** The clock that the pipeline passes to reconcile and refresh. Never set back. */
  clock: { now(): Date; advance(ms: number): void | Promise<void> };
  /** Resolves when the pipeline has nothing left to do for what is committed, at the clock's time: replicated, reconciled, refreshed, published. */
  settle(): Promise<void>;
  /** The snapshot rows of these bookings (`readSnapshotRows` does it). */
  readSnapshots(bookingIds: readonly string[]): Promise<SnapshotRow[]>;
  /** The documents of `market_listings` with these `booking_id`s, every one of them. */
  readListings(bookingIds: readonly string[]): Promise<ListingDocument[]>;
  /** Empties snapshots and listings between histories, where that is wanted. The source tables are empty then. */
  reset?(): Promise<void>;
  /** Called after each commit and clock step; a stand-in for a pipeline works then. */
  afterEvent?(): Promise<void>;
};

/** A settled pipeline that is not where the oracle says. The message holds every difference and the statements run. */
export class ConvergenceError extends Error {
  override name = 'ConvergenceError';
}

/** What a history came to: how many commits, how many transactions PostgreSQL refused, how many bookings compared. */
export type HistoryReport = { commits: number; refused: number; settles: number; compared: number };

const DAY_MS = 86_400_000;

/** Shrinking a failure ends after so many milliseconds: a test that times out tells nobody its seed. */
const SHRINK_MS = 30_000;

/**
 * Runs one history against the pipeline and compares every snapshot and every listing with the oracle at each settle
 * point and at the end. Throws a `ConvergenceError` at the first settle point that differs.
 */
export async function runHistory(history: History, harness: Harness): Promise<HistoryReport> {
  const run = new HistoryRun(harness);
  await run.begin();
  for (const event of history) await run.perform(event);
  await run.settle();
  await run.end();
  return run.report;
}

/**
 * Runs random histories. `HISTORY_SEED`, `HISTORY_RUNS` and `HISTORY_PATH` (fast-check's path to a shrunk example)
 * win over `options`; the seed is printed before the first history and with a failure.
 */
export async function checkHistories(
  harness: Harness,
  options: { runs?: number; seed?: number; eventsMax?: number; endOnFailure?: boolean } = {},
): Promise<HistoryReport> {
  const seed = Number(process.env.HISTORY_SEED ?? options.seed ?? randomBytes(4).readInt32BE());
  const numRuns = Number(process.env.HISTORY_RUNS ?? options.runs ?? 300);
  const path = process.env.HISTORY_PATH;
  const total: HistoryReport = { commits: 0, refused: 0, settles: 0, compared: 0 };
  console.log(`histories: ${numRuns} runs, replay with HISTORY_SEED=${seed}`);
  let shrinkUntil = Number.POSITIVE_INFINITY;
  const property = fc.asyncProperty(historyArbitrary(options.eventsMax), async (history) => {
    if (performance.now() > shrinkUntil) return;
    const report = await runHistory(history, harness).catch((error: unknown) => {
      shrinkUntil = Math.min(shrinkUntil, performance.now() + SHRINK_MS);
      throw error;
    });
    for (const key of Object.keys(total) as (keyof HistoryReport)[]) total[key] += report[key];
  });
  const found = await fc.check(property, {
    seed,
    numRuns,
    endOnFailure: options.endOnFailure ?? false,
    ...(path === undefined ? {} : { path }),
  });
  if (!found.failed) return total;
  // fast-check's own report repeats the commands as JSON; the statements in the error say the same in SQL.
  const cause = found.errorInstance;
  throw new ConvergenceError(
    `history ${found.numRuns} of ${numRuns} failed, shrunk ${found.numShrinks} times; replay with HISTORY_SEED=${seed} HISTORY_PATH=${found.counterexamplePath}\n${describeError(cause)}`,
    { cause },
  );
}

class HistoryRun {
  readonly report: HistoryReport = { commits: 0, refused: 0, settles: 0, compared: 0 };
  readonly #harness: Harness;
  readonly #nonce = randomBytes(6).toString('hex');
  readonly #bookingIds: string[] = [];
  readonly #possible = new Map<string, PossibleSnapshots>();
  readonly #seen = new Map<string, Seen>();
  /** Every time the clock has shown since the last settle point: a recompute may have begun under any of them. */
  #times: Date[] = [];
  readonly #statements: string[] = [];

  constructor(harness: Harness) {
    this.#harness = harness;
    for (let row = 0; row < TABLES.storage_bookings.rows; row += 1) {
      this.#bookingIds.push(idOf('storage_bookings', row, this.#nonce));
    }
  }

  /** Noon UTC, so that a replayed history crosses the ends of days at the same places. */
  async begin(): Promise<void> {
    const { clock } = this.#harness;
    const sinceNoon = (clock.now().getTime() + DAY_MS / 2) % DAY_MS;
    await this.#advance(DAY_MS - sinceNoon);
    await this.#delete();
    await this.#harness.reset?.();
    for (const id of this.#bookingIds) this.#possible.set(id, new PossibleSnapshots([null]));
    this.#times = [clock.now()];
    await this.perform({ event: 'transaction', steps: GENESIS, committed: true });
    this.#statements.splice(
      0,
      Number.POSITIVE_INFINITY,
      '-- the world of GENESIS (test/oracle/statements.ts)',
    );
  }

  /** A history that fails leaves its rows to be looked at, and the next one deletes them. */
  async end(): Promise<void> {
    await this.#delete();
  }

  async perform(event: HistoryEvent): Promise<void> {
    switch (event.event) {
      case 'transaction':
        await this.#transaction(event);
        return this.#observe();
      case 'two transactions':
        return this.#twoTransactions(event);
      case 'clock':
        this.#statements.push(`-- clock + ${event.ms} ms`);
        await this.#advance(event.ms);
        this.#times.push(this.#harness.clock.now());
        return this.#observe();
      case 'settle':
        return this.settle();
    }
  }

  async settle(): Promise<void> {
    const { clock, readListings, readSnapshots, settle } = this.#harness;
    await settle().catch((cause: unknown) => {
      throw this.#error('it does not settle', cause);
    });
    const fresh = await this.#computeFresh([clock.now()]);
    const [rows, documents] = [await readSnapshots(this.#bookingIds), await readListings(this.#bookingIds)];
    const differences: Difference[] = [];
    this.#bookingIds.forEach((id, index) => {
      const possible = this.#possible.get(id) ?? new PossibleSnapshots([null]);
      const settled = possible.settle(fresh.get(id)?.[0] ?? null);
      const found = checkBooking({
        subject: `booking ${index} (${id})`,
        candidates: settled,
        visited: [...possible.states, ...settled],
        before: this.#seen.get(id),
        rows: rows.filter((row) => row.booking_id === id),
        documents: documents.filter((document) => document.booking_id === id),
      });
      differences.push(...found.differences);
      if (found.seen !== undefined) this.#seen.set(id, found.seen);
      this.#possible.set(id, new PossibleSnapshots([found.content]));
    });
    if (differences.length > 0) {
      throw this.#error(`${differences.length} differences:\n${formatDifferences(differences)}`);
    }
    this.#times = [clock.now()];
    this.#statements.push('-- settled');
    this.report.settles += 1;
    this.report.compared += this.#bookingIds.length;
  }

  async #advance(ms: number): Promise<void> {
    await this.#harness.clock.advance(ms);
  }

  /** What every booking looks like now, under each of the times. */
  async #computeFresh(times: readonly Date[]): Promise<Map<string, (ExpectedContent | null)[]>> {
    const client = await this.#harness.pool.connect();
    const world = await loadWorld(client).finally(() => client.release());
    const { settings } = this.#harness;
    return new Map(
      this.#bookingIds.map((id) => [id, times.map((time) => snapshotFrom(world, id, time, settings))]),
    );
  }

  async #observe(): Promise<void> {
    const fresh = await this.#computeFresh(this.#times);
    for (const [id, contents] of fresh) {
      for (const content of contents) this.#possible.get(id)?.observe(content);
    }
    await this.#harness.afterEvent?.();
  }

  async #transaction(event: Extract<HistoryEvent, { event: 'transaction' }>): Promise<void> {
    const session = await this.#open(0, '10s');
    await runTransaction(session, event);
  }

  /** The rows of both meet now and then: whoever has to wait is refused, as nobody but us could end the wait. */
  async #twoTransactions(event: Extract<HistoryEvent, { event: 'two transactions' }>): Promise<void> {
    const sessions = [await this.#open(1, '20ms'), await this.#open(2, '20ms')] as const;
    await runTwoTransactions(sessions, event, () => this.#observe());
  }

  async #open(number: number, lockTimeout: string): Promise<Session> {
    const client = await this.#harness.pool.connect();
    const session = new Session(client, {
      now: () => this.#harness.clock.now(),
      nonce: this.#nonce,
      note: (line) => this.#statements.push(number === 0 ? line : `/* session ${number} */ ${line}`),
      ended: (outcome) => {
        this.report[outcome] += 1;
      },
    });
    await session.run({ text: 'begin', values: [] });
    await client.query(`set local lock_timeout = '${lockTimeout}'`);
    return session;
  }

  /** Children last is enough: every foreign key cascades or sets null. */
  async #delete(): Promise<void> {
    await this.#harness.pool.query(
      TABLE_NAMES.map((table) => `delete from ${table}`)
        .reverse()
        .join(';'),
    );
  }

  #error(found: string, cause?: unknown): ConvergenceError {
    const place = `settle point ${this.report.settles + 1}, clock ${this.#harness.clock.now().toISOString()}`;
    const statements = this.#statements.map((line) => `  ${line}`).join('\n');
    return new ConvergenceError(`at ${place}: ${found}\nafter:\n${statements}`, { cause });
  }
}
