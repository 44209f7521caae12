import pg from 'pg';
import { EnvironmentError } from './errors.ts';
import type { Logger } from './log.ts';
import { query } from './postgres.ts';

/** The columns of the application's tables that snapshots are made from. */
export const SOURCE_COLUMNS: Record<string, string[]> = {
  storage_bookings: [
    'id',
    'farmer_id',
    'location_id',
    'vendor_id',
    'crop_type',
    'quantity_kg',
    'grade',
    'duration_days',
    'start_date',
    'end_date',
    'booking_status',
    'ai_inspection_id',
  ],
  crop_inspections: ['id', 'freshness', 'freshness_score', 'visual_defects', 'shelf_life_days'],
  iot_sensors: ['id', 'location_id', 'sensor_type', 'status', 'created_at'],
  sensor_readings: ['id', 'sensor_id', 'reading_value', 'reading_unit', 'reading_time', 'alert_triggered'],
  pest_detections: [
    'id',
    'location_id',
    'pest_type',
    'severity_level',
    'confidence_score',
    'action_taken',
    'detected_at',
    'resolved_at',
    'created_at',
  ],
  compliance_certificates: [
    'id',
    'vendor_id',
    'certificate_type',
    'certificate_number',
    'issuing_authority',
    'issue_date',
    'expiry_date',
    'status',
    'document_url',
    'score',
  ],
  storage_certificates: [
    'id',
    'booking_id',
    'certificate_number',
    'certificate_status',
    'issued_date',
    'issued_by',
    'digital_signature',
  ],
};

const LIVE = `booking_status is null or booking_status not in ('completed', 'cancelled')`;

interface SourceIndex {
  name: string;
  table: string;
  definition: string;
  serves?: string[];
}

interface SourceIndexState {
  /** The one of that name. */
  own: 'valid' | 'invalid' | null;
  /** An index of the owner's is as good. */
  served: boolean;
  partitioned: boolean;
}

/**
 * What reconcile looks up, and the index made for it where none serves. `serves` are leading columns: an existing index
 * that begins with them is as good, unless `exact` says that this one's expression or predicate is what counts.
 */
export const SOURCE_INDEXES: readonly SourceIndex[] = [
  {
    name: 'market_sync_latest_reading',
    table: 'sensor_readings',
    definition: '(sensor_id, reading_time desc, id desc)',
    serves: ['sensor_id', 'reading_time'],
  },
  {
    name: 'market_sync_sensors_of_location',
    table: 'iot_sensors',
    definition: '(location_id)',
    serves: ['location_id'],
  },
  {
    name: 'market_sync_pests_of_location',
    table: 'pest_detections',
    definition: '(location_id, (coalesce(detected_at, created_at)))',
  },
  {
    name: 'market_sync_certificates_of_vendor',
    table: 'compliance_certificates',
    definition: '(vendor_id)',
    serves: ['vendor_id'],
  },
  {
    name: 'market_sync_certificate_of_booking',
    table: 'storage_certificates',
    definition: '(booking_id)',
    serves: ['booking_id'],
  },
  // Partial: a location may have ten live bookings and ten thousand ended ones.
  {
    name: 'market_sync_live_of_location',
    table: 'storage_bookings',
    definition: `(location_id) where ${LIVE}`,
  },
  { name: 'market_sync_live_of_vendor', table: 'storage_bookings', definition: `(vendor_id) where ${LIVE}` },
  {
    name: 'market_sync_live_of_inspection',
    table: 'storage_bookings',
    definition: `(ai_inspection_id) where ${LIVE}`,
  },
];

/**
 * Checks the application's tables before anything is created. Throws an `EnvironmentError` that lists what is missing,
 * or says that bookings cannot be published without making the application's updates fail.
 */
