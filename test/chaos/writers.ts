import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { describeError } from '../../src/errors.ts';
import { classifyPostgresError } from '../../src/postgres.ts';
import { Session } from '../oracle/session.ts';
import { GENESIS } from '../oracle/statements.ts';
import { runTransaction, runTwoTransactions } from '../oracle/transactions.ts';
import type { Random } from '../support/random.ts';
import type { Observations } from './observations.ts';
import { drawWork, type Nonce, type Work } from './world.ts';

/** Transactions that a world lives through before its writer begins another. */
const WORLD_TRANSACTIONS = 250;

/** Worlds that end with everything deleted; the others stay as they are. */
const DELETE_WORLD = 0.5;

/** How often a writer looks whether PostgreSQL is back. */
const RETRY_MS = 50;

export interface WriterContext {
  pool: pg.Pool;
  observations: Observations;
  /** Milliseconds between transactions of one writer. */
  pauseMs: number;
}

export interface Writers {
  /** Worlds that are being written in. */
  live(): Nonce[];
  /** Every world there ever was. */
  readonly worlds: readonly Nonce[];
  stop(): Promise<void>;
}

/** The application: sessions that change everything all the time, each in worlds of its own. */
export function startWriters(
  ctx: WriterContext,
  { count, random }: { count: number; random: Random },
): Writers {
  const worlds: Nonce[] = [];
  const writers = Array.from({ length: count }, () => new Writer(ctx, random.fork(), worlds));
  const running = writers.map((writer) => writer.run());
  return {
    live: () => writers.map((writer) => writer.world),
    worlds,
    stop: async () => {
      for (const writer of writers) writer.stopped = true;
      await Promise.all(running);
    },
  };
}

class Writer {
  stopped = false;
  world: Nonce = '';
  readonly #ctx: WriterContext;
  readonly #random: Random;
  readonly #worlds: Nonce[];
  readonly #work: Generator<Work, never>;

  constructor(ctx: WriterContext, random: Random, worlds: Nonce[]) {
    this.#ctx = ctx;
    this.#random = random;
    this.#worlds = worlds;
    this.#work = drawWork(random.fork());
  }

  async run(): Promise<void> {
    while (!this.stopped) {
      this.world = this.#random.hex(12);
      this.#worlds.push(this.world);
      await this.#attempt({ event: 'transaction', steps: GENESIS, committed: true });
      for (let done = 0; done < WORLD_TRANSACTIONS && !this.stopped; done += 1) {
        await this.#attempt(this.#work.next().value);
        await delay(this.#ctx.pauseMs * 2 * this.#random.next());
      }
      if (!this.stopped && this.#random.chance(DELETE_WORLD)) await this.#attempt(deleteWorld());
    }
  }

  /** What a connection takes with it is not tried again: nobody knows whether it was committed, and nobody needs to. */
  async #attempt(work: Work): Promise<void> {
    const sessions: Session[] = [];
    const open = async (lockTimeout: string): Promise<Session> => {
      const session = await this.#open(lockTimeout);
      sessions.push(session);
      return session;
    };
    try {
      if (work.event === 'transaction') await runTransaction(await open('10s'), work);
      else await runTwoTransactions([await open('20ms'), await open('20ms')], work);
    } catch (error) {
      await this.#survive(error);
    } finally {
      for (const session of sessions) session.abandon();
    }
  }

  async #open(lockTimeout: string): Promise<Session> {
    const { pool, observations } = this.#ctx;
    const client = await pool.connect();
    const session = new Session(client, {
      now: () => new Date(),
      nonce: this.world,
      note: () => undefined,
      ended: (outcome, rows) => {
        if (outcome !== 'commits') return;
        observations.tally.commits += 1;
        observations.tally.operations += rows;
      },
    });
    try {
      await client.query(`begin; set local lock_timeout = '${lockTimeout}'`);
    } catch (error) {
      session.abandon();
      throw error;
    }
    return session;
  }

  async #survive(error: unknown): Promise<void> {
    const cause = (error as Error).cause ?? error;
    if (!isExcused(cause)) {
      this.#ctx.observations.violation(
        'application_errors',
        `${describeError(error)}: ${describeError(cause)}`,
      );
    }
    await delay(RETRY_MS);
  }
}

/** A connection that is gone, what the nemesis does to PostgreSQL, and what applications do to each other. */
export function isExcused(error: unknown): boolean {
  const DEADLOCK = '40P01';
  if (error instanceof TypeError || error instanceof RangeError) return false;
  if (!(error instanceof pg.DatabaseError)) return true;
  return classifyPostgresError(error) === 'retryable' || error.code === DEADLOCK;
}

const deleteWorld = (): Work => ({
  event: 'transaction',
  committed: true,
  steps: Array.from({ length: 8 }, (_, row) => ({ do: 'delete', table: 'storage_bookings', row })),
});
