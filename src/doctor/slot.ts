import type pg from 'pg';
import { describeError } from '../errors.ts';
import { parseLsn } from '../lsn.ts';
import { query } from '../postgres.ts';
import { readCheckpoint } from '../store/checkpoint.ts';
import { type CheckDefinition, failure, formatBytes, ok, skipped, warning } from './check.ts';
import type { ClusterIdentity, PostgresContext } from './postgres-context.ts';
import { FAILOVER_SLOTS_FROM } from './standbys.ts';

type Look = CheckDefinition<PostgresContext>['look'];

const RUN = 'market-sync pipeline';

interface Slot {
  plugin: string;
  database: string | null;
  active: boolean;
  wal_status: string | null;
  confirmed_lsn: string;
  synced: boolean;
  retained_bytes: number | null;
  safe_bytes: number | null;
  kept_bytes: number;
}

/** WAL positions of a standby are another function's; there is no slot to judge on one. */
async function findSlot(db: pg.ClientBase, slotName: string): Promise<Slot | undefined> {
  const rows = await query<Slot>(
    db,
    `select coalesce(plugin::text, '(physical)') as plugin, database::text, active, wal_status,
       coalesce(confirmed_flush_lsn, '0/0')::text as confirmed_lsn,
       -- By way of JSON, because PostgreSQL before 17 has no such column.
       coalesce((to_jsonb(s) ->> 'synced')::boolean, false) as synced,
       pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 as retained_bytes, safe_wal_size::float8 as safe_bytes,
       (select max(setting::bigint) * 1024 * 1024 from pg_settings where name in ('max_slot_wal_keep_size', 'wal_keep_size'))::float8 as kept_bytes
     from pg_replication_slots s where slot_name = $1`,
    [slotName],
  );
  return rows[0];
}

const lookAtOwner: Look = async ({ db, slotName, facts }) => {
  const slot = await findSlot(db, slotName);
  if (slot === undefined) return ok(`no other slot is called ${slotName}`);
  if (slot.plugin === 'pgoutput' && slot.database === facts.database) return ok(`${slotName} is ours`);
  return failure(
    `a slot called ${slotName} is in database ${slot.database ?? '(none)'} with plugin ${slot.plugin}: names are unique in a cluster`,
    `export SLOT_NAME=${`${slotName}_2`.slice(-63)}`,
  );
};

/** Undefined when it is not known: nothing is installed, or this login may not see it. */
async function hasBegun({ db, facts }: PostgresContext): Promise<boolean> {
  return facts.installed && (await readCheckpoint(db)).commitLsn !== undefined;
}

/** Without a limit, so much held back is a disk that fills: as market_sync.judge_slot() has it. */
const RETAINED_MAX_BYTES = 16 * 1024 ** 3;

const lookAtSlot: Look = async (ctx) => {
  const slot = await findSlot(ctx.db, ctx.slotName);
  if (slot === undefined) {
    if (!(await hasBegun(ctx))) return ok('none yet: the first start makes it');
    return failure('gone: a pipeline makes another and recomputes everything', RUN);
  }
  if (slot.plugin !== 'pgoutput' || slot.database !== ctx.facts.database)
    return skipped('see slot_owner: it is not ours');
  const kept = `${formatBytes(slot.retained_bytes ?? 0)} of WAL kept`;
  if (slot.wal_status === 'lost') {
    return failure(
      'lost: WAL it needed was removed. A pipeline makes another and recomputes everything',
      RUN,
    );
  }
  if (slot.wal_status === 'unreserved') {
    return failure(`unreserved: the next checkpoint may remove WAL that it needs (${kept})`, RUN);
  }
  const filling =
    slot.safe_bytes === null
      ? (slot.retained_bytes ?? 0) > RETAINED_MAX_BYTES
      : slot.safe_bytes < 0.25 * slot.kept_bytes;
  if (filling) return warning(`filling: the consumer does not confirm (${kept})`, 'market-sync status');
  if (!slot.active) return warning(`nobody streams from it (${kept})`, RUN);
  return ok(`streaming, ${kept}`);
};

const lookAtCheckpoint: Look = async ({ db, facts, slotName, url, replication }) => {
  if (!facts.installed) return skipped('not installed yet');
  const checkpoint = await readCheckpoint(db);
  if (checkpoint.commitLsn === undefined) return ok('none yet: the first start makes it');
  let system: ClusterIdentity;
  try {
    system = await replication.identify(url);
  } catch (error) {
    return skipped(`which cluster this is could not be asked (${describeError(error)})`);
  }
  const slot = await findSlot(db, slotName);
  const cut = replication.findCut(
    checkpoint,
    slot === undefined
      ? undefined
      : { confirmedLsn: parseLsn(slot.confirmed_lsn), lost: slot.wal_status === 'lost', synced: slot.synced },
    system,
  );
  if (cut === undefined) return ok(`goes on where it ended, epoch ${checkpoint.epoch}`);
  return warning(`${cut}: the next start raises the epoch, recomputes and publishes everything`, RUN);
};

const STANDBYS = `
  select count(*) from pg_stat_replication r where state = 'streaming'
    and not exists (select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')`;

const lookAtFailover: Look = async ({ db, facts, slotName }) => {
  const rows = await query<{ count: number }>(db, STANDBYS);
  const standbys = rows[0]?.count ?? 0;
  if (standbys === 0) return ok('no standby streams from this server');
  if (facts.version < FAILOVER_SLOTS_FROM) {
    return ok(
      `${standbys} standbys; before PostgreSQL 17 a slot stays behind: a failover has everything recomputed`,
    );
  }
  const slots = await query<{ failover: boolean }>(
    db,
    'select failover from pg_replication_slots where slot_name = $1',
    [slotName],
  );
  if (slots[0] === undefined) return ok('the first start makes the slot a failover slot');
  if (slots[0].failover) {
    return ok(`a failover slot; ${standbys} standbys take it along where sync_replication_slots is on`);
  }
  return warning(
    `${standbys} standbys, and the slot is no failover slot: a failover has everything recomputed. With the pipeline stopped:`,
    `psql "$DATABASE_URL?replication=database" -c 'ALTER_REPLICATION_SLOT "${slotName}" (FAILOVER true)'`,
  );
};

const onPrimary =
  (look: Look): Look =>
  (ctx) =>
    ctx.facts.standby ? skipped('a standby') : look(ctx);

export const SLOT_CHECKS: readonly CheckDefinition<PostgresContext>[] = [
  {
    name: 'slot_owner',
    means: 'Failure when a slot called `SLOT_NAME` belongs to another database or plugin.',
    stops: true,
    look: onPrimary(lookAtOwner),
  },
  {
    name: 'slot',
    means:
      'Failure when it is gone after the first start, lost or unreserved; warning when it fills or nobody streams from it.',
    look: onPrimary(lookAtSlot),
  },
  {
    name: 'checkpoint',
    means:
      'Warning when it belongs to another cluster or timeline, or is behind the slot: the next start recomputes everything.',
    look: onPrimary(lookAtCheckpoint),
  },
  {
    name: 'failover_slot',
    means: 'Warning (17) when a standby streams and the slot is no failover slot.',
    look: onPrimary(lookAtFailover),
  },
];
