import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Snapshot } from '../../src/domain/snapshot.ts';
import { query } from '../../src/postgres.ts';
import { claimKey, deleteOldAnswers, giveBackKey } from '../../src/store/idempotency.ts';
import {
  type Actor,
  asActor,
  endOverride,
  findOverride,
  findPause,
  holdBookings,
  pausePipeline,
  publishNow,
  RefusedError,
  type Refusal,
  reconcileNow,
  releaseBookings,
  resumePipeline,
  setOverride,
  withdrawBookings,
} from '../../src/store/manual-actions.ts';
import { claimListings, markPublished } from '../../src/store/outbox.ts';
import { findDueForRefresh, reconcileBookings } from '../../src/store/reconcile.ts';
import { findSnapshot } from '../../src/store/snapshots.ts';
import { insertSnapshot, setBookingStatus } from '../api/setup.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let pool: pg.Pool;
beforeAll(async () => {
  database = await createDatabase({ template: 'migrated' });
  pool = database.pool;
});
afterAll(() => database.drop());

const HOUR_MS = 3_600_000;
let calls = 0;
const caller = (idempotencyKey?: string): Actor => {
  calls += 1;
  return { actor: 'key:ops', requestId: `request ${calls}`, idempotencyKey };
};

const actionsOn = (bookingId: string): Promise<Record<string, unknown>[]> =>
  query(
    pool,
    `select action, actor, via, reason, request_id, idempotency_key from market_sync.manual_action
     where booking_ids @> array[$1::uuid] order by id`,
    [bookingId],
  );
const actionNames = async (bookingId: string) => (await actionsOn(bookingId)).map(({ action }) => action);

async function snapshotOf(bookingId: string): Promise<Snapshot> {
  const snapshot = await findSnapshot(pool, bookingId);
  if (snapshot === undefined) throw new Error('there is no snapshot');
  return snapshot;
}

const recompute = (bookingId: string, now?: Date) =>
  reconcileBookings(pool, { bookingIds: [bookingId], now });

/** Why the action was refused; fails when it was not. */
async function refusalOf(action: (client: pg.PoolClient) => Promise<unknown>): Promise<Refusal> {
  const error: unknown = await asActor(pool, caller(), action).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error instanceof RefusedError) return error.refusal;
  throw new Error('the action was not refused', { cause: error });
}

test('I8: a hold takes the listing off the market in one revision with one audit row, and a release brings it back', async () => {
  const { bookingId } = await insertSnapshot(pool);
  const { revision } = await snapshotOf(bookingId);
  await holdBookings(pool, { bookingIds: [bookingId], reason: 'mould seen' });
  expect(await snapshotOf(bookingId)).toMatchObject({ status: 'held', revision: revision + 1 });
  await recompute(bookingId);
  expect(await snapshotOf(bookingId)).toMatchObject({ status: 'held', revision: revision + 1 });
  await releaseBookings(pool, { bookingIds: [bookingId], reason: undefined });
  expect(await snapshotOf(bookingId)).toMatchObject({ status: 'ready_to_publish', revision: revision + 2 });
  expect(await actionsOn(bookingId)).toMatchObject([
    { action: 'hold', actor: 'postgres', via: 'sql', reason: 'mould seen', idempotency_key: null },
    { action: 'release', actor: 'postgres', via: 'sql', reason: null },
  ]);
});

test('a held listing goes on following its source, and ends when its booking ends', async () => {
  const { bookingId } = await insertSnapshot(pool);
  await holdBookings(pool, { bookingIds: [bookingId], reason: 'x' });
  await query(pool, 'update storage_bookings set quantity_kg = 5 where id = $1', [bookingId]);
  await recompute(bookingId);
  expect(await snapshotOf(bookingId)).toMatchObject({ status: 'held', quantity_kg: 5 });
  await setBookingStatus(pool, bookingId, 'cancelled');
  expect((await snapshotOf(bookingId)).status).toBe('withdrawn');
});

