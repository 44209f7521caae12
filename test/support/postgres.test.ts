import pg from 'pg';
import { expect, test } from 'vitest';
import { createDatabase } from './postgres.ts';

test('a database made from a template has the tables and no rows of another test', async () => {
  const first = await createDatabase();
  const second = await createDatabase({ template: 'storage_guard' });
  await first.pool.query("insert into vendors (name) values ('only in the first')");
  const { rows } = await second.pool.query('select count(*)::int as count from vendors');
  expect(rows).toEqual([{ count: 0 }]);
  await first.drop();
  await second.drop();
});

test('a migrated database has the snapshots, and tests that ask at once share one template', async () => {
  const databases = await Promise.all([1, 2, 3].map(() => createDatabase({ template: 'migrated' })));
  for (const { drop, pool } of databases) {
    const { rows } = await pool.query('select count(*)::int as count from market_inventory_snapshots');
    expect(rows).toEqual([{ count: 0 }]);
    await drop();
  }
});

test('dropping a database takes its slots and connections along', async () => {
  const database = await createDatabase({ template: 'empty' });
  await database.pool.query("select pg_create_logical_replication_slot('left_behind', 'pgoutput')");
  const streaming = new pg.Client({ connectionString: `${database.url}?replication=database` });
  const ended = new Promise((resolve) => streaming.on('error', resolve));
  await streaming.connect();
  streaming
    .query(`START_REPLICATION SLOT left_behind LOGICAL 0/0 (proto_version '1', publication_names 'none')`)
    .catch(() => undefined); // It never ends by itself; that it is cut off is what this test is about.
  const active = () =>
    database.pool.query(
      "select from pg_replication_slots where active_pid is not null and slot_name = 'left_behind'",
    );
  await expect.poll(async () => (await active()).rowCount, { timeout: 20_000 }).toBe(1);
  await database.drop();
  await ended;
  const other = await createDatabase({ template: 'empty' });
  const { rows } = await other.pool.query(
    "select 1 from pg_replication_slots where slot_name = 'left_behind'",
  );
  expect(rows).toEqual([]);
  await other.drop();
});
