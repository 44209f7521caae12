import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { inTransaction, query } from '../postgres.ts';

const DIRECTORY = join(import.meta.dirname, '..', '..', 'sql', 'storage_guard');

/**
 * Creates the application's tables in `sourceSchema` (which the pool's search path must begin with), and the schema
 * too, unless bookings are there already. All of them or none. True when it created them.
 */
export async function applyStorageGuardTables(ctx: {
  pool: pg.Pool;
  sourceSchema: string;
}): Promise<boolean> {
  const schema = pg.escapeIdentifier(ctx.sourceSchema);
  const files = (await readdir(DIRECTORY)).filter((name) => name.endsWith('.sql')).sort();
  return inTransaction(ctx.pool, async (client) => {
    const found = await query<{ exists: boolean }>(client, 'select to_regclass($1) is not null as exists', [
      `${schema}.storage_bookings`,
    ]);
    if (found[0]?.exists === true) return false;
    await query(client, `create schema if not exists ${schema}`);
    for (const file of files) await query(client, await readFile(join(DIRECTORY, file), 'utf8'));
    return true;
  });
}
