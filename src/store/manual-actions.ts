import type pg from 'pg';
import { type Database, inTransaction, query, sqlStateOf } from '../postgres.ts';
import type { Repair } from './drift-run.ts';
import { type Reconciled, reconcileBookings } from './reconcile.ts';

// What people do by hand. Each function is one call of the SQL function of the same name, which audits it in the
// transaction that performs it (I8); asActor() says in whose name the API does so.

/** In whose name, and for which call. */
export interface Actor {
  /** Name of the key or token that the caller has shown. */
  actor: string;
  requestId: string;
  /** Key of the call, claimed in `market_sync.idempotency`: however often it is repeated, the audit log has it once. */
  idempotencyKey: string | undefined;
}

/** Why an action was refused. Nothing was changed, and nothing audited. */
export type Refusal = 'unknown_booking' | 'conflict' | 'version' | 'bad_argument' | 'paused';

const REFUSALS: Record<string, Refusal> = {
  MS404: 'unknown_booking',
  MS409: 'conflict',
  MS412: 'version',
  MS422: 'bad_argument',
  MS423: 'paused',
};

/** An action that the state of things forbids; the message says which, and the hint what to do. */
export class RefusedError extends Error {
  override name = 'RefusedError';
  readonly refusal: Refusal;
  readonly hint: string | undefined;

  constructor(refusal: Refusal, { message, hint }: { message: string; hint: string | undefined }) {
    super(message);
    this.refusal = refusal;
    this.hint = hint;
  }
}

/**
 * Runs manual actions in one transaction in the name of `actor`. The database believes the name only from a member of
 * `market_sync_api` or the owner of the schema. Throws `RefusedError` for what the state of things forbids.
 */
export async function asActor<Result>(
  pool: pg.Pool,
  actor: Actor,
  work: (client: pg.PoolClient) => Promise<Result>,
): Promise<Result> {
  try {
    return await inTransaction(pool, async (client) => {
      await query(
        client,
        `select set_config('market_sync.actor', $1, true), set_config('market_sync.request_id', $2, true),
           set_config('market_sync.idempotency_key', $3, true)`,
        [actor.actor, actor.requestId, actor.idempotencyKey ?? ''],
      );
      return await work(client);
    });
  } catch (error) {
    throw toRefusal(error);
  }
}

function toRefusal(error: unknown): unknown {
  const refusal = REFUSALS[sqlStateOf(error) ?? ''];
  if (refusal === undefined) return error;
  const { message, hint } = error as pg.DatabaseError;
  return new RefusedError(refusal, { message, hint });
}

/** Takes listings off the market until they are released; they go on following their source. */
export async function holdBookings(
  db: Database,
  { bookingIds, reason }: { bookingIds: string[]; reason: string },
): Promise<void> {
  await query(db, 'select market_sync.hold($1, $2)', [bookingIds, reason]);
}

/** Withdraws listings as if their bookings were cancelled. */
export async function withdrawBookings(
  db: Database,
  { bookingIds, reason }: { bookingIds: string[]; reason: string },
): Promise<void> {
  await query(db, 'select market_sync.withdraw($1, $2)', [bookingIds, reason]);
}

/** Ends holds and withdrawals by hand. */
export async function releaseBookings(
  db: Database,
  { bookingIds, reason }: { bookingIds: string[]; reason: string | undefined },
): Promise<void> {
  await query(db, 'select market_sync.release($1, $2)', [bookingIds, reason ?? null]);
}

/** Fields that a person can correct; null or missing ones follow the source. */
export interface OverrideFields {
  grade?: string | null | undefined;
  quality_score?: number | null | undefined;
  freshness?: string | null | undefined;
  visual_defects?: string | null | undefined;
  special_notes?: string | null | undefined;
}

export interface Override extends Required<OverrideFields> {
  booking_id: string;
  reason: string;
  actor: string;
  set_at: Date;
  expires_at: Date | null;
  /** Another one with every write. */
  version: number;
}

/** The override in force, or undefined. */
export async function findOverride(db: Database, bookingId: string): Promise<Override | undefined> {
  const rows = await query<Override & Record<string, unknown>>(
    db,
    `select booking_id, grade, quality_score, freshness, visual_defects, special_notes, reason, actor, set_at, expires_at, version
     from market_sync.override where booking_id = $1 and (expires_at is null or expires_at > clock_timestamp())`,
    [bookingId],
  );
  return rows[0];
}

