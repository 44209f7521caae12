import type pg from 'pg';
import { crashPoint } from '../src/crash-point.ts';
import { describeError, EnvironmentError, FencedError } from '../src/errors.ts';
import type { Logger } from '../src/log.ts';
import { formatLsn, type Lsn, parseLsn } from '../src/lsn.ts';
import {
  ConnectionLostError,
  classifyPostgresError,
  connect,
  type Database,
  query,
  sqlStateOf,
} from '../src/postgres.ts';
import {
  beginHistory,
  type Checkpoint,
  followTimeline,
  readCheckpoint,
  renewConsumer,
} from '../src/store/checkpoint.ts';
import { judgeContinuity } from './continuity.ts';
import { alterSlotFailover, type SystemIdentity } from './replication-server.ts';

/** The replication slot as PostgreSQL has it. */
export interface Slot {
  confirmedLsn: Lsn;
  active: boolean;
  activePid: number | undefined;
  /** `lost`: PostgreSQL has removed WAL that the slot still needed. */
  lost: boolean;
  /** True when a standby was given it by the server that it stood by, and has become a server since. */
  synced: boolean;
  /** Whether standbys carry it over; undefined before PostgreSQL 17, which cannot. */
  failover: boolean | undefined;
  plugin: string;
  database: string;
}

export async function findSlot(db: Database, slotName: string): Promise<Slot | undefined> {
  const rows = await query<{
    confirmed_lsn: string | null;
    active: boolean;
    active_pid: number | null;
    lost: boolean;
    synced: boolean;
    failover: boolean | null;
    plugin: string | null;
    database: string | null;
  }>(
    db,
    // By way of JSON, because PostgreSQL before 17 has neither column.
    `select coalesce(confirmed_flush_lsn, '0/0')::text as confirmed_lsn, active, active_pid,
       coalesce(wal_status = 'lost', false) as lost,
       coalesce((to_jsonb(s) ->> 'synced')::boolean, false) as synced, (to_jsonb(s) ->> 'failover')::boolean as failover,
       plugin, database
     from pg_replication_slots s where slot_name = $1`,
    [slotName],
  );
  const row = rows[0];
  if (row === undefined) return undefined;
  return {
    confirmedLsn: parseLsn(row.confirmed_lsn ?? '0/0'),
    active: row.active,
    activePid: row.active_pid ?? undefined,
    lost: row.lost,
    synced: row.synced,
    failover: row.failover ?? undefined,
    plugin: row.plugin ?? '(physical)',
    database: row.database ?? '(none)',
  };
}

export interface SlotContext {
  pool: pg.Pool;
  databaseUrl: string;
  slotName: string;
  /** Whether standbys are to carry the slot over, where PostgreSQL can. */
  slotFailover: boolean;
  leaseSeconds: number;
  log: Logger;
  readMarketEpoch: () => Promise<number>;
}

/**
 * Finds or makes the slot and answers where the stream begins. When changes may have been lost it says so loudly, and
 * begins a new history: a fresh slot, a higher epoch, a recompute of everything (D6).
 *
 * Everything that is judged is read by way of `control`, so that it is of one server also while another takes over.
 */
export async function prepareSlot(
  ctx: SlotContext,
  {
    control,
    generation,
    system,
    signal,
  }: { control: pg.ClientBase; generation: number; system: SystemIdentity; signal: AbortSignal },
): Promise<Lsn> {
  const { slotName, log } = ctx;
  const [checkpoint, slot] = [await readCheckpoint(control), await findSlot(control, slotName)];
  if (slot !== undefined) requireOwnSlot(slot, { slotName, database: await currentDatabase(control) });
  const continuity = judgeContinuity(checkpoint, slot, system);
  if (continuity.state === 'continue') {
    if (checkpoint.timeline !== system.timeline)
      await follow(ctx, { control, generation, checkpoint, system });
    if (slot?.failover === !ctx.slotFailover) await alterFailover(ctx);
    return continuity.startLsn;
  }
  const cut = continuity.state === 'cut';
  const reason = cut ? continuity.reason : 'first start';
  if (cut)
    log.error({ reason }, 'changes may have been lost, everything will be recomputed and published again');
  const marketEpoch = await ctx.readMarketEpoch();
  // Whoever lost its place meanwhile must not drop the slot that its successor is about to use.
  const held = await renewConsumer(control, { generation, leaseSeconds: ctx.leaseSeconds });
  if (!held) throw new FencedError('another consumer has taken over');
  await crashPoint('consumer.history_cut');
  const commitLsn = await recreateUnlessAborted(ctx, { generation, signal });
  await crashPoint('consumer.slot_created');
  const { systemIdentifier, timeline } = system;
  const epoch = await beginHistory(control, {
    generation,
    slotName,
    systemIdentifier,
    timeline,
    commitLsn,
    cut,
    marketEpoch,
    reason,
  });
  log.info({ slot_name: slotName, commit_lsn: formatLsn(commitLsn), epoch, reason }, 'history begins');
  return commitLsn;
}

/**
 * A standby has taken over, and nothing is lost on the stream. Whether a change that MongoDB has seen was lost with the
 * server before it, the comparison of every listing tells, which this asks for (D22).
 */
