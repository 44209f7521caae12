import { EnvironmentError } from './errors.ts';
import { type Database, query, quoteName } from './postgres.ts';
import { NO_TIMEOUT, type Step } from './step.ts';

const TABLE = 'market_inventory_snapshots';

const TEXT = ['text', 'varchar'];
const WHOLE = ['int4', 'int8'];

/** The columns that other services know, with the types that what is written into them fits; the first is the remedy's. */
const COLUMNS: Record<string, { types: string[]; required?: true }> = {
  id: { types: ['uuid'], required: true },
  booking_id: { types: ['uuid'], required: true },
  farmer_id: { types: ['uuid'], required: true },
  vendor_id: { types: ['uuid'] },
  location_id: { types: ['uuid'] },
  crop_type: { types: TEXT, required: true },
  grade: { types: TEXT },
  quantity_kg: { types: WHOLE, required: true },
  start_date: { types: ['timestamptz'] },
  end_date: { types: ['timestamptz'] },
  duration_days: { types: WHOLE },
  inspection_id: { types: ['uuid'] },
  inspection_status: { types: TEXT },
  quality_score: { types: ['numeric'] },
  freshness: { types: TEXT },
  visual_defects: { types: TEXT },
  shelf_life_days: { types: WHOLE },
  sensors: { types: ['jsonb'] },
  sensor_summary: { types: ['jsonb'] },
  pest_events: { types: ['jsonb'] },
  has_pest_alerts: { types: ['bool'] },
  pest_count: { types: WHOLE },
  certificates: { types: ['jsonb'] },
  is_certified: { types: ['bool'] },
  certification_types: { types: ['_text'] },
  status: { types: TEXT, required: true },
  market_listing_id: { types: TEXT },
  published_at: { types: ['timestamptz'] },
  last_synced_at: { types: ['timestamptz'] },
  metadata: { types: ['jsonb'] },
  created_at: { types: ['timestamptz'], required: true },
  updated_at: { types: ['timestamptz'], required: true },
};

/** What is added to it, and taken away again by `uninstall`. */
export const ADDED_COLUMNS = ['epoch', 'revision', 'own_hash', 'parts_hash', 'ended_at'] as const;

/**
 * Checks that a snapshot table of the system before this one, if there is one, can be taken over in place. Throws an
 * `EnvironmentError` that names each column with its remedy. Nothing is changed.
 */
export async function verifySnapshotTable(db: Database, sourceSchema: string): Promise<void> {
  const name = `${quoteName(sourceSchema)}.${TABLE}`;
  const [table] = await query<{ kind: string }>(
    db,
    'select relkind as kind from pg_class where oid = to_regclass($1)',
    [name],
  );
  if (table === undefined) return;
  if (table.kind !== 'r') {
    throw refusal(sourceSchema, [`it is not a plain table (rename it: alter table ${TABLE} rename to …)`]);
  }
  const faults = [...(await findColumnFaults(db, name)), ...(await findConstraintFaults(db, name))];
  if (faults.length === 0) faults.push(...(await findRowFaults(db, name)));
  if (faults.length > 0) throw refusal(sourceSchema, faults);
}

const refusal = (sourceSchema: string, faults: string[]): EnvironmentError =>
  new EnvironmentError(
    `SOURCE_SCHEMA=${sourceSchema}: the table ${TABLE} of the system before this one cannot be taken over as it is: ` +
      `${faults.join('; ')}. Nothing was changed.`,
  );

const alter = (rest: string): string => `alter table ${TABLE} ${rest}`;

async function findColumnFaults(db: Database, name: string): Promise<string[]> {
  const columns = await query<{
    column: string;
    base_type: string;
    type: string;
    required: boolean;
    filled: boolean;
  }>(
    db,
    `select a.attname as column, t.typname as base_type, format_type(a.atttypid, a.atttypmod) as type,
       a.attnotnull as required, a.atthasdef or a.attidentity <> '' as filled
     from pg_attribute a join pg_type t on t.oid = a.atttypid
     where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped
     order by a.attnum`,
    [name],
  );
  const found = new Map(columns.map((column) => [column.column, column]));
  const faults: string[] = [];
  for (const [column, { types, required }] of Object.entries(COLUMNS)) {
    const there = found.get(column);
    const type = types[0]?.replace(/^_(.*)$/, '$1[]') ?? '';
    if (there === undefined) {
      faults.push(`there is no column ${column} (${alter(`add column ${column} ${type}`)})`);
    } else if (!types.includes(there.base_type)) {
      faults.push(
        `column ${column} is ${there.type}, not ${type} (${alter(`alter column ${column} type ${type} using ${column}::${type}`)})`,
      );
    } else if (there.required && required === undefined) {
      faults.push(`column ${column} takes no nulls (${alter(`alter column ${column} drop not null`)})`);
    }
  }
  if (found.get('id')?.filled === false) {
    faults.push(`column id has no default (${alter('alter column id set default gen_random_uuid()')})`);
  }
  for (const { column, required, filled } of columns) {
    const known = column in COLUMNS || (ADDED_COLUMNS as readonly string[]).includes(column);
    if (!known && required && !filled) {
      faults.push(
        `column ${column} must be filled, and nobody will (${alter(`alter column ${column} drop not null`)})`,
      );
    }
  }
  return faults;
}

