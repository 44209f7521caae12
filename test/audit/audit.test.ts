import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';
import { CORRUPTIONS } from './corruptions.ts';
import { audit, auditContext, fill } from './stage.ts';

let scene: Scene;

/** Bookings that each corruption is done to: more than a thousand in all. */
const EACH = 19;

beforeAll(async () => {
  scene = await createScene();
  await scene.start();
  await fill(scene.database.pool, { bookings: (CORRUPTIONS.length + 3) * EACH, locations: 30 });
  await scene.settle();
  await query(
    scene.database.pool,
    `with chosen as (select id, row_number() over (order by id) as n from storage_bookings)
     update storage_bookings b set booking_status = (array['completed', 'cancelled'])[1 + chosen.n % 2]
     from chosen where b.id = chosen.id and chosen.n <= $1`,
    [3 * EACH],
  );
  await query(
    scene.database.pool,
    `delete from storage_bookings where id in (
       select id from storage_bookings where booking_status = 'active' order by id limit $1)`,
    [2 * EACH],
  );
  await scene.settle();
  // What it finds is the history check's, and would have everything published again.
  await until('history is checked', async () => {
    const [row] = await query<{ checked: boolean }>(
      scene.database.pool,
      'select history_checked_for is not null as checked from market_sync.checkpoint',
    );
    return row?.checked === true;
  });
});

afterAll(() => scene.stop());

const servers = () => ({ pool: scene.database.pool, market: scene.market.market });

/** As many bookings as asked for, which nobody had before, of those that are live, ended or gone. */
async function takeBookings(of: 'live' | 'ended' | 'gone', taken: Set<string>): Promise<string[]> {
  const rows = await query<{ id: string }>(
    scene.database.pool,
    `select s.booking_id as id from market_inventory_snapshots s left join storage_bookings b on b.id = s.booking_id
     where s.booking_id <> all ($1) and case $2 when 'gone' then b.id is null when 'live' then b.booking_status = 'active'
       else b.booking_status in ('completed', 'cancelled') end
     order by 1 limit $3`,
    [[...taken], of, EACH],
  );
  expect(rows).toHaveLength(EACH);
  for (const { id } of rows) taken.add(id);
  return rows.map(({ id }) => id);
}

test('row 26: an audit finds every listing and snapshot that was corrupted, and nothing else; a repair mends all of it', async () => {
  const clean = await audit(auditContext(servers()), { repair: 'off' });
  expect(clean.counts).toEqual([]);

  await scene.market.market.listings.dropIndex('booking_id').catch(async () => {
    for (const { name, key } of await scene.market.market.listings.listIndexes().toArray()) {
      if (JSON.stringify(key) === '{"booking_id":1}') await scene.market.market.listings.dropIndex(name);
    }
  });
  const expected = new Map<string, string[]>();
  const taken = new Set<string>();
  for (const { expected: kind, of = 'live', corrupt } of CORRUPTIONS) {
    const ids = await takeBookings(of, taken);
    const subjects = (await corrupt(servers(), ids)) ?? ids;
    expected.set(kind, [...(expected.get(kind) ?? []), ...subjects].toSorted());
  }
  expect([...expected.values()].flat().length).toBeGreaterThan(1_000);

  const looked = await audit(auditContext(servers()), { repair: 'off' });
  for (const [kind, ids] of expected) expect(looked.found.get(kind), kind).toEqual(ids);
  expect([...looked.found.keys()].toSorted()).toEqual([...expected.keys()].toSorted());

  const repaired = await audit(auditContext(servers()), { repair: 'all' });
  for (const { kind, found, repaired: mended } of repaired.counts) {
    expect({ kind, found, mended }).toEqual({ kind, found, mended: found });
  }
  expect([...repaired.found.keys()].toSorted()).toEqual([...expected.keys()].toSorted());

  const second = await audit(auditContext(servers()), { repair: 'off' });
  expect(second.counts).toEqual([]);
  expect(second.run.in_flight).toBe(0);
  await scene.settle();
  const live = await query<{ id: string }>(
    scene.database.pool,
    `select id from storage_bookings where id = any ($1) and booking_status = 'active' order by id`,
    [[...taken]],
  );
  await scene.expectConverged(live.map(({ id }) => id).filter((_, index) => index % 5 === 0));
});

test('row 35: when the collection is gone an audit finds every listing missing, and publishes them again under their ids', async () => {
  const { listings } = scene.market.market;
  const readIds = async (): Promise<string[]> =>
    (await listings.find({}).project({ booking_id: 1 }).toArray()).map(({ _id }) => String(_id)).toSorted();
  const before = await readIds();
  await listings.drop();
  const looked = await audit(auditContext(servers()), { repair: 'off' });
  expect(looked.counts.map(({ kind, found }) => ({ kind, found }))).toEqual([
    { kind: 'listing_missing', found: before.length },
  ]);
  // What the scheduled one may mend by default.
  await audit(auditContext(servers(), { chunkMax: 300 }), { repair: 'safe' });
  expect(await readIds()).toEqual(before);
  expect((await listings.indexes()).filter(({ unique }) => unique === true)).not.toEqual([]);
  expect((await audit(auditContext(servers()), { repair: 'off' })).counts).toEqual([]);
});

