import type pg from 'pg';
import { query } from '../../src/postgres.ts';
import { createRandom } from '../../test/support/random.ts';
import type { BenchCase } from '../bench-case.ts';
import { rebuildByPolling } from '../polling-way.ts';
import { type Result, toResult } from '../result.ts';
import { makeDatabase, openCluster } from '../stage.ts';
import { median } from '../statistics.ts';

const SIZES = [
  { bookings: 25, reach: '>= 15', batches: 40 },
  { bookings: 1_000, reach: '>= 30', batches: 4 },
];

/**
 * Cost of one snapshot: recomputed set-based after a reading at each location, against the polling system's way. One
 * connection each, without waiting for the disk, which would favour whoever commits once for many.
 */
export const reconcile: BenchCase = {
  name: 'reconcile',
  run: async ({ scope, quick, seed, progress }) => {
    const share = quick ? 10 : 1;
    const size = { locations: 2_000 / share, bookings: 50_000 / share, readings: 5_000_000 / share };
    const cluster = await openCluster(scope);
    progress(`filling ${size.bookings} bookings, ${size.readings} readings`);
    const { pool } = await makeDatabase(scope, cluster, { name: 'world', size, seed, migrated: true });
    const client = await pool.connect();
    scope.add(client, async () => client.release(true));
    await query(client, 'set synchronous_commit = off');
    const rows = await query<{ id: string }>(
      client,
      'select id from storage_bookings order by location_id, id',
    );
    const ids = rows.map(({ id }) => id);
    for (let first = 0; first < ids.length; first += 1_000)
      await recompute(client, ids.slice(first, first + 1_000));
    await query(client, 'vacuum analyze');
    await query(client, 'checkpoint');

    const random = createRandom(seed);
    const samples = new Map<string, number[]>();
    const note = (name: string, value: number): void =>
      void samples.set(name, [...(samples.get(name) ?? []), value]);
    for (let round = 0; round < (quick ? 4 : 8); round += 1) {
      progress(`round ${round + 1}`);
      const polling: number[] = [];
      for (let number = 0; number < 150; number += 1) {
        polling.push(await timed(() => rebuildByPolling(client, random.pick(ids))));
      }
      const pollingUs = median(polling) * 1_000;
      note('polling', pollingUs);
      for (const { bookings, batches } of SIZES) {
        const [changed, unchanged]: [number[], number[]] = [[], []];
        for (let number = 0; number < batches; number += 1) {
          // Bookings of whole locations, as readings make them dirty.
          const first = random.below((ids.length - bookings) / 25 + 1) * 25;
          const batch = ids.slice(first, first + bookings);
          await report(client, batch);
          changed.push(((await timed(() => recompute(client, batch))) * 1_000) / bookings);
          unchanged.push(((await timed(() => recompute(client, batch))) * 1_000) / bookings);
        }
        note(`changed ${bookings}`, median(changed));
        note(`ratio ${bookings}`, pollingUs / median(changed));
        note(`unchanged ${bookings}`, median(unchanged) / median(changed));
      }
    }
    const of = (name: string): number[] => samples.get(name) ?? [];
    const result = (what: string, name: string, unit: string, reach?: string): Result =>
      toResult({
        name: 'reconcile',
        case: what,
        unit,
        samples: of(name),
        ...(reach === undefined ? {} : { reach }),
      });
    return [
      ...SIZES.map(({ bookings, reach }) =>
        result(`${bookings} bookings, against one at a time`, `ratio ${bookings}`, '×', reach),
      ),
      ...SIZES.map(({ bookings }) =>
        result(`${bookings} bookings, unchanged against changed`, `unchanged ${bookings}`, '×', '<= 0.5'),
      ),
      ...SIZES.map(({ bookings }) =>
        result(`${bookings} bookings, one snapshot`, `changed ${bookings}`, 'µs'),
      ),
      result('polling, one snapshot', 'polling', 'µs'),
    ];
  },
};

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}

const recompute = (client: pg.PoolClient, ids: string[]): Promise<unknown> =>
  query(client, 'select count(*) from market_sync.reconcile_bookings($1, null, null)', [ids]);

/** One reading at each location of these bookings. */
const report = (client: pg.PoolClient, ids: string[]): Promise<unknown> =>
  query(
    client,
    `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
     select s.id, random() * 30, '°C', clock_timestamp() from iot_sensors s
     where s.sensor_type = 'temperature'
       and s.location_id in (select location_id from storage_bookings where id = any ($1))`,
    [ids],
  );
