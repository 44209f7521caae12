import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Replication, startReplication } from '../../pipeline/replication.ts';
import { parseLsn } from '../../src/lsn.ts';
import { sqlStateOf } from '../../src/postgres.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { createRandom, type Random } from '../support/random.ts';
import { acquire, type Lease, release, renew } from './lease.ts';

const SEQUENCES = 200;
const COMMANDS = 25;

// No sum of steps is within 500 ms before the end of a lease or of the silence: what a slow machine adds changes no answer.
const STEP_MS = 700;
const LEASES_MS = [3_400, 10_400];

type Command =
  | { name: 'acquire'; holder: string; slotActive: boolean; leaseMs: number }
  | { name: 'renew' | 'release' | 'write'; generation: number; leaseMs: number };

type Answer = number | boolean | 'done' | 'fenced' | 'nothing' | undefined;

/** The row as the model has it, with the position that batches move. */
interface Place extends Lease {
  position: number;
}

let database: TestDatabase;
let client: pg.PoolClient;
let replication: Replication | undefined;

beforeAll(async () => {
  database = await createDatabase({ template: 'migrated' });
  client = await database.pool.connect();
  // A consumer that streams, for the rule that looks at the slot.
  const { rows } = await client.query<{ lsn: string }>(
    `select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput')`,
    [database.name],
  );
  replication = await startReplication({
    url: database.url,
    slotName: database.name,
    startLsn: parseLsn(rows[0]?.lsn ?? ''),
    silenceMaxMs: 600_000,
    onChange: () => undefined,
    onKeepalive: () => undefined,
  });
});

afterAll(async () => {
  await replication?.stop();
  client?.release(true);
  await database?.drop();
});

function pickCommand(random: Random, place: Place): Command {
  const leaseMs = random.pick(LEASES_MS);
  const name = random.pick(['acquire', 'acquire', 'renew', 'release', 'write', 'write'] as const);
  if (name === 'acquire') {
    return { name, holder: random.pick(['a', 'b', 'c']), slotActive: random.chance(0.5), leaseMs };
  }
  // Mostly the newest, now and then one that has lost its place.
  const generation = random.chance(0.7) ? place.generation : random.below(place.generation + 2);
  return { name, generation, leaseMs };
}

function answerOfModel(place: Place, command: Command, nowMs: number): Answer {
  const { leaseMs } = command;
  switch (command.name) {
    case 'acquire':
      return acquire(place, { holder: command.holder, nowMs, leaseMs, slotActive: command.slotActive });
    case 'renew':
      return renew(place, { generation: command.generation, nowMs, leaseMs });
    case 'release':
      release(place, { generation: command.generation, nowMs });
      return 'nothing';
    case 'write':
      if (!renew(place, { generation: command.generation, nowMs, leaseMs })) return 'fenced';
      place.position += 1;
      return 'done';
  }
}

const interval = (ms: number): string => `interval '${ms} milliseconds'`;

function statementOf(command: Command, place: Place): string {
  const lease = interval(command.leaseMs);
  switch (command.name) {
    case 'acquire': {
      const slotName = command.slotActive ? database.name : 'nobody';
      return `select market_sync.acquire_consumer('${command.holder}', '${slotName}', ${lease}) as answer`;
    }
    case 'renew':
      return `select market_sync.renew_consumer(${command.generation}, ${lease}) as answer`;
    case 'release':
      return `select 'nothing' as answer from market_sync.release_consumer(${command.generation})`;
    case 'write':
      return `select outcome as answer from market_sync.reconcile_batch(
        ${command.generation}, '0/${(place.position + 1).toString(16)}', '{}', '{}', '{}', '{}', '{}', '{}', 10, ${lease})`;
  }
}

/**
 * The row as the model has it, seen from now, then the command at once: one message, so that no time passes in between.
 * Undone as a whole when the command is refused.
 */
async function answerOfPostgres(place: Place, command: Command, nowMs: number): Promise<Answer> {
  const remaining = place.leaseUntilMs === undefined ? undefined : place.leaseUntilMs - nowMs;
  const results: unknown = await client
    .query(
      `update market_sync.checkpoint set
         lease_until = ${remaining === undefined ? 'null' : `clock_timestamp() + ${interval(remaining)}`},
         updated_at = clock_timestamp() - ${interval(nowMs - place.updatedAtMs)};
       ${statementOf(command, place)}`,
    )
    .catch((error: unknown) => {
      if (sqlStateOf(error) === 'MS001') return 'fenced';
      throw error;
    });
  if (results === 'fenced') return 'fenced';
  return (results as pg.QueryResult<{ answer: Answer | null }>[])[1]?.rows[0]?.answer ?? undefined;
}

async function readPlace(): Promise<Record<string, unknown>> {
  const { rows } = await client.query<Record<string, unknown>>(
    `select generation, holder, commit_lsn - '0/0' as position,
       round(extract(epoch from lease_until - updated_at) * 1000 / ${STEP_MS / 7})::int as lease
     from market_sync.checkpoint`,
  );
  return rows[0] ?? {};
}

function shownPlace(place: Place): Record<string, unknown> {
  const { generation, holder, position, leaseUntilMs, updatedAtMs } = place;
  return {
    generation,
    holder: holder ?? null,
    position,
    lease: leaseUntilMs === undefined ? null : Math.round((leaseUntilMs - updatedAtMs) / (STEP_MS / 7)),
  };
}

test('I6, rows 10 and 11: whatever consumers ask for and whenever, PostgreSQL gives the place to whom the model gives it', {
  timeout: 5 * 60_000,
}, async () => {
  const answers = new Map<string, number>();
  for (let seed = 1; seed <= SEQUENCES; seed += 1) {
    const random = createRandom(seed);
    const place: Place = {
      generation: 0,
      holder: undefined,
      leaseUntilMs: undefined,
      updatedAtMs: 0,
      position: 1,
    };
    await client.query(
      `update market_sync.checkpoint set generation = 0, holder = null, lease_until = null, commit_lsn = '0/1'`,
    );
    let nowMs = 0;
    const history: unknown[] = [];
    for (let count = 0; count < COMMANDS; count += 1) {
      nowMs += STEP_MS * random.pick([0, 1, 2, 3, 4, 5, 15]);
      const command = pickCommand(random, place);
      const actual = await answerOfPostgres(place, command, nowMs);
      const expected = answerOfModel(place, command, nowMs);
      history.push({ nowMs, ...command });
      const context = `seed ${seed}: ${JSON.stringify(history)}`;
      expect(actual, context).toBe(expected);
      expect(await readPlace(), context).toEqual(shownPlace(place));
      const kind = `${command.name}: ${typeof expected === 'number' ? 'a generation' : expected}`;
      answers.set(kind, (answers.get(kind) ?? 0) + 1);
    }
  }
  // Each answer was given often enough to mean something.
  expect([...answers.keys()].toSorted()).toEqual([
    'acquire: a generation',
    'acquire: undefined',
    'release: nothing',
    'renew: false',
    'renew: true',
    'write: done',
    'write: fenced',
  ]);
  for (const [kind, count] of answers) expect(count, kind).toBeGreaterThan(50);
});