async function follow(
  { log }: SlotContext,
  {
    control,
    generation,
    checkpoint,
    system,
  }: { control: pg.ClientBase; generation: number; checkpoint: Checkpoint; system: SystemIdentity },
): Promise<void> {
  await followTimeline(control, { generation, timeline: system.timeline });
  log.warn(
    { timeline: system.timeline, left_timeline: checkpoint.timeline, epoch: checkpoint.epoch },
    'a standby has taken over with the replication slot: going on where the checkpoint is',
  );
}

/** Slots made before PostgreSQL 17, or with another setting. A failover is a matter of later: work does not wait for it. */
async function alterFailover({ databaseUrl, slotName, slotFailover, log }: SlotContext): Promise<void> {
  try {
    await alterSlotFailover(databaseUrl, { slotName, failover: slotFailover });
    log.info({ slot_name: slotName, failover: slotFailover }, 'the replication slot was altered');
  } catch (error) {
    if (classifyPostgresError(error) === 'retryable') throw error;
    log.warn(
      { slot_name: slotName, failover: slotFailover, error: describeError(error) },
      'the replication slot cannot be altered: standbys may not carry it over as SLOT_FAILOVER says',
    );
  }
}

/** PostgreSQL waits for open transactions, and a stop does not wait for PostgreSQL. */
async function recreateUnlessAborted(
  ctx: SlotContext,
  { generation, signal }: { generation: number; signal: AbortSignal },
): Promise<Lsn> {
  signal.throwIfAborted();
  const holder = { slotName: ctx.slotName, generation };
  const giveUp = (): void => void terminateSlotHolder(ctx.pool, holder).catch(() => undefined);
  signal.addEventListener('abort', giveUp);
  try {
    return await recreateSlot(ctx);
  } finally {
    signal.removeEventListener('abort', giveUp);
  }
}

async function currentDatabase(db: Database): Promise<string> {
  const rows = await query<{ name: string }>(db, 'select current_database() as name');
  return rows[0]?.name ?? '';
}

/**
 * Makes a fresh slot, after dropping an old one of that name, and answers where it begins. PostgreSQL waits for every
 * open transaction of the cluster first, however long they take.
 */
async function recreateSlot({ pool, slotName, slotFailover, log }: SlotContext): Promise<Lsn> {
  const client = await connect(pool);
  try {
    await query(client, 'set statement_timeout = 0; set lock_timeout = 0');
    await query(
      client,
      'select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1',
      [slotName],
    );
    log.info({ slot_name: slotName }, 'creating the replication slot, waiting for open transactions to end');
    const version = await query<{ number: number }>(
      client,
      `select current_setting('server_version_num')::int as number`,
    );
    // From 17 on the slot is carried over to standbys that ask for it.
    const failover = slotFailover && (version[0]?.number ?? 0) >= 170_000 ? ', false, false, true' : '';
    const rows = await query<{ lsn: string }>(
      client,
      `select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput'${failover})`,
      [slotName],
    );
    if (rows[0] === undefined) throw new Error('pg_create_logical_replication_slot answered nothing');
    return parseLsn(rows[0].lsn);
  } catch (error) {
    if (sqlStateOf(error) === '53400') {
      throw new EnvironmentError(
        `SLOT_NAME=${slotName}: PostgreSQL has no replication slot free. Raise max_replication_slots, or drop an unused slot.`,
        { cause: error },
      );
    }
    return throwSlotChanged(error);
  } finally {
    client.release(true);
  }
}

/** A slot that somebody has dropped or made since it was looked at: the next session judges anew. Throws in any case. */
export function throwSlotChanged(error: unknown): never {
  const [gone, there] = ['42704', '42710'];
  const state = sqlStateOf(error);
  if (state !== gone && state !== there) throw error;
  throw new ConnectionLostError('the replication slot has changed since it was looked at', { cause: error });
}

/** Refuses a slot of that name which is somebody else's. */
export function requireOwnSlot(
  slot: Slot,
  { slotName, database }: { slotName: string; database: string },
): void {
  if (slot.plugin === 'pgoutput' && slot.database === database) return;
  throw new EnvironmentError(
    `SLOT_NAME=${slotName}: a slot of that name exists in database ${slot.database} with plugin ${slot.plugin}. ` +
      `Choose another SLOT_NAME; slot names are unique in a PostgreSQL cluster.`,
  );
}

/**
 * Ends the walsender that still holds the slot: of a consumer that hangs, or of a connection that died unseen. Whoever
 * has lost its place meanwhile would end its successor's, and does nothing.
 */
export async function terminateSlotHolder(
  db: Database,
  { slotName, generation }: { slotName: string; generation: number },
): Promise<void> {
  await query(
    db,
    `select pg_terminate_backend(active_pid, 5000) from pg_replication_slots
     where slot_name = $1 and active and exists (select from market_sync.checkpoint where generation = $2)`,
    [slotName, generation],
  );
}

/**
 * The slot that streams must be the one that was judged: had somebody made it anew in between, the server would
 * silently begin later. It cannot have moved by itself, because nothing has been confirmed yet. And it must be of the
 * server that the checkpoint is on: while a standby takes over, connections reach now the one, now the other.
 */
export async function requireSameSlot(
  control: pg.ClientBase,
  { slotName, startLsn }: { slotName: string; startLsn: Lsn },
): Promise<void> {
  const slot = await findSlot(control, slotName);
  if (slot === undefined || slot.confirmedLsn > startLsn) {
    throw new ConnectionLostError('the replication slot was made anew while the stream began');
  }
  if (!slot.active) {
    throw new ConnectionLostError('the stream has ended, or comes from another server than the checkpoint');
  }
}
