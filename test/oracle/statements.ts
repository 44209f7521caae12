import type { Command } from './commands.ts';
import { type Cell, TABLE_NAMES, TABLES, type TableName } from './tables.ts';

/** What turns a command's cells into values: ids are the history's own, times hang on the clock. */
export type Binding = Readonly<{ nonce: string; now: Date }>;

/** A statement with values, and the same as one line to read. */
export type Statement = { text: string; values: (string | null)[] };

/** Ids are scattered, so that the order of ids is not the order of creation; the same in every history. */
const SCATTER = ['9c', '0a', 'f3', '5e', 'b1', '27', 'd8', '4b', '83', '16', 'ef', '60'];

/** The id of a named row. `nonce` (12 hex digits) stands last, so that it does not change the order of ids. */
export function idOf(table: TableName | 'users', row: number, nonce: string): string {
  const kind = table === 'users' ? 0 : TABLE_NAMES.indexOf(table) + 1;
  const scattered = SCATTER[row];
  if (scattered === undefined) throw new RangeError(`no such row: ${table} ${row}`);
  return `${scattered}00${String(kind).padStart(4, '0')}-0000-4000-8000-${nonce}`;
}

export function statementsOf(command: Command, binding: Binding): Statement[] {
  switch (command.do) {
    case 'put':
      return putStatements(command, binding);
    case 'set':
      return [setStatement(command, binding)];
    case 'delete':
      return [deleteStatement(command, binding)];
    case 'delete children':
      return [
        {
          text: `delete from ${command.table} where ${command.column} = $1::uuid`,
          values: [idOf(command.parent, command.row, binding.nonce)],
        },
      ];
    case 'load readings':
      return [
        bulkStatement(LOAD_READINGS, { ...command, parentId: sensorId(command.sensor, binding) }, binding),
      ];
    case 'load detections': {
      const parentId = idOf('storage_locations', command.location, binding.nonce);
      return [bulkStatement(LOAD_DETECTIONS, { ...command, parentId }, binding)];
    }
    case 'rename booking':
      return [
        {
          text: RENAME_BOOKING,
          values: [command.row, command.to].map((row) => idOf('storage_bookings', row, binding.nonce)),
        },
      ];
    case 'truncate':
      return [{ text: `truncate ${command.table}`, values: [] }];
  }
}

/** Only where nothing stands in the way: no booking of that id, no certificate that refers to the old one. */
const RENAME_BOOKING = `
update storage_bookings set id = $2::uuid
where id = $1::uuid
  and not exists (select from storage_bookings where id = $2::uuid)
  and not exists (select from storage_certificates where booking_id = $1::uuid)`;

const LOAD_READINGS = `
insert into sensor_readings (id, sensor_id, reading_value, reading_unit, reading_time, alert_triggered)
select (lpad(to_hex(n * 2654435761 % 4294967296), 8, '0') || $1)::uuid, s.id, n % 7 + 0.5, '°C', $3::timestamptz + n * $4::interval, n % 40 = 39
from generate_series(1, $5::int) n join iot_sensors s on s.id = $2::uuid
on conflict (id) do nothing`;

const LOAD_DETECTIONS = `
insert into pest_detections (id, location_id, pest_type, severity_level, confidence_score, detected_at)
select (lpad(to_hex(n * 2654435761 % 4294967296), 8, '0') || $1)::uuid, l.id, 'bulk ' || n, case when n % 10 = 0 then 'high' else 'low' end, n / 100.0,
       $3::timestamptz + n * $4::interval
from generate_series(1, $5::int) n join storage_locations l on l.id = $2::uuid
on conflict (id) do nothing`;

type Bulk = { tag: number; parentId: string; count: number; startMs: number; stepMs: number };

/** Ids are scattered, and depend on the tag, so that two loads may meet. */
function bulkStatement(text: string, bulk: Bulk, { nonce, now }: Binding): Statement {
  const start = new Date(now.getTime() + bulk.startMs).toISOString();
  return {
    text,
    values: [
      `-00${String(bulk.tag).padStart(2, '0')}-4000-9000-${nonce}`,
      bulk.parentId,
      start,
      `${bulk.stepMs} milliseconds`,
      String(bulk.count),
    ],
  };
}

const sensorId = (row: number, { nonce }: Binding): string => idOf('iot_sensors', row, nonce);

function putStatements(command: Extract<Command, { do: 'put' }>, binding: Binding): Statement[] {
  const { table, row, mode } = command;
  const values: (string | null)[] = [idOf(table, row, binding.nonce)];
  const names = Object.keys(command.values);
  const cells = names.map((name) => expression({ table, row, name, values }, command.values[name], binding));
  const columns = ['id', ...names].join(', ');
  const row_ = ['$1::uuid', ...cells].join(', ');
  const insert = `insert into ${table} (${columns}) values (${row_})`;
  const assignments = (source: string) => names.map((name) => `${name} = ${source}.${name}`).join(', ');
  switch (mode) {
    case 'insert':
      return [{ text: `${insert} on conflict (id) do nothing`, values }];
    case 'upsert':
      return [{ text: `${insert} on conflict (id) do update set ${assignments('excluded')}`, values }];
    case 'replace':
      return [deleteStatement(command, binding), { text: insert, values }];
    case 'merge':
      return [
        {
          text: `merge into ${table} t using (values (${row_})) s (${columns}) on t.id = s.id
when matched then update set ${assignments('s')}
when not matched then insert (${columns}) values (${['id', ...names].map((name) => `s.${name}`).join(', ')})`,
          values,
        },
      ];
  }
}

