import type pg from 'pg';
import type { Market } from '../../src/mongo.ts';
import { query } from '../../src/postgres.ts';
import { workAudit } from '../../src/store/drift-audit.ts';
import type { AuditContext } from '../../src/store/drift-confirm.ts';
import { type AuditRun, type KindCount, type Repair, readCounts } from '../../src/store/drift-run.ts';
import { testLog } from '../support/pipeline.ts';

export interface Audited {
  run: AuditRun;
  counts: KindCount[];
  /** `kind` → booking or document, of what was found. */
  found: Map<string, string[]>;
}

export function auditContext(
  { pool, market }: { pool: pg.Pool; market: Market },
  overrides: Partial<AuditContext> = {},
): AuditContext {
  const log = testLog();
  return {
    pool,
    market,
    log,
    clock: () => undefined,
    publish: {
      pool,
      market,
      log,
      publisher: 'test audit',
      leaseSeconds: 60,
      attemptsMax: 5,
      random: () => 0.5,
    },
    chunkMax: 2_000,
    reconcileMax: 250,
    publishMax: 200,
    signal: new AbortController().signal,
    ...overrides,
  };
}

/** One audit from beginning to end, in this process. */
export async function audit(ctx: AuditContext, { repair }: { repair: Repair }): Promise<Audited> {
  const run = await workAudit(ctx, { reason: 'test', requestedBy: 'test', repair, worker: 'command' });
  if (run === 'in_work' || run === undefined) throw new Error('another audit is in work');
  const { id } = run;
  const rows = await query<{ kind: string; subject: string }>(
    ctx.pool,
    `select kind, coalesce(booking_id::text, listing_id) as subject from market_sync.finding where run_id = $1 order by 1, 2`,
    [id],
  );
  const found = new Map<string, string[]>();
  for (const { kind, subject } of rows) found.set(kind, [...(found.get(kind) ?? []), subject]);
  return { run, counts: await readCounts(ctx.pool, id), found };
}

/** Many bookings that share locations and vendors, some of them ended, with every part that a snapshot has. */
export async function fill(
  pool: pg.Pool,
  { bookings, locations, readings = 2 }: { bookings: number; locations: number; readings?: number },
): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query('begin');
    await client.query(
      `create temporary table place on commit drop as
       select n, gen_random_uuid() as vendor_id, gen_random_uuid() as location_id from generate_series(1, ${locations}) n`,
    );
    await client.query(`insert into vendors (id, name) select vendor_id, 'Cold Rooms ' || n from place`);
    await client.query(
      `insert into storage_locations (id, vendor_id, name) select location_id, vendor_id, 'Hall ' || n from place`,
    );
    await client.query(
      `insert into iot_sensors (location_id, sensor_type, device_id, status, created_at)
       select location_id, type, type || n, 'active', now() from place, unnest(array['temperature', 'humidity', 'co2', 'gas', 'weight']) type`,
    );
    await client.query(
      `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time)
       select s.id, round((random() * 40)::numeric, 3), 'u', now() - make_interval(secs => r)
       from iot_sensors s, generate_series(1, ${readings}) r`,
    );
    await client.query(
      `insert into pest_detections (location_id, pest_type, severity_level, confidence_score, detected_at)
       select location_id, 'weevil', (array['low', 'high'])[1 + n % 2], 0.25, now() - make_interval(mins => d * 7)
       from place, generate_series(1, 3) d`,
    );
    await client.query(
      `insert into compliance_certificates (vendor_id, certificate_type, issue_date, expiry_date, status, score)
       select vendor_id, type, '2026-01-01', 'infinity', 'valid', 90 from place, unnest(array['HACCP', 'FSSAI']) type`,
    );
    await client.query(
      `with inspection as (
         insert into crop_inspections (freshness, freshness_score, visual_defects, shelf_life_days)
         select 'fresh', 87.5, 'none', 21 from generate_series(1, ${bookings}) returning id
       ), numbered as (select id, row_number() over () as n from inspection)
       insert into storage_bookings (farmer_id, vendor_id, location_id, ai_inspection_id, crop_type, grade, quantity_kg,
         booking_status, start_date, end_date, duration_days)
       select gen_random_uuid(), vendor_id, location_id, numbered.id, 'Tomato', 'A', 1000 + numbered.n, 'active',
         now(), now() + interval '30 days', 30
       from numbered join place on place.n = 1 + numbered.n % ${locations}`,
    );
    await client.query(
      `insert into storage_certificates (booking_id, certificate_number, certificate_status, issued_date)
       select id, 'SC-' || id, 'issued', now() from storage_bookings where quantity_kg % 10 = 0`,
    );
    await client.query('commit');
    await client.query('analyze');
  } finally {
    client.release();
  }
}