test('I8: a hold wins over data that cannot be recomputed', async () => {
  const { bookingId } = await insertSnapshot(pool);
  const { revision } = await snapshotOf(bookingId);
  await query(
    pool,
    `create function refuse_poison() returns trigger language plpgsql as $$
     begin
       if new.quantity_kg = 666 then raise exception 'no such quantity' using errcode = '22003'; end if;
       return new;
     end $$`,
  );
  await query(
    pool,
    'create trigger refuse_poison before update on market_inventory_snapshots for each row execute function refuse_poison()',
  );
  try {
    await query(pool, 'update storage_bookings set quantity_kg = 666 where id = $1', [bookingId]);
    await holdBookings(pool, { bookingIds: [bookingId], reason: 'x' });
    expect(await snapshotOf(bookingId)).toMatchObject({
      status: 'held',
      revision: revision + 1,
      quantity_kg: 1200,
    });
    const claimed = await claimListings(pool, { publisher: 't', leaseSeconds: 60, limit: 1000 });
    expect(claimed.map((claim) => claim.booking_id)).toContain(bookingId);
  } finally {
    await query(pool, 'drop trigger refuse_poison on market_inventory_snapshots');
  }
  await recompute(bookingId);
  expect(await snapshotOf(bookingId)).toMatchObject({ status: 'held', quantity_kg: 666 });
});

test('a listing withdrawn by hand is frozen like one of a cancelled booking, and only a release brings it back', async () => {
  const { bookingId, locationId } = await insertSnapshot(pool);
  await withdrawBookings(pool, { bookingIds: [bookingId], reason: 'fraud' });
  const withdrawn = await snapshotOf(bookingId);
  expect(withdrawn.status).toBe('withdrawn');
  await query(
    pool,
    `insert into pest_detections (location_id, pest_type, severity_level, detected_at) values ($1, 'mouse', 'low', now())`,
    [locationId],
  );
  await recompute(bookingId);
  expect(await snapshotOf(bookingId)).toEqual(withdrawn);
  expect(await refusalOf((client) => holdBookings(client, { bookingIds: [bookingId], reason: 'x' }))).toBe(
    'conflict',
  );
  await releaseBookings(pool, { bookingIds: [bookingId], reason: 'cleared' });
  const released = await snapshotOf(bookingId);
  expect(released).toMatchObject({ status: 'ready_to_publish', pest_count: withdrawn.pest_count + 1 });
  expect(await actionNames(bookingId)).toEqual(['withdraw', 'release']);
});

test('a booking withdrawn by hand stays away after its snapshot was cleaned up', async () => {
  const { bookingId } = await insertSnapshot(pool);
  await withdrawBookings(pool, { bookingIds: [bookingId], reason: 'fraud' });
  await query(
    pool,
    `update market_sync.snapshot_state set published_epoch = epoch, published_revision = revision, claimed_by = 'cleanup'
     where booking_id = $1`,
    [bookingId],
  );
  const { revision } = await snapshotOf(bookingId);
  await query(pool, 'select market_sync.delete_ended(array[$1::uuid], array[$2::bigint])', [
    bookingId,
    revision,
  ]);
  await recompute(bookingId);
  expect(await findSnapshot(pool, bookingId)).toBeUndefined();
  await releaseBookings(pool, { bookingIds: [bookingId], reason: undefined });
  const returned = await snapshotOf(bookingId);
  expect(returned.status).toBe('ready_to_publish');
  expect(returned.revision).toBeGreaterThan(revision);
});

