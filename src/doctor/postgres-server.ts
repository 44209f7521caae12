import { statfs } from 'node:fs/promises';
import type pg from 'pg';
import { POSTGRES_VERSION_MIN, query } from '../postgres.ts';
import {
  type CheckDefinition,
  failure,
  formatBytes,
  formatSeconds,
  listNames,
  ok,
  skipped,
  statements,
  warning,
} from './check.ts';
import { isLocal } from './connection.ts';
import type { PostgresContext } from './postgres-context.ts';

type Look = CheckDefinition<PostgresContext>['look'];

const RELOAD = 'select pg_reload_conf()';

/** As the server counts it: a number in its own unit, or the word. Undefined where the server has no such setting. */
async function readSetting(db: pg.ClientBase, name: string): Promise<string | undefined> {
  const rows = await query<{ setting: string }>(db, 'select setting from pg_settings where name = $1', [
    name,
  ]);
  return rows[0]?.setting;
}

const lookAtVersion: Look = ({ facts }) =>
  facts.version >= POSTGRES_VERSION_MIN
    ? ok(`PostgreSQL ${facts.versionText}`)
    : failure(
        `PostgreSQL ${facts.versionText} is too old: 15 is the oldest that has what is used`,
        'pg_upgrade --old-datadir=OLD --new-datadir=NEW --old-bindir=OLD_BIN --new-bindir=NEW_BIN',
      );

const lookAtPrimary: Look = ({ facts }) =>
  facts.standby
    ? failure('a standby: it takes no writes', 'export DATABASE_URL=postgresql://…  # of the primary')
    : ok('a primary');

const lookAtWalLevel: Look = async ({ db }) => {
  const level = await readSetting(db, 'wal_level');
  if (level === 'logical') return ok('logical');
  return failure(
    `wal_level is ${level}: changes cannot be decoded. Restart PostgreSQL afterwards`,
    statements([`alter system set wal_level = 'logical'`]),
  );
};

/** How many of a setting's places are taken, and whether one of them is ours. */
const lookAtPlaces =
  (input: { setting: string; noun: string; count: string; own: string }): Look =>
  async ({ db, slotName }) => {
    const rows = await query<{ used: number; most: number; own: boolean }>(
      db,
      `select (${input.count}) as used, current_setting('${input.setting}')::int as most, exists (${input.own}) as own`,
      [slotName],
    );
    const { used, most, own } = rows[0] ?? { used: 0, most: 0, own: false };
    const found = `${used} of ${most} ${input.noun} in use${own ? ', one of them ours' : ''}`;
    if (own || used < most) return ok(found);
    return failure(
      `${found}: none is free. Restart PostgreSQL afterwards`,
      statements([`alter system set ${input.setting} = ${most + 5}`]),
    );
  };

const lookAtSlotLimit: Look = async ({ db }) => {
  const limitMb = Number(await readSetting(db, 'max_slot_wal_keep_size'));
  if (limitMb >= 0) return ok(`a slot keeps at most ${formatBytes(limitMb * 1024 ** 2)} of WAL`);
  return warning(
    'max_slot_wal_keep_size is not set: a stalled consumer fills the disk. Name what the disk can spare',
    statements([`alter system set max_slot_wal_keep_size = '64GB'`, RELOAD]),
  );
};

const lookAtIdleTimeout: Look = async ({ db }) => {
  const setting = await readSetting(db, 'idle_replication_slot_timeout');
  if (setting === undefined) return ok('PostgreSQL 17 and older have no such limit');
  const seconds = Number(setting);
  if (seconds === 0) return ok('slots are kept however long nobody streams from them');
  return warning(
    `a slot is given up after ${formatSeconds(seconds)} without a consumer: every longer outage has everything recomputed`,
    statements(['alter system set idle_replication_slot_timeout = 0', RELOAD]),
  );
};

const SENDER_TIMEOUT_MIN_MS = 5_000;

