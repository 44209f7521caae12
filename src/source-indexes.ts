import { type Database, query } from './postgres.ts';
import { NO_TIMEOUT, type Step } from './step.ts';

const LIVE = `booking_status is null or booking_status not in ('completed', 'cancelled')`;

/**
 * What reconcile looks up, and the index made for it where none serves. `serves` are leading columns: an existing index
 * that begins with them is as good; without, this one's expression or predicate is what counts.
 */
const SOURCE_INDEXES: { name: string; table: string; definition: string; serves?: string[] }[] = [
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

const INDEX_LOCKS =
  'SHARE UPDATE EXCLUSIVE, which neither readers nor writers notice (a vacuum or another change of the table waits). Reads the ' +
  'whole table twice, minutes on millions of rows, and waits for transactions that were open before.';

interface Place {
  /** Quoted, with its schema. */
  table: string;
  /** Quoted: an index lives in the schema of its table. */
  schema: string;
  partitioned: boolean;
  level: number;
  oid: number;
  parent_oid: number | null;
  /** The index of ours on it, by name or as a part of the parent's. */
  own: string | null;
  own_valid: boolean | null;
  /** The index of ours is a part of the parent's already. */
  attached: boolean;
}

/**
 * What creates the indexes that reconcile needs and no existing index serves, concurrently: the tables' writers are
 * never blocked. One left invalid by a crash is made anew. PostgreSQL does not offer `concurrently` for partitioned tables: each
 * partition gets its own first, and then the parent one that takes them in.
 */
export async function planSourceIndexes(db: Database, sourceSchema: string): Promise<Step[]> {
  const steps: Step[] = [];
  for (const index of SOURCE_INDEXES) {
    const served = await query<{ served: boolean }>(db, SERVED, [
      sourceSchema,
      index.table,
      index.serves ?? [],
    ]);
    if (served[0]?.served !== false) continue;
    const places = await query<Place>(db, PLACES, [sourceSchema, index.table, index.name]);
    steps.push(...places.flatMap((place) => planPlace({ index, place, places })));
  }
  return steps;
}

/** Whether an index of a source table is one of these, by its name. */
export const isSourceIndex = (name: string): boolean => SOURCE_INDEXES.some((index) => index.name === name);

/** Names of the indexes on source tables that are ours, and those on partitions with the partition's number behind. */
export const sourceIndexPattern = (): string =>
  `^(${SOURCE_INDEXES.map(({ name }) => name).join('|')})(_[0-9]+)?$`;

const indexName = (name: string, place: Place): string => (place.level === 0 ? name : `${name}_${place.oid}`);

/** Ours as it is, or as it will be called. */
const qualifiedIndex = (name: string, place: Place): string =>
  place.own ?? `${place.schema}.${indexName(name, place)}`;

function planPlace({
  index,
  place,
  places,
}: {
  index: (typeof SOURCE_INDEXES)[number];
  place: Place;
  places: Place[];
}): Step[] {
  const name = indexName(index.name, place);
  const invalid = place.own !== null && place.own_valid === false;
  if (!place.partitioned) {
    if (place.own !== null && !invalid) return [];
    const create = `create index concurrently ${name} on ${place.table} ${index.definition}`;
    return [
      {
        title: `index ${name} on ${place.table}${invalid ? ', left invalid by a build that was ended' : ''}`,
        locks: INDEX_LOCKS,
        statements: invalid
          ? [NO_TIMEOUT, `drop index concurrently ${place.own}`, create]
          : [NO_TIMEOUT, create],
      },
    ];
  }
  // Children come before their parents, so that all of them can be taken in here.
  const children = places.filter((child) => child.parent_oid === place.oid && !child.attached);
  if (place.own !== null && children.length === 0) return [];
  const create =
    place.own === null ? [`create index ${name} on only ${place.table} ${index.definition}`] : [];
  const attach = children.map(
    (child) =>
      `alter index ${qualifiedIndex(index.name, place)} attach partition ${qualifiedIndex(index.name, child)}`,
  );
  return [
    {
      title: `index ${name} on ${place.table}, made of those of its partitions`,
      locks:
        `SHARE on ${place.table} without its partitions: writers wait for an instant, nothing is read. Given up when not to be had ` +
        'within 0.4 s, and tried again.',
      statements: [...create, ...attach],
      transaction: { tables: [{ name: place.table, mode: 'share' }] },
    },
  ];
}

/** Whether an index of anybody's serves: a valid btree over all rows that begins with these columns. */
const SERVED = `
  select exists (
    select from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_am am on am.oid = c.relam and am.amname = 'btree'
    where i.indrelid = t.oid and i.indisvalid and i.indpred is null and cardinality($3::text[]) > 0
      and i.indnkeyatts >= cardinality($3::text[])
      and (select array_agg(a.attname::text order by k.position)
           from unnest(i.indkey) with ordinality k (attnum, position)
           join pg_attribute a on a.attrelid = t.oid and a.attnum = k.attnum
           where k.position <= cardinality($3::text[])) = $3::text[]) as served
  from pg_class t where t.oid = format('%I.%I', $1::text, $2::text)::regclass`;

/** The table, or all of its partition tree, leaves first, with what there is of the index of ours. */
const PLACES = `
  with recursive place (oid, parent_oid, level) as (
    select format('%I.%I', $1::text, $2::text)::regclass::oid, null::oid, 0
    union all
    select i.inhrelid, i.inhparent, place.level + 1 from place join pg_inherits i on i.inhparent = place.oid
    join pg_class c on c.oid = i.inhrelid and c.relispartition
  )
  select format('%I.%I', n.nspname, t.relname) as "table", quote_ident(n.nspname) as schema,
    t.relkind = 'p' as partitioned, place.level,
    place.oid::bigint as oid, place.parent_oid::bigint as parent_oid,
    quote_ident(n.nspname) || '.' || quote_ident(own.relname) as own, own.indisvalid as own_valid,
    coalesce(own.parent is not null, false) as attached
  from place
  join pg_class t on t.oid = place.oid
  join pg_namespace n on n.oid = t.relnamespace
  left join lateral (
    select c.relname, i.indisvalid, inh.inhparent as parent
    from pg_index i join pg_class c on c.oid = i.indexrelid
    left join pg_inherits inh on inh.inhrelid = c.oid
    left join pg_class parent on parent.oid = inh.inhparent
    where i.indrelid = t.oid
      and (c.relname = $3 || case when place.level = 0 then '' else '_' || place.oid end
        or parent.relname = $3 or parent.relname = $3 || '_' || place.parent_oid)
    order by inh.inhparent is null
    limit 1
  ) own on true
  where t.relkind in ('r', 'p')
  order by place.level desc, 1`;