test('row 22: what was written while triggers were disabled is found by an audit, and mended', async () => {
  const { pool } = scene.database;
  const [location] = await query<{ id: string; bookings: string[] }>(
    pool,
    `select location_id as id, array_agg(id::text order by id) as bookings from storage_bookings
     where booking_status = 'active' group by 1 order by 1 limit 1`,
  );
  const triggers = await query<{ name: string }>(
    pool,
    `select quote_ident(tgname) as name from pg_trigger where tgrelid = 'sensor_readings'::regclass and not tgisinternal`,
  );
  expect(triggers).not.toEqual([]);
  const all = (change: string): string =>
    triggers.map(({ name }) => `alter table sensor_readings ${change} trigger ${name};`).join('\n');
  await query(
    pool,
    `begin; ${all('disable')}
     insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
     select id, 99, 'u', now() from iot_sensors where location_id = '${location?.id}' limit 1;
     ${all('enable always')} commit;`,
  );
  await scene.settle();
  const looked = await audit(auditContext(servers()), { repair: 'safe' });
  expect(looked.found).toEqual(new Map([['snapshot_differs', location?.bookings]]));
  expect((await audit(auditContext(servers()), { repair: 'off' })).counts).toEqual([]);
  await scene.settle();
  await scene.expectConverged(location?.bookings.slice(0, 3));
});

test('row 35: when MongoDB is put back to an older backup an audit finds all that is behind, missing or gone since, and mends it', async () => {
  const { pool } = scene.database;
  const { listings } = scene.market.market;
  const chosen = await query<{ id: string }>(
    pool,
    `select id from storage_bookings where booking_status = 'active' order by id limit 12`,
  );
  const ids = chosen.map(({ id }) => id);
  const [changed, ended, ...gone] = [ids.slice(0, 6), ids.slice(6, 9), ...ids.slice(9)];
  const backup = await listings.find({}).toArray();
  await query(pool, 'update storage_bookings set quantity_kg = quantity_kg + 1 where id = any ($1)', [
    changed,
  ]);
  await query(pool, `update storage_bookings set booking_status = 'completed' where id = any ($1)`, [ended]);
  const added = await query<{ id: string }>(
    pool,
    `insert into storage_bookings (farmer_id, crop_type, quantity_kg, booking_status)
     select gen_random_uuid(), 'Rice', n, 'active' from generate_series(1, 5) n returning id`,
  );
  await scene.settle();
  // Cleaned up since: of these the backup knows more than PostgreSQL.
  await query(pool, 'delete from storage_bookings where id = any ($1)', [gone]);
  await scene.settle();
  await query(pool, 'delete from market_inventory_snapshots where booking_id = any ($1)', [gone]);
  await query(pool, 'delete from market_sync.snapshot_state where booking_id = any ($1)', [gone]);

  await listings.deleteMany({});
  await listings.insertMany(backup);
  const looked = await audit(auditContext(servers()), { repair: 'off' });
  expect(looked.found).toEqual(
    new Map([
      ['listing_missing', added.map(({ id }) => id).toSorted()],
      ['listing_orphan', gone.toSorted()],
      ['listing_stale', [...changed, ...ended].toSorted()],
    ]),
  );
  await audit(auditContext(servers()), { repair: 'safe' });
  expect((await audit(auditContext(servers()), { repair: 'off' })).counts).toEqual([]);
  await scene.settle();
  await scene.expectConverged([...changed, ...added.map(({ id }) => id)]);
  for (const id of ended) expect((await scene.listing(id))?.status).toBe('completed');
  for (const id of gone) expect(await scene.listing(id)).toBeUndefined();
});

test('a safe repair leaves what this project cannot have written', async () => {
  const { listings } = scene.market.market;
  const strangers = [
    { booking_id: 17 },
    { booking_id: randomUUID(), crop_type: 'Rice' },
    { crop_type: 'Rice' },
  ];
  await listings.insertMany(strangers as never);
  const safe = await audit(auditContext(servers()), { repair: 'safe' });
  expect(safe.counts.map(({ kind, found, repaired }) => [kind, found, repaired])).toEqual([
    ['listing_orphan', 1, 0],
    ['listing_stray', 2, 0],
  ]);
  const all = await audit(auditContext(servers()), { repair: 'all' });
  expect(all.counts.map(({ kind, found, repaired }) => [kind, found, repaired])).toEqual([
    ['listing_orphan', 1, 1],
    ['listing_stray', 2, 2],
  ]);
});