export async function verifySource(db: pg.ClientBase, sourceSchema: string): Promise<void> {
  const wanted = Object.entries(SOURCE_COLUMNS).flatMap(([table, columns]) =>
    columns.map((column) => ({ table, column })),
  );
  const missing = await query<{ name: string }>(
    db,
    `select format('%s.%s', wanted.table_name, wanted.column_name) as name
     from unnest($2::text[], $3::text[]) as wanted (table_name, column_name)
     left join information_schema.columns c
       on c.table_schema = $1 and c.table_name = wanted.table_name and c.column_name = wanted.column_name
     where c.column_name is null
     order by 1`,
    [sourceSchema, wanted.map((entry) => entry.table), wanted.map((entry) => entry.column)],
  );
  if (missing.length > 0) {
    throw new EnvironmentError(
      `SOURCE_SCHEMA=${sourceSchema}: this is not a Storage Guard database, or one this version does not know. ` +
        `Missing columns: ${missing.map((row) => row.name).join(', ')}. Point DATABASE_URL and SOURCE_SCHEMA at it.`,
    );
  }
  if (!(await hasUsableIdentity(db, sourceSchema))) {
    throw new EnvironmentError(
      `SOURCE_SCHEMA=${sourceSchema}: storage_bookings has no replica identity that holds its id; publishing it would make ` +
        `the application's updates and deletes fail. Give it a primary key on id: alter table storage_bookings add primary key (id)`,
    );
  }
}

/** Whether bookings can be published: else the application's updates and deletes would fail. Throws when there is no such table. */
export async function hasUsableIdentity(db: pg.ClientBase, sourceSchema: string): Promise<boolean> {
  const identity = await query<{ usable: boolean }>(
    db,
    `select c.relreplident = 'f'
       or (c.relreplident = 'd' and exists (
         select from pg_index i where i.indrelid = c.oid and i.indisprimary
           and (select attname from pg_attribute where attrelid = c.oid and attnum = i.indkey[0]) = 'id' and i.indnkeyatts = 1))
       or (c.relreplident = 'i' and exists (
         select from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = any (i.indkey)
         where i.indrelid = c.oid and i.indisreplident and a.attname = 'id')) as usable
     from pg_class c where c.oid = format('%I.storage_bookings', $1::text)::regclass`,
    [sourceSchema],
  );
  return identity[0]?.usable === true;
}

/**
 * Creates the indexes that reconcile needs and no existing index serves, one by one and concurrently: the tables'
 * writers are never blocked. One left invalid by a crash is made anew. Partitioned tables get theirs without
 * `concurrently`, which PostgreSQL does not offer for them.
 */
export async function ensureSourceIndexes(
  db: pg.ClientBase,
  { sourceSchema, log }: { sourceSchema: string; log: Logger },
): Promise<void> {
  await query(db, 'set lock_timeout = 0; set statement_timeout = 0');
  const schema = pg.escapeIdentifier(sourceSchema); // `order` and `user` are lowercase identifiers, too.
  for (const index of SOURCE_INDEXES) {
    const found = await findSourceIndex(db, { sourceSchema, index });
    if (found === undefined || found.own === 'valid' || found.served) continue;
    const concurrently = found.partitioned ? '' : 'concurrently';
    if (found.own === 'invalid') await query(db, `drop index ${concurrently} ${schema}.${index.name}`);
    await query(
      db,
      `create index ${concurrently} ${index.name} on ${schema}.${index.table} ${index.definition}`,
    );
    log.info({ index: index.name, table: index.table }, 'index created');
  }
}

/** How it stands with one of the indexes; undefined where its table is missing. */
export async function findSourceIndex(
  db: pg.ClientBase,
  { sourceSchema, index }: { sourceSchema: string; index: SourceIndex },
): Promise<SourceIndexState | undefined> {
  const rows = await query<SourceIndexState>(
    db,
    `select
       (select case when i.indisvalid then 'valid' else 'invalid' end
        from pg_index i join pg_class c on c.oid = i.indexrelid
        where i.indrelid = t.oid and c.relname = $3) as own,
       exists (
         select from pg_index i
         join pg_class c on c.oid = i.indexrelid
         join pg_am am on am.oid = c.relam and am.amname = 'btree'
         where i.indrelid = t.oid and i.indisvalid and i.indpred is null and cardinality($4::text[]) > 0
           and i.indnkeyatts >= cardinality($4::text[])
           and (select array_agg(a.attname::text order by k.position)
                from unnest(i.indkey) with ordinality k (attnum, position)
                join pg_attribute a on a.attrelid = t.oid and a.attnum = k.attnum
                where k.position <= cardinality($4::text[])) = $4::text[]) as served,
       t.relkind = 'p' as partitioned
     from pg_class t where t.oid = to_regclass(format('%I.%I', $1::text, $2::text))`,
    [sourceSchema, index.table, index.name, index.serves ?? []],
  );
  return rows[0];
}
