import type pg from 'pg';
import { query } from '../postgres.ts';
import type { Reader } from '../read-only.ts';

/** From where on something is worth a warning. */
export interface Limits {
  /** Age of a transaction that a new slot would have to wait for. */
  openTransactionSeconds: number;
  /** Age of a transaction that keeps WAL back, where the slot is there. */
  longTransactionSeconds: number;
  /** WAL that a slot nobody streams from may keep back. */
  idleSlotBytes: number;
  clockSkewMs: number;
  diskFreeBytes: number;
}

export const LIMITS: Limits = {
  openTransactionSeconds: 60,
  longTransactionSeconds: 3_600,
  idleSlotBytes: 1024 ** 3,
  clockSkewMs: 5_000,
  diskFreeBytes: 2 * 1024 ** 3,
};

/** What most checks ask first. */
export interface ServerFacts {
  version: number;
  versionText: string;
  standby: boolean;
  login: string;
  superuser: boolean;
  database: string;
  /** The schema of the source tables; undefined when there is none of that name. */
  schema: string | undefined;
  /** `market-sync migrate` has run here. */
  installed: boolean;
  /** This login, or a role that it has, owns the schema market_sync. */
  owner: boolean;
}

export interface PostgresContext {
  /** Of this check alone, in a read only transaction. */
  db: pg.ClientBase;
  reader: Reader;
  url: string;
  facts: ServerFacts;
  sourceSchema: string;
  slotName: string;
  limits: Limits;
  replication: ReplicationProbe;
}

/** Which cluster a replication connection reaches, and the timeline that its own comes from. */
export interface ClusterIdentity {
  systemIdentifier: string;
  timeline: number;
  parent: { timeline: number; leftAtLsn: bigint } | undefined;
}

/** What a replication connection says, and how slot and checkpoint are judged: the pipeline's own code, handed in. */
export interface ReplicationProbe {
  identify: (url: string) => Promise<ClusterIdentity>;
  /** Why history would be cut at the next start; undefined when it goes on, or begins. */
  findCut: (
    checkpoint: {
      commitLsn: bigint | undefined;
      systemIdentifier: string | undefined;
      timeline: number | undefined;
    },
    slot: { confirmedLsn: bigint; lost: boolean; synced: boolean } | undefined,
    system: ClusterIdentity,
  ) => string | undefined;
}

/** Asks without naming an object: a login that may not use the schema market_sync is answered, too. */
const FACTS = `
  select current_setting('server_version_num')::int as version, current_setting('server_version') as version_text,
    pg_is_in_recovery() as standby, current_user::text as login,
    (select rolsuper from pg_roles where rolname = current_user) as superuser,
    current_database()::text as database, (select nspname::text from pg_namespace where nspname = $1) as schema,
    exists (select from pg_class where relname = 'migrations'
      and relnamespace = (select oid from pg_namespace where nspname = 'market_sync')) as installed,
    coalesce((select pg_has_role(current_user, nspowner, 'usage') from pg_namespace where nspname = 'market_sync'), false) as owner`;

export async function readFacts(db: pg.ClientBase, sourceSchema: string): Promise<ServerFacts> {
  const rows = await query<{
    version: number;
    version_text: string;
    standby: boolean;
    login: string;
    superuser: boolean;
    database: string;
    schema: string | null;
    installed: boolean;
    owner: boolean;
  }>(db, FACTS, [sourceSchema]);
  const row = rows[0];
  if (row === undefined) throw new Error('the server did not answer');
  return {
    version: row.version,
    versionText: row.version_text,
    standby: row.standby,
    login: row.login,
    superuser: row.superuser,
    database: row.database,
    schema: row.schema ?? undefined,
    installed: row.installed,
    owner: row.owner,
  };
}