function setStatement(command: Extract<Command, { do: 'set' }>, binding: Binding): Statement {
  const { table, row } = command;
  const values: (string | null)[] = row === 'all' ? [] : [idOf(table, row, binding.nonce)];
  const names = Object.keys(command.values);
  const assignments = names.map((name) => {
    const place = { table, row: row === 'all' ? 0 : row, name, values };
    return `${name} = ${expression(place, command.values[name], binding)}`;
  });
  const where = row === 'all' ? '' : ' where id = $1::uuid';
  return { text: `update ${table} set ${assignments.join(', ')}${where}`, values };
}

const deleteStatement = (
  { table, row }: { table: TableName; row: number },
  { nonce }: Binding,
): Statement => ({
  text: `delete from ${table} where id = $1::uuid`,
  values: [idOf(table, row, nonce)],
});

type Place = { table: TableName; row: number; name: string; values: (string | null)[] };

/** The SQL of one cell; its value is appended to `values`. */
function expression({ table, row, name, values }: Place, cell: Cell | undefined, binding: Binding): string {
  const column = TABLES[table].columns[name];
  if (column === undefined || cell === undefined) throw new RangeError(`no such column: ${table}.${name}`);
  const bind = (value: string | null): string => `$${values.push(value)}`;
  if ('literal' in cell)
    return `${bind(cell.literal === null ? null : String(cell.literal))}::${column.type}`;
  if ('unique' in cell) return `${bind(`${table} ${row} ${cell.unique} ${binding.nonce}`)}::${column.type}`;
  if ('anyRow' in cell) return `${bind(idOf('users', cell.anyRow, binding.nonce))}::${column.type}`;
  if ('afterDays' in cell) {
    const day = new Date(binding.now.getTime() + cell.afterDays * 86_400_000).toISOString().slice(0, 10);
    return `${bind(day)}::${column.type}`;
  }
  if ('afterMs' in cell) {
    const instant = new Date(binding.now.getTime() + cell.afterMs).toISOString();
    return `(${bind(instant)}::timestamptz + ${bind(`${cell.micros} microseconds`)}::interval)`;
  }
  if (cell.row === null) return 'null::uuid';
  if (column.parent === undefined) throw new RangeError(`${table}.${name} refers to no table`);
  const parent = bind(idOf(column.parent, cell.row, binding.nonce));
  const free = column.unique
    ? ` and not exists (select from ${table} c where c.${name} = p.id and c.id <> '${idOf(table, row, binding.nonce)}')`
    : '';
  return `(select p.id from ${column.parent} p where p.id = ${parent}::uuid${free})`;
}

/**
 * The world every history starts in: something of everything, six of eight bookings, all of them live. The two
 * inspections say the same, so that naming the other one changes nothing that a buyer sees.
 */
export const GENESIS: Command[] = [
  ...upTo(3, (row) => genesis('vendors', row, { name: literal(`vendor ${row}`) })),
  ...upTo(4, (row) => genesis('storage_locations', row, { vendor_id: { row: row % 3 } })),
  ...upTo(2, (row) =>
    genesis('crop_inspections', row, { freshness_score: literal(80.25), freshness: literal('fresh') }),
  ),
  ...upTo(6, (row) =>
    genesis('storage_bookings', row, {
      farmer_id: { anyRow: 0 },
      location_id: { row: row % 3 },
      vendor_id: { row: row % 3 },
      ai_inspection_id: { row: row % 3 },
      crop_type: literal('wheat'),
      quantity_kg: literal(100),
      booking_status: literal('active'),
    }),
  ),
  ...upTo(6, (row) =>
    genesis('iot_sensors', row, {
      location_id: { row: row % 3 },
      sensor_type: literal(row < 4 ? 'temperature' : 'humidity'),
      created_at: { afterMs: -86_400_000, micros: 0 },
    }),
  ),
  ...upTo(8, (row) =>
    genesis('sensor_readings', row, {
      sensor_id: { row: row % 5 },
      reading_value: literal(10 + row),
      reading_time: { afterMs: -60_000 * (row % 2), micros: 0 },
    }),
  ),
  ...upTo(4, (row) =>
    genesis('pest_detections', row, {
      location_id: { row: row % 3 },
      severity_level: literal(row === 0 ? 'high' : 'low'),
      detected_at: { afterMs: -86_400_000, micros: 0 },
      created_at: literal(null),
    }),
  ),
  ...upTo(4, (row) =>
    genesis('compliance_certificates', row, {
      vendor_id: { row: row % 3 },
      certificate_type: literal('HACCP'),
      status: literal('valid'),
      expiry_date: { afterDays: row },
    }),
  ),
  ...upTo(2, (row) =>
    genesis('storage_certificates', row, {
      booking_id: { row },
      certificate_status: literal('issued'),
      issued_date: { afterMs: 0, micros: 0 },
    }),
  ),
];

function upTo(count: number, make: (row: number) => Command): Command[] {
  return Array.from({ length: count }, (_, row) => make(row));
}

function genesis(table: TableName, row: number, values: Record<string, Cell>): Command {
  return { do: 'put', table, row, mode: 'insert', values };
}

function literal(value: string | number | boolean | null): Cell {
  return { literal: value };
}
