import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { EnvironmentError } from './errors.ts';
import { type Database, query, quoteName, quoteText } from './postgres.ts';
import { CAPTURED_TABLES } from './source.ts';
import type { Step } from './step.ts';

const MIGRATIONS_DIRECTORY = join(import.meta.dirname, '..', 'sql', 'migrations');
const FILE_NAME = /^(\d{3})_[a-z0-9_]+\.sql$/;

export interface Migration {
  number: number;
  name: string;
  sql: string;
  checksum: string;
}

/** The migrations of this version of the program, in order. */
export function readMigrations(directory = MIGRATIONS_DIRECTORY): Migration[] {
  return readdirSync(directory)
    .filter((name) => name.endsWith('.sql'))
    .sort()
    .map((name, index) => {
      const match = FILE_NAME.exec(name);
      if (match === null || Number(match[1]) !== index + 1) {
        throw new Error(`${name}: migrations are numbered 001, 002, … without a gap`);
      }
      const sql = readFileSync(join(directory, name), 'utf8');
      return { number: index + 1, name, sql, checksum: createHash('sha256').update(sql).digest('hex') };
    });
}

/** The migrations that this database lacks. Throws an `EnvironmentError` when a newer or an edited program migrated it. */
export async function findPending(db: Database, migrations: Migration[]): Promise<Migration[]> {
  const exists = await query<{ found: boolean }>(
    db,
    `select to_regclass('market_sync.migrations') is not null as found`,
  );
  if (exists[0]?.found !== true) return migrations;
  const rows = await query<{ number: number; name: string; checksum: string }>(
    db,
    'select number, name, checksum from market_sync.migrations order by number',
  );
  for (const row of rows) {
    const migration = migrations[row.number - 1];
    if (migration === undefined) {
      throw new EnvironmentError(
        `DATABASE_URL: the database was migrated by a newer version of market-sync (${row.name}). Run that version.`,
      );
    }
    if (migration.checksum !== row.checksum) {
      throw new EnvironmentError(
        `DATABASE_URL: migration ${row.name} was applied with another content. ` +
          `A merged migration is never edited: run the version of market-sync that applied it, or one with its file restored.`,
      );
    }
  }
  return migrations.slice(rows.length);
}

/** A migration as the statements that are executed, with what records it. Reads the catalog at most. */
export async function toStep(
  db: Database,
  { migration, sourceSchema }: { migration: Migration; sourceSchema: string },
): Promise<Step> {
  const { number, name, checksum } = migration;
  const record =
    'insert into market_sync.migrations (number, name, checksum) ' +
    `values (${number}, ${quoteText(name)}, ${quoteText(checksum)})`;
  return {
    title: name,
    ...(await describeLocks(db, { name, number, sourceSchema })),
    statements: [
      ...(number === 1 ? FIRST : []),
      CAPTURES.includes(name) ? await expandCapture(db, migration.sql) : migration.sql,
      record,
    ],
  };
}

const FIRST = [
  'create schema if not exists market_sync',
  `comment on schema market_sync is 'Keeps Market Connect''s listings in step with Storage Guard. See the README of market-sync.'`,
  `create table market_sync.migrations (
  number int primary key, name text not null, checksum text not null, applied_at timestamptz not null default now())`,
  `comment on table market_sync.migrations is 'The migrations applied, with the checksum of each file.'`,
];

/** The migration that puts triggers on the application's tables. */
const CAPTURE = '002_create_capture.sql';

/** It, and the one that has the triggers' functions anew: each a `do` block with templates. */
const CAPTURES = [CAPTURE, '020_capture_loads.sql'];

async function describeLocks(
  db: Database,
  { name, number, sourceSchema }: { name: string; number: number; sourceSchema: string },
): Promise<Pick<Step, 'locks' | 'transaction'>> {
  const qualified = (table: string): string => `${quoteName(sourceSchema)}.${table}`;
  if (name === CAPTURE) {
    return {
      locks:
        `SHARE ROW EXCLUSIVE on ${CAPTURED_TABLES.join(', ')}, and SHARE UPDATE EXCLUSIVE on storage_bookings: readers notice ` +
        'nothing, writers wait for an instant. Given up when not to be had within 0.4 s in all, and tried again a second later; ' +
        'not even tried while a long transaction holds one of them. (An automatic vacuum that runs on one is asked to give way, once, for 1.3 s.)',
      transaction: {
        tables: CAPTURED_TABLES.map((table) => ({ name: qualified(table), mode: 'share row exclusive' })),
      },
    };
  }
  if (number === 1) {
    const found = await query(db, `select from pg_class where oid = to_regclass($1)`, [
      qualified('market_inventory_snapshots'),
    ]);
    if (found.length > 0) {
      return {
        locks:
          'ACCESS EXCLUSIVE on market_inventory_snapshots, which exists and is taken over: whoever reads or writes it waits while its ' +
          'rows are counted in, about a second for 200,000 of them. No other table of the application.',
        transaction: {
          tables: [{ name: qualified('market_inventory_snapshots'), mode: 'access exclusive' }],
        },
      };
    }
  }
  return {
    locks: 'no table of the application; objects of market-sync only, for an instant.',
    transaction: { tables: [] },
  };
}

/**
 * The text of a capture migration with its `do` block replaced by the statements that the block would execute, made from its
 * own templates by PostgreSQL. What a DBA reads and what is executed is the same, and no code that writes code.
 */
async function expandCapture(db: Database, sql: string): Promise<string> {
  const block =
    /do \$migration\$.*?for capture in\n(.*?)\n {2}loop\n(.*?)\n {2}end loop;\nend\n\$migration\$;/s.exec(
      sql,
    );
  const [whole, values, body] = block ?? [];
  if (whole === undefined || values === undefined || body === undefined) {
    throw new Error('the capture migration is not what this version of the program knows');
  }
  const templates = body
    .split(/^ {4}execute /m)
    .slice(1)
    .map((text) => text.trimEnd().replace(/;$/, ''));
  const rows = await query<{ statements: string[] }>(
    db,
    `select array[${templates.join(',\n')}] as statements from (${values}) as capture`,
  );
  const statements = rows
    .flatMap((row) => row.statements)
    .map((text) => `${text.trim().replace(/;$/, '')};\n`);
  return sql.replace(whole, () => statements.join('\n'));
}
