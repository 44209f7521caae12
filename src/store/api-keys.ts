import { createHash, randomBytes } from 'node:crypto';
import type pg from 'pg';
import { type Database, inTransaction, query } from '../postgres.ts';
import { recordAction } from './manual-actions.ts';

/** What a caller may do; each may all that the ones before it may. */
export const ROLES = ['reader', 'operator', 'admin'] as const;
export type Role = (typeof ROLES)[number];

/** A key as it is kept, without its secret. */
export type KeyRecord = {
  prefix: string;
  name: string;
  role: Role;
  created_at: Date;
  created_by: string;
  expires_at: Date | null;
  revoked_at: Date | null;
  /** At most a minute behind. */
  last_used_at: Date | null;
  state: 'active' | 'expired' | 'revoked';
};

/** What a call is checked against. */
export interface ActiveKey {
  name: string;
  role: Role;
  secretHash: Buffer;
  expiresAt: Date | undefined;
  /** By PostgreSQL's clock. */
  expiresInMs: number | undefined;
}

const PREFIX_LETTERS = 'abcdefghijklmnopqrstuvwxyz234567';
const PREFIX_LENGTH = 10;
const SECRET_BYTES = 32;
const KEY = /^(ms[a-z2-7]{10})_([A-Za-z0-9_-]{43})$/;

/** The parts of a key as `createKey` makes them, split at the first `_`; undefined for any other text. */
export function parseKey(text: string): { prefix: string; secret: string } | undefined {
  const [, prefix, secret] = KEY.exec(text) ?? [];
  return prefix === undefined || secret === undefined ? undefined : { prefix, secret };
}

/** Of a secret with 256 random bits: a slow hash would make every call slow and add nothing. */
export const hashSecret = (secret: string): Buffer => createHash('sha256').update(secret).digest();

function makeKey(): { prefix: string; secret: string } {
  const letters = Array.from(randomBytes(PREFIX_LENGTH), (byte) => PREFIX_LETTERS[byte % 32]);
  return { prefix: `ms${letters.join('')}`, secret: randomBytes(SECRET_BYTES).toString('base64url') };
}

export interface NewKey {
  name: string;
  role: Role;
  /** Undefined: it does not expire. */
  expiresInSeconds: number | undefined;
  /** Who makes it. */
  createdBy: string;
}

/**
 * Makes a key. Its text is answered here and kept nowhere. Names tell callers apart in the audit: undefined when an
 * active key has this one. What people do with keys is audited too, in the same transaction, as of the database's login.
 */
export async function createKey(pool: pg.Pool, made: NewKey): Promise<string | undefined> {
  const { prefix, secret } = makeKey();
  const { name, role, createdBy: by } = made;
  return whileNoOther(pool, async (db) => {
    const rows = await query(
      db,
      `insert into market_sync.api_key (prefix, secret_hash, name, role, created_by, expires_at)
       select $1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6)
       where not exists (select from market_sync.api_key where name = $3 and ${ACTIVE})
       returning prefix`,
      [prefix, hashSecret(secret), name, role, by, made.expiresInSeconds ?? null],
    );
    if (rows.length === 0) return undefined;
    await recordAction(db, { action: 'create_key', details: { prefix, name, role, by } });
    return `${prefix}_${secret}`;
  });
}

/** Names are looked for and then given: of two who make keys at once the second waits. Calls read on. */
const whileNoOther = <Result>(pool: pg.Pool, work: (db: Database) => Promise<Result>): Promise<Result> =>
  inTransaction(pool, async (client) => {
    await query(client, 'lock table market_sync.api_key in share row exclusive mode');
    return work(client);
  });

const ACTIVE = `revoked_at is null and (expires_at is null or expires_at > clock_timestamp())`;
const COLUMNS = `prefix, name, role, created_at, created_by, expires_at, revoked_at, last_used_at,
  case when revoked_at is not null then 'revoked' when ${ACTIVE} then 'active' else 'expired' end as state`;

const LISTED_MAX = 1_000;

/** Every key, active ones first, the newest first. */
export const listKeys = (db: Database): Promise<KeyRecord[]> =>
  query<KeyRecord>(
    db,
    `select ${COLUMNS} from market_sync.api_key
     order by (${ACTIVE}) desc, created_at desc, prefix limit ${LISTED_MAX}`,
  );

export type RevokeOutcome = 'revoked' | 'was_revoked' | 'unknown';