const lookAtSenderTimeout: Look = async ({ db }) => {
  const timeoutMs = Number(await readSetting(db, 'wal_sender_timeout'));
  const remedy = statements([`alter system set wal_sender_timeout = '60s'`, RELOAD]);
  if (timeoutMs === 0) {
    return warning('wal_sender_timeout is 0: the slot of a consumer whose machine died stays taken', remedy);
  }
  if (timeoutMs < SENDER_TIMEOUT_MIN_MS) {
    return warning(
      `wal_sender_timeout is ${timeoutMs} ms: a consumer that is busy for a moment loses its connection`,
      remedy,
    );
  }
  return ok(formatSeconds(timeoutMs / 1_000));
};

/** The default of the server, and what is set for this database or for a login in it. */
const COMMIT_SETTINGS = `
  select 'the server' as scope, 'alter system reset synchronous_commit' as remedy
  from pg_settings where name = 'synchronous_commit' and boot_val = 'on' and reset_val = 'off'
    and source not in ('database', 'user', 'database user')
  union all
  select concat_ws(' in ', case when s.setrole <> 0 then 'role ' || r.rolname end, case when s.setdatabase <> 0 then 'database ' || d.datname end),
    case when s.setrole = 0 then format('alter database %I reset synchronous_commit', d.datname)
      when s.setdatabase = 0 then format('alter role %I reset synchronous_commit', r.rolname)
      else format('alter role %I in database %I reset synchronous_commit', r.rolname, d.datname) end
  from pg_db_role_setting s cross join lateral unnest(s.setconfig) as config (text)
  left join pg_roles r on r.oid = s.setrole
  left join pg_database d on d.oid = s.setdatabase
  where config.text in ('synchronous_commit=off', 'synchronous_commit=false', 'synchronous_commit=no', 'synchronous_commit=0')
    and (s.setdatabase = 0 or d.datname = current_database())`;

const lookAtCommits: Look = async ({ db }) => {
  const rows = await query<{ scope: string; remedy: string }>(db, COMMIT_SETTINGS);
  if (rows.length === 0) return ok('commits wait for the disk');
  const scopes = listNames(rows.map((row) => row.scope));
  return warning(
    `synchronous_commit is off for ${scopes}: such writes arrive some 200 ms late, and a crash may take back what was published`,
    statements([...rows.map((row) => row.remedy), RELOAD]),
  );
};

const lookAtDurability: Look = async ({ db }) => {
  const off: string[] = [];
  for (const name of ['fsync', 'full_page_writes']) {
    if ((await readSetting(db, name)) === 'off') off.push(name);
  }
  if (off.length === 0) return ok('fsync and full_page_writes are on');
  return warning(
    `${off.join(' and ')} off: a crash of the machine may leave this database in pieces`,
    statements([...off.map((name) => `alter system set ${name} = on`), RELOAD]),
  );
};

const OPEN_TRANSACTIONS = `
  select 'pid ' || pid as name, extract(epoch from now() - xact_start)::float8 as seconds,
    to_char(query_start, 'YYYY-MM-DD HH24:MI:SS') as query_start, format('select pg_terminate_backend(%s)', pid) as remedy
  from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid() and xact_start is not null
  union all
  select format('prepared transaction %L', gid), extract(epoch from now() - prepared)::float8,
    to_char(prepared, 'YYYY-MM-DD HH24:MI:SS'), format('rollback prepared %L', gid)
  from pg_prepared_xacts
  order by seconds desc`;

/** PostgreSQL waits for those that have written, in every database of the cluster, before a new slot begins. */
const lookAtTransactions: Look = async ({ db, slotName, limits }) => {
  const rows = await query<{ name: string; seconds: number; query_start: string | null; remedy: string }>(
    db,
    OPEN_TRANSACTIONS,
  );
  const scope = await query<{ slot: boolean; sees_all: boolean }>(
    db,
    `select exists (select from pg_replication_slots where slot_name = $1) as slot,
       pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees_all`,
    [slotName],
  );
  const slot = scope[0]?.slot === true;
  const blind = scope[0]?.sees_all === true ? '' : ' (this login sees its own sessions only)';
  const old = rows.filter(
    ({ seconds }) => seconds >= (slot ? limits.longTransactionSeconds : limits.openTransactionSeconds),
  );
  if (old.length === 0) return ok(`no transaction that has written is open for long${blind}`);
  const named = old.map(
    ({ name, seconds, query_start }) =>
      `${name}, open for ${formatSeconds(seconds)}, last query at ${query_start} UTC`,
  );
  return warning(
    `${listNames(named)}: ${slot ? 'keeps WAL back' : 'a new slot waits until it ends'}`,
    statements(old.map((row) => row.remedy)),
  );
};

