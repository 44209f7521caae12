import { expect } from 'vitest';
import type { CrashPoint } from '../../src/crash-point.ts';
import { requireMigrated } from '../../src/migrate.ts';
import { readMigrations } from '../../src/migrations.ts';
import { query } from '../../src/postgres.ts';
import { until } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { type Actor, type LostRequest, startActor, untilStopped, within } from './actor.ts';
import type { Action } from './pipeline-case.ts';

export interface MigrateCase {
  point: CrashPoint;
  action: Action;
  passage: number;
  request: LostRequest | undefined;
}

/** Crashes `migrate` between two migrations; run again it finishes what is missing and repeats nothing. */
export async function runMigrateCase({ point, action, passage, request }: MigrateCase): Promise<void> {
  const database = await createDatabase();
  const actors: Actor[] = [];
  const start = async (order: string): Promise<Actor> => {
    const settings = { DATABASE_URL: database.url, MONGODB_URL: UNUSED_URL, TEST_CRASH_POINT: order };
    const actor = await startActor('migrate', settings);
    actors.push(actor);
    return actor;
  };
  const applied = async (): Promise<string[]> =>
    (
      await query<{ name: string }>(
        database.pool,
        'select name from market_sync.migrations order by applied_at, number',
      )
    ).map((row) => row.name);
  const all = readMigrations().map((migration) => migration.name);
  try {
    const first = await start(`${point}:${action}:${passage}`);
    await within('the crash point is reached', first.crash.reached);
    if (action === 'reply_lost' && request !== undefined) await loseReply(first, request);
    if (action === 'hang') await untilStopped(first.service);
    else expect(await within('the process ends', first.service.exited)).toEqual(ENDS[action]);
    // What was committed is there, also when nobody heard of it.
    expect(await applied()).toEqual(all.slice(0, action === 'reply_lost' ? passage : passage - 1));

    const second = await start('on');
    if (action === 'hang') {
      await untilWaiting(database);
      first.service.signal('SIGCONT');
      expect(await first.service.exited).toMatchObject({ code: 0 });
    }
    expect(await second.service.exited, JSON.stringify(second.service.log)).toMatchObject({ code: 0 });
    expect(await applied()).toEqual(all);
    await requireMigrated(database.pool);
  } finally {
    await Promise.all(actors.map((actor) => actor.stop('SIGKILL')));
    await database.drop();
  }
}

/** A migration needs no MongoDB. */
const UNUSED_URL = 'mongodb://127.0.0.1:1';

const ENDS = {
  kill: { code: null, signal: 'SIGKILL' },
  error: { code: 1, signal: null },
  reply_lost: { code: 1, signal: null },
};

async function loseReply(actor: Actor, request: LostRequest): Promise<void> {
  const lost = actor.loseReply(request);
  actor.crash.proceed();
  await within('the reply is lost', lost);
}

/** Until the second one asks for the lock that the first holds. */
const untilWaiting = ({ pool, name }: TestDatabase): Promise<void> =>
  until('the second asks for the lock', async () => {
    const asking = await query(
      pool,
      `select from pg_stat_activity where datname = $1 and query like '%pg_try_advisory_lock%' and pid <> pg_backend_pid()`,
      [name],
    );
    return asking.length > 0;
  });