/** Ends a key now. Processes that have seen it within the last 5 s take it that much longer. */
export async function revokeKey(
  pool: pg.Pool,
  { prefix, revokedBy: by }: { prefix: string; revokedBy: string },
): Promise<RevokeOutcome> {
  return inTransaction(pool, async (client) => {
    const rows = await query<{ first: boolean; name: string; role: Role }>(
      client,
      `with known as (select prefix, name, role, revoked_at from market_sync.api_key where prefix = $1 for update),
       revoked as (
         update market_sync.api_key k set revoked_at = clock_timestamp()
         from known where k.prefix = known.prefix and known.revoked_at is null)
       select revoked_at is null as first, name, role from known`,
      [prefix],
    );
    if (rows[0] === undefined) return 'unknown';
    const { first, name, role } = rows[0];
    if (!first) return 'was_revoked';
    await recordAction(client, { action: 'revoke_key', details: { prefix, name, role, by } });
    return 'revoked';
  });
}

export type RotateOutcome =
  | { outcome: 'rotated'; key: string; name: string; role: Role; oldExpiresAt: Date }
  | { outcome: 'unknown' | 'not_active' | 'replaced' };

/**
 * Makes a key of the same name, role and term, and lets the old one expire after the overlap (or when it would anyway,
 * if that is sooner). A key that was rotated already is not rotated again; the newest one of its name can be.
 */
export async function rotateKey(
  pool: pg.Pool,
  { prefix, overlapSeconds, createdBy }: { prefix: string; overlapSeconds: number; createdBy: string },
): Promise<RotateOutcome> {
  const made = makeKey();
  const row = await whileNoOther(pool, async (db) => {
    const rows = await query<{
      name: string;
      role: Role;
      active: boolean;
      replaced: boolean;
      old_expires_at: Date;
    }>(
      db,
      `with old as (
         select name, role, expires_at, created_at, (${ACTIVE}) as active,
           exists (select from market_sync.api_key newer
             where newer.name = k.name and newer.created_at > k.created_at and newer.revoked_at is null
               and (newer.expires_at is null or newer.expires_at > clock_timestamp())) as replaced
         from market_sync.api_key k where prefix = $1),
       made as (
         insert into market_sync.api_key (prefix, secret_hash, name, role, created_by, expires_at)
         select $2, $3, name, role, $4, clock_timestamp() + (expires_at - created_at)
         from old where active and not replaced),
       ended as (
         update market_sync.api_key k
         set expires_at = least(k.expires_at, clock_timestamp() + make_interval(secs => $5))
         from old where k.prefix = $1 and old.active and not old.replaced
         returning k.expires_at)
       select old.name, old.role, old.active, old.replaced, ended.expires_at as old_expires_at
       from old left join ended on true`,
      [prefix, made.prefix, hashSecret(made.secret), createdBy, overlapSeconds],
    );
    if (rows[0]?.active === true && !rows[0].replaced) {
      const { name, role } = rows[0];
      const details = { prefix: made.prefix, replaces: prefix, name, role, by: createdBy };
      await recordAction(db, { action: 'rotate_key', details });
    }
    return rows[0];
  });
  if (row === undefined) return { outcome: 'unknown' };
  if (!row.active) return { outcome: 'not_active' };
  if (row.replaced) return { outcome: 'replaced' };
  const key = `${made.prefix}_${made.secret}`;
  return { outcome: 'rotated', key, name: row.name, role: row.role, oldExpiresAt: row.old_expires_at };
}

/** The key of this prefix, unless it was revoked or has expired. */
export async function findActiveKey(db: Database, prefix: string): Promise<ActiveKey | undefined> {
  const rows = await query<{
    name: string;
    role: Role;
    secret_hash: Buffer;
    expires_at: Date | null;
    expires_in_ms: number | null;
  }>(
    db,
    `select name, role, secret_hash, expires_at,
       extract(epoch from expires_at - clock_timestamp())::float8 * 1000 as expires_in_ms
     from market_sync.api_key where prefix = $1 and ${ACTIVE}`,
    [prefix],
  );
  const row = rows[0];
  if (row === undefined) return undefined;
  return {
    name: row.name,
    role: row.role,
    secretHash: row.secret_hash,
    expiresAt: row.expires_at ?? undefined,
    expiresInMs: row.expires_in_ms ?? undefined,
  };
}

/** Whether a key was ever made: where there was one, calls without a key are not served, also when the last was revoked. */
export async function wereKeysMade(db: Database): Promise<boolean> {
  const rows = await query<{ found: boolean }>(
    db,
    'select exists (select from market_sync.api_key) as found',
  );
  return rows[0]?.found === true;
}

export async function hasActiveKey(db: Database): Promise<boolean> {
  const rows = await query<{ found: boolean }>(
    db,
    `select exists (select from market_sync.api_key where ${ACTIVE}) as found`,
  );
  return rows[0]?.found === true;
}

/** Notes that a key was used: at most once a minute, however many processes are asked. */
export async function noteUse(db: Database, prefix: string): Promise<void> {
  await query(
    db,
    `update market_sync.api_key set last_used_at = clock_timestamp()
     where prefix = $1 and (last_used_at is null or last_used_at < clock_timestamp() - interval '1 minute')`,
    [prefix],
  );
}