/** Of the machine that this runs on, and only where it is the server's. */
const lookAtDisk: Look = async ({ db, url, limits }) => {
  if (!isLocal(url)) return skipped('PostgreSQL is on another machine');
  const directory = await readSetting(db, 'data_directory');
  // Settings that a login may not see are not in the view.
  if (directory === undefined) return skipped('this login may not see where the data are');
  const disk = await statfs(directory).catch(() => undefined);
  if (disk === undefined) return skipped(`${directory} cannot be looked into from here`);
  const freeBytes = disk.bavail * disk.bsize;
  const found = `${formatBytes(freeBytes)} free of ${formatBytes(disk.blocks * disk.bsize)}`;
  if (freeBytes >= limits.diskFreeBytes) return ok(found);
  return warning(`${found}: WAL kept for a slot soon fills it`, `df -h '${directory}'`);
};

export const SERVER_CHECKS: readonly CheckDefinition<PostgresContext>[] = [
  {
    name: 'postgres_version',
    means: 'Failure below PostgreSQL 15.',
    stops: true,
    look: lookAtVersion,
  },
  {
    name: 'postgres_primary',
    means: 'Failure on a standby, which takes no writes.',
    stops: true,
    look: lookAtPrimary,
  },
  { name: 'wal_level', means: 'Failure unless `logical`.', stops: true, look: lookAtWalLevel },
  {
    name: 'slots_free',
    means: 'Failure when `max_replication_slots` are in use and none of them is ours.',
    stops: true,
    look: lookAtPlaces({
      setting: 'max_replication_slots',
      noun: 'replication slots',
      count: 'select count(*) from pg_replication_slots',
      own: 'select from pg_replication_slots where slot_name = $1',
    }),
  },
  {
    name: 'wal_senders_free',
    means: 'Failure when `max_wal_senders` are in use and none of them serves our slot.',
    stops: true,
    look: lookAtPlaces({
      setting: 'max_wal_senders',
      noun: 'WAL senders',
      // Those that only ask which server this is, as this program does, are gone in a moment.
      count: `select count(*) from pg_stat_replication where state is distinct from 'startup'`,
      own: 'select from pg_replication_slots where slot_name = $1 and active',
    }),
  },
  {
    name: 'slot_wal_limit',
    means: 'Warning without `max_slot_wal_keep_size`: a stalled consumer fills the disk.',
    look: lookAtSlotLimit,
  },
  {
    name: 'idle_slot_timeout',
    means:
      'Warning when `idle_replication_slot_timeout` (18) is set: an outage that is longer loses the slot.',
    look: lookAtIdleTimeout,
  },
  {
    name: 'wal_sender_timeout',
    means: 'Warning when it is 0 (dead consumers keep the slot) or below 5 s (busy ones lose it).',
    look: lookAtSenderTimeout,
  },
  {
    name: 'synchronous_commit',
    means: 'Warning when it is off by default for the server, this database or a login: changes arrive late.',
    look: lookAtCommits,
  },
  {
    name: 'durability',
    means: 'Warning when `fsync` or `full_page_writes` is off.',
    look: lookAtDurability,
  },
  {
    name: 'open_transactions',
    means:
      'Warning of transactions that have written and are open for a minute where the slot is still to be made (it waits for them), for an hour where it is there (they keep WAL back), prepared ones included.',
    look: lookAtTransactions,
  },
  {
    name: 'disk_free',
    means:
      'Warning below 2 GB where the data directory is on this machine and can be looked into; else skipped.',
    look: lookAtDisk,
  },
];
