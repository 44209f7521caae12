import pg from 'pg';
import { type Lsn, parseLsn } from '../src/lsn.ts';
import { CONNECT_TIMEOUT_MS, toStreamError } from './replication.ts';

/** Which history the server is on. */
export interface SystemIdentity {
  systemIdentifier: string;
  timeline: number;
  /** The timeline that this one comes from, and where it was left: what was written there beyond that is not here. */
  parent: { timeline: number; leftAtLsn: Lsn } | undefined;
}

/** What a replication connection of this role finds. */
export interface ReplicationServer extends SystemIdentity {
  /** How often the server must hear from the consumer. */
  statusIntervalMs: number;
  /** How long it may itself be silent while it streams. */
  silenceMaxMs: number;
}

/** `IDENTIFY_SYSTEM`: the cluster, its timeline and where that comes from. Also proves that the role and pg_hba.conf allow replication. */
export async function identifyServer(url: string): Promise<ReplicationServer> {
  const client = replicationClient(url);
  try {
    await client.connect();
    const identity = (await client.query<{ systemid: string; timeline: number }>('IDENTIFY_SYSTEM')).rows[0];
    // Here, because a role or a database may have a setting of its own.
    const timeout = (
      await client.query<{ ms: number }>(
        `select setting::int as ms from pg_settings where name = 'wal_sender_timeout'`,
      )
    ).rows[0];
    if (identity === undefined || timeout === undefined) throw new Error('IDENTIFY_SYSTEM answered nothing');
    const timeline = Number(identity.timeline);
    return {
      systemIdentifier: identity.systemid,
      timeline,
      parent: timeline === 1 ? undefined : await readParent(client, timeline),
      ...patience(Number(timeout.ms)),
    };
  } catch (error) {
    throw toStreamError(error);
  } finally {
    // Not waited for: it would be for the server.
    void client.end().catch(() => undefined);
  }
}

/** Undefined where the server has lost the file that says so: then nothing is known of where it comes from. */
async function readParent(client: pg.Client, timeline: number): Promise<SystemIdentity['parent']> {
  const FILE_MISSING = '58P01';
  try {
    const { rows } = await client.query<{ content: string | Buffer }>(`TIMELINE_HISTORY ${timeline}`);
    return parseTimelineHistory(String(rows[0]?.content ?? ''));
  } catch (error) {
    if (error instanceof pg.DatabaseError && error.code === FILE_MISSING) return undefined;
    throw error;
  }
}

/** A line for each timeline before, the last one last: its number, where it was left, why. */
export function parseTimelineHistory(content: string): SystemIdentity['parent'] {
  const last = [...content.matchAll(/^\s*(\d+)\s+([0-9A-F]+\/[0-9A-F]+)/gim)].at(-1);
  return last && { timeline: Number(last[1]), leftAtLsn: parseLsn(last[2] as string) };
}

/**
 * Makes the slot one that standbys carry over, or an ordinary one (PostgreSQL 17 and later). Nobody may stream from it.
 * Throws PostgreSQL's error, or `ConnectionLostError`.
 */
export async function alterSlotFailover(
  url: string,
  { slotName, failover }: { slotName: string; failover: boolean },
): Promise<void> {
  const client = replicationClient(url);
  try {
    await client.connect();
    await client.query(
      `ALTER_REPLICATION_SLOT ${pg.escapeIdentifier(slotName)} (FAILOVER ${failover ? 'true' : 'false'})`,
    );
  } catch (error) {
    throw toStreamError(error);
  } finally {
    void client.end().catch(() => undefined);
  }
}

/** A connection for replication commands. */
function replicationClient(url: string): pg.Client {
  const client = new pg.Client({
    connectionString: url,
    replication: 'database',
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    query_timeout: CONNECT_TIMEOUT_MS,
  } as pg.ClientConfig);
  client.on('error', () => undefined);
  return client;
}

/** How often the server hears from the consumer at the least; more often where `wal_sender_timeout` is short. */
const STATUS_INTERVAL_MAX_MS = 5_000;

/** A short timeout is for a quick end of dead clients; our own process may stand still for as long. */
const SILENCE_MIN_MS = 10_000;

/** A server that never gives up may be silent for long: while it decodes a large transaction that concerns nobody. */
const SILENCE_MAX_MS = 600_000;

/**
 * Without a sign of life for `wal_sender_timeout` the server closes the connection (0: it never does): four are given
 * within that time. As much is granted to the server, which after half of it interrupts even its longest work to show one.
 */
function patience(senderTimeoutMs: number): { statusIntervalMs: number; silenceMaxMs: number } {
  if (senderTimeoutMs === 0) {
    return { statusIntervalMs: STATUS_INTERVAL_MAX_MS, silenceMaxMs: SILENCE_MAX_MS };
  }
  return {
    statusIntervalMs: Math.min(STATUS_INTERVAL_MAX_MS, Math.max(1, senderTimeoutMs / 4)),
    silenceMaxMs: Math.max(SILENCE_MIN_MS, senderTimeoutMs),
  };
}
