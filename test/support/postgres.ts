import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { inject } from 'vitest';
import { createLogger } from '../../src/log.ts';
import { createPool } from '../../src/postgres.ts';
import { createFromTemplate, type TemplateName } from './templates.ts';

export type TestDatabase = {
  /** The superuser's connection string. */
  url: string;
  name: string;
  /** As the program makes its own, source schema `public`. */
  pool: pg.Pool;
  /** Drops the database with its replication slots, whoever is still connected to it. */
  drop(): Promise<void>;
};

/** A database of its own in the run's shared cluster, a copy of `storage_guard` unless another template is named. */
export async function createDatabase(options: { template?: TemplateName } = {}): Promise<TestDatabase> {
  const adminUrl = inject('postgresUrl');
  const name = `test_${randomBytes(6).toString('hex')}`;
  await asAdmin(adminUrl, (admin) =>
    createFromTemplate(admin, { database: name, template: options.template ?? 'storage_guard', adminUrl }),
  );
  const url = new URL(adminUrl);
  url.pathname = `/${name}`;
  const log = createLogger('silent');
  const pool = createPool({ url: url.href, applicationName: 'test', sourceSchema: 'public', log });
  return {
    url: url.href,
    name,
    pool,
    async drop() {
      await pool.end();
      await asAdmin(adminUrl, async (admin) => {
        await dropSlots(admin, name);
        await admin.query(`drop database ${pg.escapeIdentifier(name)} with (force)`);
      });
    },
  };
}

/** A consumer that a test left running may take its slot again at once, so this is repeated until none is left. */
async function dropSlots(admin: pg.Client, database: string): Promise<void> {
  const DEADLINE_MS = 20_000;
  const SLOT_IN_USE = '55006';
  const SLOT_GONE = '42704';
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    const { rows } = await admin.query<{ slot_name: string; active_pid: number | null }>(
      'select slot_name, active_pid from pg_replication_slots where database = $1',
      [database],
    );
    if (rows.length === 0) return;
    if (Date.now() > deadline) throw new Error(`slots of ${database} stay in use: ${JSON.stringify(rows)}`);
    for (const { slot_name, active_pid } of rows) {
      if (active_pid !== null) await admin.query('select pg_terminate_backend($1, 5000)', [active_pid]);
      await admin
        .query('select pg_drop_replication_slot($1)', [slot_name])
        .catch(async (error: Error & { code?: string }) => {
          if (error.code !== SLOT_IN_USE && error.code !== SLOT_GONE) throw error;
          await sleep(20);
        });
    }
  }
}

async function asAdmin<T>(url: string, work: (admin: pg.Client) => Promise<T>): Promise<T> {
  const admin = new pg.Client({ connectionString: url });
  await admin.connect();
  try {
    return await work(admin);
  } finally {
    await admin.end();
  }
}