test('an override speaks instead of the source, survives every recompute, and ends when it is ended', async () => {
  const { bookingId } = await insertSnapshot(pool);
  const version = await setOverride(pool, {
    bookingId,
    reason: 'inspected again',
    fields: { grade: 'B', quality_score: 71.255, special_notes: 'sort before sale' },
    expiresAt: undefined,
    ifVersion: 0,
  });
  const corrected = { grade: 'B', quality_score: 71.26, freshness: 'fresh' };
  expect(await snapshotOf(bookingId)).toMatchObject({
    ...corrected,
    metadata: { special_notes: 'sort before sale' },
  });
  await query(
    pool,
    `update crop_inspections set freshness_score = 12, freshness = 'stale'
     where id = (select ai_inspection_id from storage_bookings where id = $1)`,
    [bookingId],
  );
  await query(pool, `update storage_bookings set grade = 'C' where id = $1`, [bookingId]);
  await recompute(bookingId);
  expect(await snapshotOf(bookingId)).toMatchObject({ ...corrected, freshness: 'stale' });
  expect(await findOverride(pool, bookingId)).toMatchObject({ grade: 'B', freshness: null, version });
  expect(await endOverride(pool, { bookingId, ifVersion: version })).toBe(true);
  expect(await snapshotOf(bookingId)).toMatchObject({
    grade: 'C',
    quality_score: 12,
    metadata: { special_notes: '' },
  });
  expect(await endOverride(pool, { bookingId, ifVersion: undefined })).toBe(false);
  expect(await actionNames(bookingId)).toEqual(['set_override', 'end_override']);
});

test('an override ends by itself at its expiry: the clock refreshes the snapshot then', async () => {
  const { bookingId } = await insertSnapshot(pool);
  const expiresAt = new Date(Date.now() + HOUR_MS);
  await setOverride(pool, {
    bookingId,
    reason: 'x',
    fields: { freshness: 'sweating' },
    expiresAt,
    ifVersion: undefined,
  });
  const [before, after] = [new Date(expiresAt.getTime() - 1), expiresAt];
  await recompute(bookingId, before);
  expect((await snapshotOf(bookingId)).freshness).toBe('sweating');
  expect(await findDueForRefresh(pool, { now: before, limit: 1000 })).not.toContain(bookingId);
  expect(await findDueForRefresh(pool, { now: after, limit: 1000 })).toContain(bookingId);
  await recompute(bookingId, after);
  expect((await snapshotOf(bookingId)).freshness).toBe('fresh');
});

test('an override that somebody else has changed meanwhile is not overwritten', async () => {
  const { bookingId } = await insertSnapshot(pool);
  const write = (db: pg.Pool | pg.PoolClient, grade: string, ifVersion: number | undefined) =>
    setOverride(db, { bookingId, reason: 'x', fields: { grade }, expiresAt: undefined, ifVersion });
  const first = await write(pool, 'A', 0);
  const second = await write(pool, 'B', first);
  expect(second).not.toBe(first);
  expect(await refusalOf((client) => write(client, 'C', first))).toBe('version');
  expect(await refusalOf((client) => write(client, 'C', 0))).toBe('version');
  expect(await refusalOf((client) => endOverride(client, { bookingId, ifVersion: first }))).toBe('version');
  expect((await snapshotOf(bookingId)).grade).toBe('B');
  expect(await actionNames(bookingId)).toEqual(['set_override', 'set_override']);
});

test('I8: what is refused changes nothing and is not audited', async () => {
  const { bookingId } = await insertSnapshot(pool);
  const before = await snapshotOf(bookingId);
  const one = [bookingId];
  const unknown = ['00000000-0000-4000-8000-000000000000'];
  const override = { bookingId, reason: 'x', expiresAt: undefined, ifVersion: undefined };
  const [{ count } = { count: -1 }] = await query<{ count: number }>(
    pool,
    'select count(*) from market_sync.manual_action',
  );
  const refusals: [Refusal, (client: pg.PoolClient) => Promise<unknown>][] = [
    ['unknown_booking', (db) => holdBookings(db, { bookingIds: unknown, reason: 'x' })],
    ['unknown_booking', (db) => publishNow(db, unknown)],
    ['bad_argument', (db) => holdBookings(db, { bookingIds: [], reason: 'x' })],
    ['bad_argument', (db) => holdBookings(db, { bookingIds: one, reason: '  ' })],
    ['bad_argument', (db) => withdrawBookings(db, { bookingIds: one, reason: 'x'.repeat(501) })],
    ['bad_argument', (db) => setOverride(db, { ...override, fields: {} })],
    ['bad_argument', (db) => setOverride(db, { ...override, fields: { quality_score: 100.1 } })],
    ['bad_argument', (db) => setOverride(db, { ...override, fields: { quality_score: Number.NaN } })],
    ['bad_argument', (db) => setOverride(db, { ...override, fields: { grade: 'x'.repeat(17) } })],
    [
      'bad_argument',
      (db) => setOverride(db, { ...override, fields: { grade: 'A' }, expiresAt: new Date(0) }),
    ],
    ['conflict', (db) => releaseBookings(db, { bookingIds: one, reason: 'x' })],
    ['conflict', (db) => resumePipeline(db)],
  ];
  for (const [refusal, action] of refusals) expect(await refusalOf(action)).toBe(refusal);
  await setBookingStatus(pool, bookingId, 'completed');
  const ended = await snapshotOf(bookingId);
  expect(await refusalOf((db) => holdBookings(db, { bookingIds: one, reason: 'x' }))).toBe('conflict');
  expect(await refusalOf((db) => withdrawBookings(db, { bookingIds: one, reason: 'x' }))).toBe('conflict');
  expect(await refusalOf((db) => publishNow(db, one))).toBe('conflict');
  expect(ended.revision).toBe(before.revision + 1);
  expect(await snapshotOf(bookingId)).toEqual(ended);
  expect(await query(pool, 'select count(*) from market_sync.manual_action')).toEqual([{ count }]);
});

