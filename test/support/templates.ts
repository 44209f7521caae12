import pg from 'pg';
import { applyStorageGuardTables } from '../../src/embedded/storage-guard.ts';
import { createLogger } from '../../src/log.ts';
import { migrate } from '../../src/migrate.ts';
import { createPool } from '../../src/postgres.ts';

/** What a test's database starts with: the application's tables, or those and this project's migrations, or nothing. */
export type TemplateName = 'storage_guard' | 'migrated' | 'empty';

const TEMPLATE_LOCK = [5501, 99];

/** Creates `database` in the cluster of `admin` as a copy of a template, which the first one who asks for it makes. */
export async function createFromTemplate(
  admin: pg.Client,
  wanted: { database: string; template: TemplateName; adminUrl: string },
): Promise<void> {
  const source = wanted.template === 'empty' ? 'template1' : `template_${wanted.template}`;
  if (wanted.template !== 'empty') {
    await admin.query('select pg_advisory_lock($1, $2)', TEMPLATE_LOCK);
    await ensureTemplate(admin, { name: source, template: wanted.template, adminUrl: wanted.adminUrl });
    await admin.query('select pg_advisory_unlock($1, $2)', TEMPLATE_LOCK);
  }
  await admin.query(
    `create database ${pg.escapeIdentifier(wanted.database)} template ${pg.escapeIdentifier(source)}`,
  );
}

/** A template counts once it is marked as one: what a killed worker left half-made is made again. */
async function ensureTemplate(
  admin: pg.Client,
  wanted: { name: string; template: Exclude<TemplateName, 'empty'>; adminUrl: string },
): Promise<void> {
  const name = pg.escapeIdentifier(wanted.name);
  const { rowCount } = await admin.query('select from pg_database where datname = $1 and datistemplate', [
    wanted.name,
  ]);
  if (rowCount === 1) return;
  await admin.query(`drop database if exists ${name} with (force)`);
  await admin.query(`create database ${name}`);
  const url = new URL(wanted.adminUrl);
  url.pathname = `/${wanted.name}`;
  const log = createLogger('silent');
  const pool = createPool({ url: url.href, applicationName: 'template', sourceSchema: 'public', log });
  try {
    await applyStorageGuardTables({ pool, sourceSchema: 'public' });
    if (wanted.template === 'migrated') {
      await migrate({ pool, sourceSchema: 'public', log });
      // For tests that publish by hand; a pipeline that starts sets its own.
      await pool.query(`update market_sync.settings set publish_interval = '0'`);
    }
  } finally {
    await pool.end();
  }
  // A database can be copied only while nobody is connected to it: let nobody connect.
  await admin.query(`alter database ${name} with is_template true allow_connections false`);
}
