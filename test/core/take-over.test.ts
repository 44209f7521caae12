import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { EnvironmentError } from '../../src/errors.ts';
import { migrate } from '../../src/migrate.ts';
import { query } from '../../src/postgres.ts';
import { describeCatalog } from '../support/catalog.ts';
import { OLD_SNAPSHOTS } from '../support/old-system.ts';
import { testLog } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
  await run(OLD_SNAPSHOTS);
});
afterEach(() => database.drop());

const run = (sql: string) => query(database.pool, sql);
const install = () => migrate({ pool: database.pool, sourceSchema: 'public', log: testLog() });

describe('a snapshot table of the system before this one', () => {
  test.each([
    [
      'alter table market_inventory_snapshots alter column id type varchar(64)',
      'column id is character varying(64), not uuid',
      'alter column id type uuid using id::uuid',
    ],
    [
      'alter table market_inventory_snapshots alter column sensors type json using sensors::json',
      'column sensors is json, not jsonb',
      'alter column sensors type jsonb using sensors::jsonb',
    ],
    [
      'alter table market_inventory_snapshots drop column pest_count',
      'there is no column pest_count',
      'add column pest_count int4',
    ],
    [
      'alter table market_inventory_snapshots alter column certification_types type jsonb using null',
      'column certification_types is jsonb, not text[]',
      'alter column certification_types type text[]',
    ],
    [
      'alter table market_inventory_snapshots alter column created_at type timestamp',
      'column created_at is timestamp without time zone, not timestamptz',
      'alter column created_at type timestamptz',
    ],
    [
      'alter table market_inventory_snapshots alter column id drop default',
      'column id has no default',
      'alter column id set default gen_random_uuid()',
    ],
    [
      'alter table market_inventory_snapshots alter column vendor_id set not null',
      'column vendor_id takes no nulls',
      'alter column vendor_id drop not null',
    ],
    [
      'alter table market_inventory_snapshots add column poll_group int not null',
      'column poll_group must be filled',
      'alter column poll_group drop not null',
    ],
    [
      'alter table market_inventory_snapshots add constraint its_booking foreign key (booking_id) references storage_bookings on delete cascade',
      'would delete snapshots whose listing is still to be withdrawn',
      'drop constraint "its_booking"',
    ],
    [
      `insert into market_inventory_snapshots (farmer_id) values (gen_random_uuid())`,
      'rows without booking_id',
      'delete from market_inventory_snapshots where booking_id is null',
    ],
    [
      `alter table market_inventory_snapshots drop constraint market_inventory_snapshots_booking_id_key;
      insert into market_inventory_snapshots (booking_id) select '00000000-0000-4000-8000-000000000001' from generate_series(1, 2)`,
      'booking_id is there twice, as 00000000-0000-4000-8000-000000000001',
      'delete the older row',
    ],
  ])(
    'that cannot be taken over is refused by column and remedy, and nothing is changed: %s',
    async (change, fault, remedy) => {
      await run(change);
      const before = await describeCatalog(database.pool);
      const error = await install().then(
        () => undefined,
        (reason: unknown) => reason as Error,
      );
      expect(error).toBeInstanceOf(EnvironmentError);
      expect(error?.message).toContain('SOURCE_SCHEMA=public: the table market_inventory_snapshots');
      expect(error?.message).toContain(fault);
      expect(error?.message).toContain(remedy);
      expect(await describeCatalog(database.pool)).toEqual(before);
    },
  );

  test('is taken with wider types, other defaults and columns of its own, and keeps its rows', async () => {
    await run(`alter table market_inventory_snapshots alter column status type text, alter column quantity_kg type bigint,
      add column polled_at timestamptz, add column note text not null default 'kept'`);
    await run(`insert into market_inventory_snapshots (booking_id, status, market_listing_id)
      values ('00000000-0000-4000-8000-000000000001', 'published', '65a1b2c3d4e5f60718293a4b')`);
    await install();
    expect(
      await run('select status, market_listing_id, note, revision from market_inventory_snapshots'),
    ).toEqual([
      { status: 'published', market_listing_id: '65a1b2c3d4e5f60718293a4b', note: 'kept', revision: 0 },
    ]);
  });

  test('that had an index build interrupted gets a valid one', async () => {
    await run(
      'alter table market_inventory_snapshots drop constraint market_inventory_snapshots_booking_id_key',
    );
    await run(
      'create unique index market_inventory_snapshots_booking_id_key on market_inventory_snapshots (booking_id)',
    );
    await run(
      `update pg_index set indisvalid = false where indexrelid = 'market_inventory_snapshots_booking_id_key'::regclass`,
    );
    await install();
    expect(
      await run(
        `select indisvalid from pg_index where indexrelid = 'market_inventory_snapshots_booking_id_key'::regclass`,
      ),
    ).toEqual([{ indisvalid: true }]);
  });
});