test('I8: the API acts in the name of its caller, and a call repeated under its idempotency key is audited once', async () => {
  const { bookingId } = await insertSnapshot(pool);
  const act = () =>
    asActor(pool, caller('retry-1'), (db) => holdBookings(db, { bookingIds: [bookingId], reason: 'x' }));
  const call = { caller: 'key:ops', key: 'retry-1', requestHash: Buffer.alloc(32), owner: 'first' };
  await claimKey(pool, call);
  await act();
  // As when the process died, or answered with an error, before the answer was kept.
  await giveBackKey(pool, call);
  expect(await claimKey(pool, { ...call, owner: 'second' })).toEqual({ outcome: 'claimed' });
  await act();
  const once = { action: 'hold', actor: 'key:ops', via: 'http', idempotency_key: 'retry-1' };
  expect(await actionsOn(bookingId)).toMatchObject([once]);
  // Another call, long after the first was forgotten.
  await deleteOldAnswers(pool, { olderThanSeconds: 0, limit: 10 });
  expect(await query(pool, 'select from market_sync.idempotency')).toHaveLength(1);
  await giveBackKey(pool, { ...call, owner: 'second' });
  await deleteOldAnswers(pool, { olderThanSeconds: 0, limit: 10 });
  await claimKey(pool, call);
  await act();
  expect(await actionsOn(bookingId)).toMatchObject([once, once]);
  await asActor(pool, caller(), (db) => reconcileNow(db, { bookingIds: [bookingId], now: undefined }));
  expect(await actionNames(bookingId)).toEqual(['hold', 'hold', 'reconcile']);
});

test('I8: nobody but the API can act in the name of another', async () => {
  const { bookingId } = await insertSnapshot(pool);
  const login = `stranger_${process.pid}`;
  await query(pool, `create role ${login} login password 'stranger'`);
  await query(pool, `grant usage on schema market_sync to ${login}`);
  await query(pool, `grant execute on function market_sync.hold(uuid[], text) to ${login}`);
  const url = new URL(database.url);
  [url.username, url.password] = [login, 'stranger'];
  const client = new pg.Client(url.href);
  await client.connect();
  try {
    await client.query(`set market_sync.actor = 'key:ops'`);
    await client.query('select market_sync.hold(array[$1]::uuid[], $2)', [bookingId, 'x']);
  } finally {
    await client.end();
    await query(pool, `drop owned by ${login}`);
    await query(pool, `drop role ${login}`);
  }
  expect(await actionsOn(bookingId)).toMatchObject([{ actor: login, via: 'sql' }]);
});

