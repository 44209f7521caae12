import type pg from 'pg';
import { type ExpectedContent, expectedListing, type RowVersion } from './oracle.ts';

/** One field that is not what the oracle says. */
export type Difference = { subject: string; field: string; expected: unknown; actual: unknown };

/** A row of `market_inventory_snapshots`, as pg gives it with its default types. */
export type SnapshotRow = Record<string, unknown> & { booking_id: string };

/** A document of `market_listings`, as the driver gives it with its default promotion of numbers. */
export type ListingDocument = Record<string, unknown>;

/** The snapshots of these bookings. */
export async function readSnapshotRows(
  db: Pick<pg.Pool, 'query'>,
  bookingIds: readonly string[],
): Promise<SnapshotRow[]> {
  const text = 'select * from market_inventory_snapshots where booking_id = any($1::uuid[])';
  return (await db.query<SnapshotRow>(text, [bookingIds])).rows;
}

const TIMES = ['start_date', 'end_date', 'published_at', 'last_synced_at', 'created_at', 'updated_at'];
const NUMBERS = ['quality_score', 'revision', 'epoch', 'published_revision'];

/** The row with times as ISO strings (or `infinity`) and decimals and bigints as numbers. */
export function plainRow(row: SnapshotRow): SnapshotRow {
  const plain = { ...row };
  for (const name of TIMES) if (name in plain) plain[name] = plainTime(plain[name]);
  for (const name of NUMBERS) {
    if (typeof plain[name] === 'string' || typeof plain[name] === 'bigint') plain[name] = Number(plain[name]);
  }
  return plain;
}

function plainTime(value: unknown): unknown {
  if (value === Number.POSITIVE_INFINITY) return 'infinity';
  if (value === Number.NEGATIVE_INFINITY) return '-infinity';
  return value instanceof Date ? value.toISOString() : value;
}

/** `row` must come from `plainRow`. Columns that the oracle knows nothing of are not looked at. */
export function compareSnapshot(subject: string, expected: ExpectedContent, row: SnapshotRow): Difference[] {
  const metadata = { ...expected.metadata, last_updated: row.updated_at };
  return compareFields(subject, { ...expected, metadata }, row);
}

/** Fields of the document that the oracle knows nothing of are not looked at, unless they are nested. */
export function compareListing(
  subject: string,
  expected: { content: ExpectedContent; version: RowVersion },
  document: ListingDocument,
): Difference[] {
  const plain = { ...document };
  for (const name of NUMBERS) if (name in plain) plain[name] = plainNumber(plain[name]);
  return compareFields(subject, expectedListing(expected.content, expected.version), plain);
}

/** bson's Long, Int32 and Double are objects when they are not promoted. */
export function plainNumber(value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value);
  return typeof value === 'object' && value !== null && '_bsontype' in value ? Number(String(value)) : value;
}

function compareFields(subject: string, expected: Tree, actual: Tree): Difference[] {
  const differences: Difference[] = [];
  for (const field of Object.keys(expected)) {
    const one = { subject, field, expected: expected[field], actual: actual[field] };
    collect(differences, one, field === 'sensor_summary' ? isSameInSummary : isSame);
  }
  return differences;
}

type Tree = Record<string, unknown>;
type Sameness = (key: string, expected: Tree, actual: Tree) => boolean;

/** Adds every leaf that differs, by its path. */
function collect(differences: Difference[], one: Difference, sameness: Sameness): void {
  const { subject, field, expected, actual } = one;
  if (!isTree(expected) || !isTree(actual) || Array.isArray(expected) !== Array.isArray(actual)) {
    if (expected !== actual) differences.push(one);
    return;
  }
  for (const key of new Set([...Object.keys(expected), ...Object.keys(actual)])) {
    if (sameness(key, expected, actual)) continue;
    const path = /^\w+$/.test(key) ? `${field}.${key}` : `${field}[${JSON.stringify(key)}]`;
    collect(
      differences,
      { subject, field: path, expected: own(expected, key), actual: own(actual, key) },
      isSame,
    );
  }
}

function isTree(value: unknown): value is Tree {
  if (typeof value !== 'object' || value === null) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype || Array.isArray(value);
}

/** `__proto__` is an ordinary key here. */
const own = (tree: Tree, key: string): unknown => (Object.hasOwn(tree, key) ? tree[key] : undefined);

const isSame: Sameness = (key, expected, actual) => own(expected, key) === own(actual, key);

/**
 * Two ways to sum doubles differ in the last digits, and where 1.7e308 and -1.7e308 cancel, in all of them: so an
 * average may be off by 1e-9 of the largest value that went into it, and by the smallest double.
 */
const isSameInSummary: Sameness = (key, expected, actual) => {
  const [left, right] = [own(expected, key), own(actual, key)];
  if (!key.endsWith('_avg') || typeof left !== 'number' || typeof right !== 'number') return left === right;
  const stem = key.slice(0, -'_avg'.length);
  const bounds = [own(expected, `${stem}_min`), own(expected, `${stem}_max`)].map(Number);
  const scale = Math.max(...bounds.map(Math.abs));
  return Math.abs(left / 2 - right / 2) <= (1e-9 * scale) / 2 + Number.MIN_VALUE;
};

/** One line a difference: booking, field, expected, actual. */
export function formatDifferences(differences: readonly Difference[], linesMax = 20): string {
  const lines = differences
    .slice(0, linesMax)
    .map(
      ({ subject, field, expected, actual }) =>
        `  ${subject}: ${field}: expected ${show(expected)}, actual ${show(actual)}`,
    );
  if (differences.length > linesMax) lines.push(`  … and ${differences.length - linesMax} more`);
  return lines.join('\n');
}

const show = (value: unknown): string =>
  value === undefined ? 'nothing' : (JSON.stringify(value) ?? String(value));
