import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { applyStorageGuardTables } from '../../src/embedded/storage-guard.ts';
import type { Logger } from '../../src/log.ts';
import { migrate } from '../../src/migrate.ts';
import { createPool, query } from '../../src/postgres.ts';
import { testLog } from '../support/pipeline.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';

export interface Login {
  name: string;
  url: string;
  pool: pg.Pool;
}

export interface Logins {
  /** A login of its own in these group roles. */
  create(roles: readonly string[], options?: { replication?: boolean }): Promise<Login>;
  /** Ends their pools. They themselves can be dropped only after what they own: call `drop` then. */
  endPools(): Promise<void>;
  drop(): Promise<void>;
}

/** Logins of the cluster, for one database of it. */
export function createLogins({ admin, url }: { admin: pg.Pool; url: string }): Logins {
  const made: Login[] = [];
  return {
    create: async (roles, { replication = false } = {}) => {
      const name = `login_${randomBytes(5).toString('hex')}`;
      const password = randomBytes(8).toString('hex');
      const groups = roles.map((role) => pg.escapeIdentifier(role)).join(', ');
      await query(
        admin,
        `create role ${name} login ${replication ? 'replication' : ''} password '${password}'
         ${groups === '' ? '' : `in role ${groups}`}`,
      );
      const own = new URL(url);
      own.username = name;
      own.password = password;
      const pool = createPool({
        url: own.href,
        applicationName: name,
        sourceSchema: 'public',
        log: testLog(),
      });
      const login = { name, url: own.href, pool };
      made.push(login);
      return login;
    },
    endPools: async () => {
      for (const { pool } of made) await pool.end();
    },
    drop: async () => {
      const client = new pg.Client({ connectionString: adminUrl(url) });
      await client.connect();
      try {
        for (const { name } of made) await client.query(`drop role if exists ${name}`);
      } finally {
        await client.end();
      }
    },
  };
}

/** The same cluster's database `postgres`, which outlives the test's own. */
function adminUrl(url: string): string {
  const admin = new URL(url);
  admin.pathname = '/postgres';
  return admin.href;
}

export interface OwnedDatabase {
  /** The superuser's way in. */
  database: TestDatabase;
  /** Owns the database, the application's tables and what was migrated; may not make roles, and is no superuser. */
  owner: Login;
  logins: Logins;
  drop(): Promise<void>;
}

/** A database as a careful DBA would make it: nobody who works in it is a superuser. */
export async function createOwnedDatabase(options: { log?: Logger } = {}): Promise<OwnedDatabase> {
  // Whoever makes the template makes the roles.
  await (await createDatabase({ template: 'migrated' })).drop();
  const database = await createDatabase({ template: 'empty' });
  const logins = createLogins({ admin: database.pool, url: database.url });
  const owner = await logins.create([]);
  await query(database.pool, `alter database ${database.name} owner to ${owner.name}`);
  const log = options.log ?? testLog();
  await applyStorageGuardTables({ pool: owner.pool, sourceSchema: 'public' });
  await migrate({ pool: owner.pool, sourceSchema: 'public', log });
  return {
    database,
    owner,
    logins,
    drop: async () => {
      await logins.endPools();
      await database.drop();
      await logins.drop();
    },
  };
}

/** The SQLSTATE with which the statement fails, or undefined when it does not. */
export async function refusalOf(pool: pg.Pool, statement: string): Promise<string | undefined> {
  return pool.query(statement).then(
    () => undefined,
    (error: pg.DatabaseError) => error.code ?? String(error),
  );
}