test('a paused pipeline claims, refreshes and recomputes nothing by itself, and goes on when it is resumed', async () => {
  const { bookingId } = await insertSnapshot(pool);
  await pausePipeline(pool, 'maintenance of mongodb');
  expect(await findPause(pool)).toMatchObject({ reason: 'maintenance of mongodb', paused_by: 'postgres' });
  const claim = { publisher: 't', leaseSeconds: 60, limit: 1000 };
  expect(await claimListings(pool, claim)).toEqual([]);
  expect(await claimListings(pool, { ...claim, bookingIds: [bookingId] })).toEqual([]);
  expect(await findDueForRefresh(pool, { now: new Date('2100-01-01'), limit: 10 })).toEqual([]);
  expect(await refusalOf((db) => publishNow(db, [bookingId]))).toBe('paused');
  // What a person decides still counts.
  await holdBookings(pool, { bookingIds: [bookingId], reason: 'x' });
  expect((await snapshotOf(bookingId)).status).toBe('held');
  await resumePipeline(pool);
  expect(await findPause(pool)).toBeUndefined();
  const claimed = await claimListings(pool, claim);
  expect(claimed.map((claim) => claim.booking_id)).toContain(bookingId);
  expect((await snapshotOf(bookingId)).status).toBe('held');
});

test('the last 16 revisions of a booking are remembered, each with what changed', async () => {
  const { bookingId } = await insertSnapshot(pool);
  for (let quantity = 1; quantity <= 20; quantity += 1) {
    await query(pool, 'update storage_bookings set quantity_kg = $2 where id = $1', [bookingId, quantity]);
    await recompute(bookingId);
  }
  await setOverride(pool, {
    bookingId,
    reason: 'x',
    fields: { visual_defects: 'bruises' },
    expiresAt: undefined,
    ifVersion: undefined,
  });
  const rows = await query<{ revision: number; cause: string }>(
    pool,
    'select revision, cause from market_sync.revision where booking_id = $1 order by revision desc',
    [bookingId],
  );
  const { revision } = await snapshotOf(bookingId);
  expect(rows.map((row) => row.revision)).toEqual(Array.from({ length: 16 }, (_, index) => revision - index));
  expect(rows.map(({ cause }) => cause)).toEqual(['manual', ...Array.from({ length: 15 }, () => 'own')]);
});

test('I1: whatever the session of an operator is set to, a hold and a release change nothing else', async () => {
  const { bookingId } = await insertSnapshot(pool);
  const before = await snapshotOf(bookingId);
  await query(
    pool,
    `update sensor_readings set reading_value = 23.456789 where sensor_id in (
       select id from iot_sensors where location_id = (select location_id from storage_bookings where id = $1))`,
    [bookingId],
  );
  await recompute(bookingId);
  const { sensors, sensor_summary, certificates, pest_events } = await snapshotOf(bookingId);
  const client = await pool.connect();
  try {
    await client.query(
      `set extra_float_digits = -15; set timezone = 'Asia/Kolkata'; set datestyle = 'SQL, DMY'; set intervalstyle = 'iso_8601'`,
    );
    // So that everything is written anew.
    await client.query('update market_inventory_snapshots set parts_hash = 0 where booking_id = $1', [
      bookingId,
    ]);
    await client.query('select market_sync.hold(array[$1::uuid], $2)', [bookingId, 'x']);
    await client.query('select market_sync.release(array[$1::uuid])', [bookingId]);
  } finally {
    client.release(true);
  }
  const after = await snapshotOf(bookingId);
  expect(after).toMatchObject({ sensors, sensor_summary, certificates, pest_events });
  expect(after.sensors).toMatchObject({ temperature: { value: 23.456789 } });
  expect(after.start_date).toEqual(before.start_date);
});

test('I7: that MongoDB took a listing does not make a failed recompute forgotten', async () => {
  const { bookingId } = await insertSnapshot(pool);
  await query(pool, `select market_sync.record_failure($1, '22003 no such quantity', interval '0', 1)`, [
    bookingId,
  ]);
  const stateOf = () =>
    query(
      pool,
      `select failed_stage, last_error, parked_at is not null as parked, published_revision = revision as published
       from market_sync.snapshot_state where booking_id = $1`,
      [bookingId],
    );
  const failed = { failed_stage: 'reconcile', last_error: '22003 no such quantity', parked: true };
  const publish = async () => {
    const [snapshot] = await claimListings(pool, {
      publisher: 't',
      leaseSeconds: 60,
      limit: 1,
      bookingIds: [bookingId],
    });
    if (snapshot === undefined) throw new Error('nothing was claimed');
    const { epoch, revision } = snapshot;
    await markPublished(pool, [
      { bookingId, epoch, revision, listingId: '665f1c2ab7e4c81d2f9a3c1f', updatedAt: null },
    ]);
  };
  await publishNow(pool, [bookingId]);
  await publish();
  expect(await stateOf()).toEqual([{ ...failed, published: true }]);
  await recompute(bookingId);
  expect(await stateOf()).toEqual([{ failed_stage: null, last_error: null, parked: false, published: true }]);
});

