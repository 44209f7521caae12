import { EnvironmentError } from './errors.ts';
import { type Database, query } from './postgres.ts';

/**
 * What a column must be for snapshots to be computed from it. `integer` is written into an integer, `number` into JSON; a time
 * without a zone would mean something else in each session, and an enum or a number in the place of a text fails when it
 * is compared with one.
 */
export type ColumnKind = 'uuid' | 'text' | 'integer' | 'number' | 'numeric' | 'boolean' | 'time' | 'date';

/** Names of types in pg_type, and the one to change to. */
export const COLUMN_KINDS: Record<ColumnKind, { types: string[]; wanted: string }> = {
  uuid: { types: ['uuid'], wanted: 'uuid' },
  text: { types: ['text', 'varchar', 'bpchar'], wanted: 'text' },
  integer: { types: ['int2', 'int4', 'int8'], wanted: 'integer' },
  number: { types: ['int2', 'int4', 'int8', 'float4', 'float8', 'numeric'], wanted: 'double precision' },
  numeric: { types: ['numeric'], wanted: 'numeric' },
  boolean: { types: ['bool'], wanted: 'boolean' },
  time: { types: ['timestamptz'], wanted: 'timestamptz' },
  date: { types: ['date'], wanted: 'date' },
};

/** The columns of the application's tables that snapshots are made from. */
export const SOURCE_COLUMNS: Record<string, Record<string, ColumnKind>> = {
  storage_bookings: {
    id: 'uuid',
    farmer_id: 'uuid',
    location_id: 'uuid',
    vendor_id: 'uuid',
    crop_type: 'text',
    quantity_kg: 'integer',
    grade: 'text',
    duration_days: 'integer',
    start_date: 'time',
    end_date: 'time',
    booking_status: 'text',
    ai_inspection_id: 'uuid',
  },
  crop_inspections: {
    id: 'uuid',
    freshness: 'text',
    freshness_score: 'numeric',
    visual_defects: 'text',
    shelf_life_days: 'integer',
  },
  iot_sensors: { id: 'uuid', location_id: 'uuid', sensor_type: 'text', status: 'text', created_at: 'time' },
  sensor_readings: {
    id: 'uuid',
    sensor_id: 'uuid',
    reading_value: 'number',
    reading_unit: 'text',
    reading_time: 'time',
    alert_triggered: 'boolean',
  },
  pest_detections: {
    id: 'uuid',
    location_id: 'uuid',
    pest_type: 'text',
    severity_level: 'text',
    confidence_score: 'number',
    action_taken: 'text',
    detected_at: 'time',
    resolved_at: 'time',
    created_at: 'time',
  },
  compliance_certificates: {
    id: 'uuid',
    vendor_id: 'uuid',
    certificate_type: 'text',
    certificate_number: 'text',
    issuing_authority: 'text',
    issue_date: 'date',
    expiry_date: 'date',
    status: 'text',
    document_url: 'text',
    score: 'number',
  },
  storage_certificates: {
    id: 'uuid',
    booking_id: 'uuid',
    certificate_number: 'text',
    certificate_status: 'text',
    issued_date: 'time',
    issued_by: 'text',
    digital_signature: 'text',
  },
};

/** The tables with capture triggers, the busiest first: while it is waited for, nothing else is locked yet. */
export const CAPTURED_TABLES = [
  'sensor_readings',
  'iot_sensors',
  'pest_detections',
  'crop_inspections',
  'compliance_certificates',
  'storage_certificates',
] as const;

/** What is wrong with the application's tables, and what to do about each. */
export interface SourceFault {
  /** `table`, or `table.column`. */
  name: string;
  fault: string;
  remedy: string;
}

export interface SourceShape {
  faults: SourceFault[];
  /** Changes when one of the columns is made anew or gets another type, and not when others come and go. */
  fingerprint: string;
}

/** Compares the application's tables, those of the session's search path unless named, with what snapshots are made from. */
export async function readSourceShape(db: Database, sourceSchema?: string): Promise<SourceShape> {
  const wanted = Object.entries(SOURCE_COLUMNS).flatMap(([table, columns]) =>
    Object.entries(columns).map(([column, kind]) => ({ table, column, kind })),
  );
  const found = await query<{
    table_exists: boolean;
    base_type: string | null;
    type: string | null;
    place: string | null;
  }>(
    db,
    `select c.oid is not null as table_exists, format_type(a.atttypid, a.atttypmod) as type,
       base.typname as base_type, concat_ws(':', a.attrelid, a.attnum, a.atttypid, a.atttypmod) as place
     from unnest($2::text[], $3::text[]) with ordinality as wanted (table_name, column_name, position)
     left join pg_class c on c.relname = wanted.table_name and c.relkind in ('r', 'p', 'v', 'f')
       and c.relnamespace = (select oid from pg_namespace where nspname = coalesce($1, current_schema()))
     left join pg_attribute a on a.attrelid = c.oid and a.attname = wanted.column_name and a.attnum > 0
       and not a.attisdropped
     left join pg_type t on t.oid = a.atttypid
     left join pg_type base on base.oid = case when t.typtype = 'd' then t.typbasetype else t.oid end
     order by wanted.position`,
    [sourceSchema ?? null, wanted.map((entry) => entry.table), wanted.map((entry) => entry.column)],
  );
  const faults: SourceFault[] = [];
  wanted.forEach(({ table, column, kind }, index) => {
    const row = found[index];
    const name = `${table}.${column}`;
    if (row?.table_exists !== true) {
      // Once for all of its columns.
      if (!faults.some((known) => known.name === table)) {
        faults.push({
          name: table,
          fault: `there is no table ${table}`,
          remedy: 'restore it, or rename it back',
        });
      }
    } else if (row.base_type === null) {
      faults.push({
        name,
        fault: `there is no column ${name}`,
        remedy: `alter table ${table} rename column … to ${column}, or add column ${column} ${COLUMN_KINDS[kind].wanted}`,
      });
    } else if (!COLUMN_KINDS[kind].types.includes(row.base_type)) {
      faults.push({
        name,
        fault: `${name} is ${row.type}, not ${COLUMN_KINDS[kind].wanted}`,
        remedy: `alter table ${table} alter column ${column} type ${COLUMN_KINDS[kind].wanted} using …`,
      });
    }
  });
  return { faults, fingerprint: found.map((row) => row.place ?? '').join(' ') };
}

/** The faults as one sentence each, the remedy with it. */
export const describeFaults = (faults: SourceFault[]): string =>
  faults.map(({ fault, remedy }) => `${fault} (${remedy})`).join('; ');

/**
 * Checks the application's tables before anything is created. Throws an `EnvironmentError` that lists what is missing or of
 * a type that cannot be used, or says that bookings cannot be published without making the application's updates fail.
 */
export async function verifySource(db: Database, sourceSchema: string): Promise<void> {
  const { faults } = await readSourceShape(db, sourceSchema);
  if (faults.length > 0) {
    throw new EnvironmentError(
      `SOURCE_SCHEMA=${sourceSchema}: this is not a Storage Guard database, or one this version does not know. ` +
        `Found: ${describeFaults(faults)}. Mend the tables, or point DATABASE_URL and SOURCE_SCHEMA at it.`,
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
export async function hasUsableIdentity(db: Database, sourceSchema: string): Promise<boolean> {
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