/** A booking may be deleted, and its snapshot stays until its listing is withdrawn and cleaned up. */
async function findConstraintFaults(db: Database, name: string): Promise<string[]> {
  const rows = await query<{ constraint: string; definition: string }>(
    db,
    `select conname as constraint, pg_get_constraintdef(oid) as definition from pg_constraint
     where conrelid = to_regclass($1) and contype = 'f' order by 1`,
    [name],
  );
  return rows.map(
    ({ constraint, definition }) =>
      `${definition} would delete snapshots whose listing is still to be withdrawn, or refuse deletes of the application ` +
      `(${alter(`drop constraint ${quoteName(constraint)}`)})`,
  );
}

async function findRowFaults(db: Database, name: string): Promise<string[]> {
  const unique = await query(
    db,
    `select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
     where i.indrelid = to_regclass($1) and i.indisunique and i.indisvalid and i.indpred is null and i.indnkeyatts = 1
       and a.attname = 'booking_id' and a.attnotnull`,
    [name],
  );
  if (unique.length > 0) return [];
  const [rows] = await query<{ nulls: boolean; doubles: string[] }>(
    db,
    `select exists (select from ${name} where booking_id is null) as nulls,
       array(select booking_id::text from ${name} where booking_id is not null
             group by booking_id having count(*) > 1 limit 3) as doubles`,
  );
  return [
    ...(rows?.nulls === true
      ? [`rows without booking_id (delete from ${TABLE} where booking_id is null)`]
      : []),
    ...(rows !== undefined && rows.doubles.length > 0
      ? [`booking_id is there twice, as ${rows.doubles.join(', ')} (delete the older row of each)`]
      : []),
  ];
}

/** The indexes of migration 001 on a table that has rows already: building them there would keep everybody out meanwhile. */
const INDEXES: { name: string; unique?: true; definition: string }[] = [
  { name: `${TABLE}_booking_id_key`, unique: true, definition: '(booking_id)' },
  { name: `${TABLE}_farmer_id_idx`, definition: '(farmer_id)' },
  { name: `${TABLE}_location_id_idx`, definition: '(location_id)' },
  { name: `${TABLE}_created_at_idx`, definition: '(created_at, booking_id)' },
  { name: `${TABLE}_status_idx`, definition: 'using brin (status)' },
];

/** Builds the indexes of a table that is taken over beforehand and concurrently; the migration then finds them there. */
export async function planSnapshotIndexes(db: Database, sourceSchema: string): Promise<Step[]> {
  const schema = quoteName(sourceSchema);
  const table = `${schema}.${TABLE}`;
  const rows = await query<{ name: string; valid: boolean | null }>(
    db,
    `select wanted.name, i.indisvalid as valid
     from unnest($2::text[]) with ordinality as wanted (name, position)
     left join pg_class c on c.relname = wanted.name
       and c.relnamespace = (select relnamespace from pg_class where oid = to_regclass($1))
     left join pg_index i on i.indexrelid = c.oid
     where to_regclass($1) is not null and (c.oid is null or not i.indisvalid)
     order by wanted.position`,
    [table, INDEXES.map(({ name }) => name)],
  );
  return rows.flatMap(({ name, valid }) => {
    const index = INDEXES.find((entry) => entry.name === name);
    if (index === undefined) return [];
    return {
      title: `index ${name} on ${TABLE}, which is taken over`,
      locks:
        'SHARE UPDATE EXCLUSIVE, which neither readers nor writers notice. Reads the whole table twice, and waits for transactions ' +
        'that were open before.',
      statements: [
        NO_TIMEOUT,
        ...(valid === false ? [`drop index concurrently ${schema}.${name}`] : []),
        `create ${index.unique === true ? 'unique ' : ''}index concurrently ${name} on ${table} ${index.definition}`,
      ],
    };
  });
}