test('I8: a call that is repeated with its key does not act again when somebody has decided otherwise since', async () => {
  const { bookingId } = await insertSnapshot(pool);
  const call = { caller: 'key:ops', key: 'retry-2', requestHash: Buffer.alloc(32), owner: 'first' };
  const hold = () =>
    asActor(pool, caller('retry-2'), (db) => holdBookings(db, { bookingIds: [bookingId], reason: 'x' }));
  await claimKey(pool, call);
  await hold();
  await giveBackKey(pool, call);
  await releaseBookings(pool, { bookingIds: [bookingId], reason: 'y' });
  await claimKey(pool, { ...call, owner: 'second' });
  await hold();
  expect((await snapshotOf(bookingId)).status).toBe('ready_to_publish');
  expect(await actionNames(bookingId)).toEqual(['hold', 'release']);
});

test('an override that was in force when the booking ended stays with it', async () => {
  const { bookingId } = await insertSnapshot(pool);
  await setOverride(pool, {
    bookingId,
    reason: 'x',
    fields: { grade: 'Z', quality_score: 99 },
    expiresAt: new Date(Date.now() + HOUR_MS),
    ifVersion: undefined,
  });
  await setBookingStatus(pool, bookingId, 'completed');
  const ended = await snapshotOf(bookingId);
  await recompute(bookingId, new Date(Date.now() + 2 * HOUR_MS));
  expect(await snapshotOf(bookingId)).toEqual(ended);
  expect(ended).toMatchObject({ grade: 'Z', quality_score: 99 });
  expect(await refusalOf((db) => endOverride(db, { bookingId, ifVersion: undefined }))).toBe('conflict');
});

test('I5: who leaves a hold uncommitted is ended by PostgreSQL within a minute, whatever its own setting', async () => {
  const { bookingId } = await insertSnapshot(pool);
  const limitAfter = async (own: string): Promise<unknown> => {
    const client = await pool.connect();
    try {
      await client.query(`set idle_in_transaction_session_timeout = '${own}'; begin`);
      await client.query('select market_sync.hold(array[$1::uuid], $2)', [bookingId, 'x']);
      const { rows } = await client.query('show idle_in_transaction_session_timeout');
      return rows[0].idle_in_transaction_session_timeout;
    } finally {
      client.release(true);
    }
  };
  expect([await limitAfter('0'), await limitAfter('1h'), await limitAfter('5s')]).toEqual([
    '1min',
    '1min',
    '5s',
  ]);
});

test('a change that comes while an older version is written keeps its age', async () => {
  const { bookingId } = await insertSnapshot(pool);
  const claim = { publisher: 't', leaseSeconds: 60, limit: 1, bookingIds: [bookingId] };
  const [snapshot] = await claimListings(pool, claim);
  await query(pool, 'update storage_bookings set quantity_kg = 77 where id = $1', [bookingId]);
  await reconcileBookings(pool, { bookingIds: [bookingId], now: undefined, committedAt: new Date() });
  if (snapshot === undefined) throw new Error('nothing was claimed');
  const { epoch, revision } = snapshot;
  await markPublished(pool, [
    { bookingId, epoch, revision, listingId: '665f1c2ab7e4c81d2f9a3c1f', updatedAt: null },
  ]);
  const rows = await query<{ known: boolean }>(
    pool,
    `select changed_at > clock_timestamp() - interval '1 minute' as known from market_sync.snapshot_state where booking_id = $1`,
    [bookingId],
  );
  expect(rows).toEqual([{ known: true }]);
});
