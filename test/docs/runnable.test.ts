import { afterAll, beforeAll, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { type Program, runProgram, startProgram } from '../cli/program.ts';
import { readText } from '../ops/files.ts';
import { insertBooking, setQuantity } from '../support/application.ts';
import { insertOldSnapshot, pollReady } from '../support/old-poller.ts';
import { createMarket, settle, type TestMarket, until } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { isPending, parseCommandLine } from './command-lines.ts';
import { readDocument } from './markdown.ts';

// The `sh` blocks of docs/migrating.md, then of docs/guide.md, line after line as a reader types them: on a database as the
// polling system left it, with its snapshots and listings, between real servers. What an option of ours does is tested elsewhere.

let database: TestDatabase;
let market: TestMarket;
let pipeline: Program | undefined;
let bookingId: string;
let listingId: string;

beforeAll(async () => {
  [database, market] = await Promise.all([createDatabase(), createMarket()]);
  // Its snapshots are as the first migration would make them, less what that adds.
  const [table = ''] =
    /create table if not exists market_inventory_snapshots [^;]*;/.exec(
      readText('sql/migrations/001_create_snapshots.sql'),
    ) ?? [];
  await query(database.pool, table);
  bookingId = await insertBooking(database.pool, { quantityKg: 1 });
  await insertOldSnapshot(database.pool, bookingId);
  await pollReady({ pool: database.pool, market: market.market });
  listingId = String((await market.market.listings.findOne({ booking_id: bookingId }))?._id);
});
afterAll(async () => {
  await pipeline?.end('SIGTERM');
  await market?.market.client.db('market_connect_shadow').dropDatabase();
  await market?.drop();
  await database?.drop();
});

const settings = (): Record<string, string> => ({
  DATABASE_URL: database.url,
  MONGODB_URL: market.url,
  MONGODB_DATABASE: market.database,
  SLOT_NAME: `slot_${database.name}`,
  LOG_LEVEL: 'silent',
});

/** Runs one line. Throws for one that nothing here can run, so that none is only said to be run. */
async function run(line: string): Promise<void> {
  const sql = /^psql "\$DATABASE_URL" -c "([^"]+)"$/.exec(line)?.[1];
  if (sql !== undefined) {
    await query(database.pool, sql);
    return;
  }
  const parsed = parseCommandLine(line);
  if (parsed === undefined) throw new Error(`not run: ${line}`);
  if (isPending(parsed)) return;
  const { command, args } = parsed;
  const environment = { ...settings(), ...parsed.settings };
  if (command === 'pipeline') {
    // The one before is stopped, as the page says.
    await pipeline?.end('SIGTERM');
    pipeline = startProgram(['pipeline'], environment);
    await pipeline.printed(/^pipeline running$/m);
    return;
  }
  const allowed = /# exits (\d) /.exec(line)?.[1] ?? '0';
  const { code, stderr } = await runProgram([command, ...args], environment);
  expect(['0', allowed], `${line}\n${stderr}`).toContain(String(code));
}

const linesOf = (document: string): string[] =>
  readDocument(document)
    .blocks.filter(({ language }) => language === 'sh')
    .flatMap(({ lines }) => lines)
    .filter((line) => line.trim() !== '');

// One test, because `afterEach` of test/cli/program.ts ends what a test leaves running.
test('docs/migrating.md and docs/guide.md: every line of their sh blocks runs, and buyers have what the source says', async () => {
  const migrating = linesOf('docs/migrating.md');
  expect(migrating.length).toBeGreaterThan(8);
  for (const line of migrating) await run(line);
  await settle(database);

  const adopted = await market.market.listings.find({ booking_id: bookingId }).toArray();
  expect(adopted).toMatchObject([{ quantity_kg: 1, status: 'published', revision: expect.any(Number) }]);
  expect(String(adopted[0]?._id)).toBe(listingId);
  await setQuantity(database.pool, bookingId, 2);
  await until(
    'the listing follows',
    async () => (await market.market.listings.findOne({ booking_id: bookingId }))?.quantity_kg === 2,
  );

  for (const line of linesOf('docs/guide.md')) await run(line);
  await pipeline?.end('SIGTERM');
  pipeline = undefined;
}, 120_000);