/**
 * Replaces the override of a booking; answers its version. `ifVersion`: only if the present one has it, 0: only if there
 * is none.
 */
export async function setOverride(
  db: Database,
  override: {
    bookingId: string;
    reason: string;
    fields: OverrideFields;
    expiresAt: Date | undefined;
    ifVersion: number | undefined;
  },
): Promise<number> {
  const { fields } = override;
  const rows = await query<{ version: number }>(
    db,
    'select market_sync.set_override($1, $2, $3, $4, $5, $6, $7, $8, $9) as version',
    [
      override.bookingId,
      override.reason,
      fields.grade ?? null,
      fields.quality_score ?? null,
      fields.freshness ?? null,
      fields.visual_defects ?? null,
      fields.special_notes ?? null,
      override.expiresAt ?? null,
      override.ifVersion ?? null,
    ],
  );
  const version = rows[0]?.version;
  if (version === undefined) throw new Error('set_override answered nothing');
  return version;
}

/** Ends the override of a booking; false when there is none. */
export async function endOverride(
  db: Database,
  { bookingId, reason, ifVersion }: { bookingId: string; reason?: string; ifVersion: number | undefined },
): Promise<boolean> {
  const rows = await query<{ ended: boolean }>(db, 'select market_sync.end_override($1, $2, $3) as ended', [
    bookingId,
    reason ?? null,
    ifVersion ?? null,
  ]);
  return rows[0]?.ended === true;
}

/** Stops everything that runs by itself, in whatever process; answers since when. */
export async function pausePipeline(db: Database, reason: string): Promise<Date> {
  const rows = await query<{ paused_at: Date }>(db, 'select market_sync.pause($1) as paused_at', [reason]);
  const pausedAt = rows[0]?.paused_at;
  if (pausedAt === undefined) throw new Error('pause answered nothing');
  return pausedAt;
}

/** Ends a pause. */
export async function resumePipeline(db: Database): Promise<void> {
  await query(db, 'select market_sync.resume()');
}

export interface Pause {
  paused_at: Date;
  paused_by: string;
  reason: string;
}

/** The pause in force, or undefined. */
export async function findPause(db: Database): Promise<Pause | undefined> {
  const rows = await query<Pause & Record<string, unknown>>(
    db,
    `select paused_at, coalesce(paused_by, '') as paused_by, coalesce(pause_reason, '') as reason
     from market_sync.checkpoint where paused_at is not null`,
  );
  return rows[0];
}

/** Asks for a recompute of everything; answers the resync's id. */
export async function resyncAll(db: Database, reason: string): Promise<number> {
  const rows = await query<{ id: number }>(db, 'select market_sync.resync($1) as id', [reason]);
  const id = rows[0]?.id;
  if (id === undefined) throw new Error('resync answered nothing');
  return id;
}

/** Asks for a comparison of everything; answers the audit's id. One that is open serves all who ask. */
export async function auditAll(
  db: Database,
  { reason, repair }: { reason: string; repair: Repair },
): Promise<number> {
  const rows = await query<{ id: number }>(db, 'select market_sync.audit($1, $2) as id', [reason, repair]);
  const id = rows[0]?.id;
  if (id === undefined) throw new Error('audit answered nothing');
  return id;
}

/** Makes these listings due again, published or not; whoever calls writes them, or the next publisher does. */
export async function publishNow(db: Database, bookingIds: string[]): Promise<void> {
  await query(db, 'select market_sync.publish_now($1)', [bookingIds]);
}

/** Recomputes these snapshots now, as of `now`. */
export async function reconcileNow(
  db: Database,
  { bookingIds, now }: { bookingIds: string[]; now: Date | undefined },
): Promise<Reconciled[]> {
  await recordAction(db, { action: 'reconcile', bookingIds });
  return reconcileBookings(db, { bookingIds, now });
}

/** One row of the audit log, for actions that have no SQL function of their own. */
export async function recordAction(
  db: Database,
  {
    action,
    bookingIds,
    reason,
    details,
  }: { action: string; bookingIds?: string[]; reason?: string; details?: Record<string, unknown> },
): Promise<void> {
  await query(db, 'select market_sync.record_action($1, $2, $3, $4)', [
    action,
    bookingIds ?? null,
    reason ?? null,
    JSON.stringify(details ?? {}),
  ]);
}
