import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkHistories, ConvergenceError, runHistory } from '../support/history.ts';
import type { ExpectedContent } from '../support/oracle.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import type { History } from './commands.ts';
import { recompute } from './possible-snapshots.ts';
import { createReferencePipeline, type Faults } from './reference-pipeline.ts';
import type { Cell } from './tables.ts';

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase({ template: 'storage_guard' });
});

afterAll(async () => {
  await database.drop();
});

const RUNS = 40;
const SEED = 20_260_301;

test('random histories find nothing wrong with a pipeline that is right', async () => {
  const report = await checkHistories(createReferencePipeline(database.pool), { runs: RUNS });
  expect(report.commits).toBeGreaterThan(RUNS);
  expect(report.refused).toBeLessThan(report.commits / 10);
});

test('a seed replays the same histories', async () => {
  const run = () => checkHistories(createReferencePipeline(database.pool), { runs: 5, seed: SEED });
  expect(await run()).toEqual(await run());
});

const update = (
  table: 'storage_bookings' | 'crop_inspections',
  values: Record<string, Cell>,
): History[number] => ({
  event: 'transaction',
  steps: [{ do: 'set', table, row: 1, values }],
  committed: true,
});

test('a difference names the booking, the field, what was expected and what was found, and the statements', async () => {
  const faults: Faults = { row: (row) => ({ ...row, crop_type: 'barley' }) };
  const failure = runHistory(
    [update('storage_bookings', { booking_status: { literal: 'completed' } })],
    createReferencePipeline(database.pool, faults),
  );
  await expect(failure).rejects.toThrow(ConvergenceError);
  await expect(failure).rejects.toThrow(/booking 1 .*: crop_type: expected "wheat", actual "barley"/);
  await expect(failure).rejects.toThrow(/update storage_bookings set booking_status = 'completed'/);
});

test('a revision for another inspection that says the same is one too many', async () => {
  const history: History = [
    { event: 'settle' },
    update('storage_bookings', { ai_inspection_id: { row: 0 } }),
    { event: 'settle' },
  ];
  await runHistory(history, createReferencePipeline(database.pool));
  const isRevision = (before: ExpectedContent, after: ExpectedContent) =>
    JSON.stringify(before) !== JSON.stringify(after);
  await expect(runHistory(history, createReferencePipeline(database.pool, { isRevision }))).rejects.toThrow(
    'revision: expected "still 1", actual 2',
  );
});

test('a statement of the application that fails for no reason of its own ends the history with an error', async () => {
  await database.pool.query(`
    create function fail() returns trigger language plpgsql as $$ begin raise 'capture is broken'; end $$;
    create trigger fail after update on crop_inspections execute function fail()`);
  const history = [update('crop_inspections', { freshness: { literal: 'fair' } })];
  await expect(runHistory(history, createReferencePipeline(database.pool))).rejects.toThrow(
    /^the application's statement failed: update crop_inspections/,
  );
  await database.pool.query('drop function fail cascade');
});

const withoutLast = <Item>(items: Item[]): Item[] => items.slice(0, -1);
const isEnded = (content: ExpectedContent): boolean => content.status !== 'published';

const FAULTS: Record<string, Faults> = {
  'an ended booking that follows its location': {
    recompute: (before, fresh) => (before === null || fresh === null ? recompute(before, fresh) : fresh),
  },
  'an ended booking that was frozen before its end was seen': {
    recompute: (before, fresh) =>
      before !== null && fresh !== null && isEnded(fresh)
        ? recompute({ ...before, status: 'completed' }, fresh)
        : recompute(before, fresh),
  },
  'an ended booking whose own columns are frozen': {
    recompute: (before, fresh) =>
      before !== null && isEnded(before) && fresh !== null && isEnded(fresh)
        ? before
        : recompute(before, fresh),
  },
  'an ended booking that gets a snapshot': {
    recompute: (before, fresh) => (before === null ? fresh : recompute(before, fresh)),
  },
  'a deleted booking whose snapshot disappears': {
    recompute: (before, fresh) => (fresh === null ? null : recompute(before, fresh)),
  },
  'a deleted booking that stays published': {
    recompute: (before, fresh) => (fresh === null ? before : recompute(before, fresh)),
  },
  'a booking back to life that stays ended': {
    recompute: (before, fresh) => (before !== null && isEnded(before) ? before : recompute(before, fresh)),
  },
  'a clock that nobody looks at': { ignoresClock: true },
  'a revision for every recompute': { isRevision: () => true },
  'no revision for a change of the sensors': {
    isRevision: (before, after) =>
      JSON.stringify({ ...before, sensors: 0, sensor_summary: 0, metadata: 0 }) !==
      JSON.stringify({ ...after, sensors: 0, sensor_summary: 0, metadata: 0 }),
  },
  'an updated_at that always moves': { row: (row) => ({ ...row, updated_at: row.last_synced_at }) },
  'sensors without the newest reading': {
    world: (world) => ({
      ...world,
      readings: withoutLast(world.readings.toSorted((a, b) => (a.time < b.time ? -1 : 1))),
    }),
  },
  'readings that move along with nothing': {
    world: (world) => ({ ...world, readings: world.readings.filter((reading) => reading.value !== null) }),
  },
  'pest events in the order of their ids': {
    row: (row) => ({ ...row, pest_events: [...(row.pest_events as unknown[])].reverse() }),
  },
  'an average that is off by a millionth': {
    row: (row) => ({
      ...row,
      sensor_summary: Object.fromEntries(
        Object.entries(row.sensor_summary as Record<string, number | null>).map(([key, value]) => [
          key,
          key.endsWith('_avg') && value !== null ? value * 1.000_001 : value,
        ]),
      ),
    }),
  },
  'an expired certificate on its last day': {
    world: (world) => ({
      ...world,
      complianceCertificates: world.complianceCertificates.map((certificate) => ({
        ...certificate,
        expiresAt: certificate.expiresAt === null ? null : certificate.expiresAt - 86_400_000_000n,
      })),
    }),
  },
  'a field in the metadata that nobody asked for': {
    row: (row) => ({ ...row, metadata: { ...(row.metadata as object), debug: true } }),
  },
  'a listing that is not written when it ends': {
    document: (document, before) => (document.status === 'published' ? document : before),
  },
  'a listing left at its first version': { document: (document, before) => before ?? document },
  'a listing with a new _id for every version': {
    document: (document) => ({ ...document, _id: `${document._id} ${document.revision}` }),
  },
  'a listing that holds a Date': {
    document: (document) => ({
      ...document,
      start_date: document.start_date === null ? null : new Date(String(document.start_date)),
    }),
  },
  'a listing that was never marked published': { row: (row) => ({ ...row, published_at: null }) },
  'a revision that starts again at 1': {
    row: (row, before) => ({ ...row, revision: before === undefined ? row.revision : '1' }),
  },
};

describe('random histories catch', () => {
  test.for(Object.entries(FAULTS))('%s', async ([, faults]) => {
    const harness = createReferencePipeline(database.pool, faults);
    const checked = checkHistories(harness, { runs: 300, seed: SEED, endOnFailure: true });
    await expect(checked).rejects.toThrow(/ differences:/);
  });
});
