import { type Database, query } from '../postgres.ts';

/** One row of the audit log (I8). */
export interface AuditEntry {
  id: number;
  at: Date;
  action: string;
  actor: string;
  /** The database login that did it; the API's own where it acted for an actor. */
  db_user: string;
  via: 'sql' | 'http';
  booking_ids: string[] | null;
  reason: string | null;
  details: Record<string, unknown>;
  request_id: string | null;
}

/** Ids are handed out in the order of the actions, though two at the same moment may commit the other way round. */
export interface AuditPage {
  entries: AuditEntry[];
  /** The id before which the next page begins. */
  next: number | undefined;
}

const ENTRIES = `select id, at, action, actor, db_user, via, booking_ids, reason, details, request_id
  from market_sync.audit_log`;

// Found by the booking first: for one with few entries the planner would rather walk backwards through all there are.
const ENTRIES_OF_BOOKING = `
  with entry as materialized (select id from market_sync.audit_log where booking_ids @> array[$3::uuid])
  ${ENTRIES}
  where id in (select id from entry where ($1::bigint is null or id < $1) order by id desc limit $2)
  order by id desc`;

/** The audit log, newest first, of one booking or of all; at most `limit` entries with an id below `before`. */
export async function listAudit(
  db: Database,
  { bookingId, before, limit }: { bookingId?: string; before: number | undefined; limit: number },
): Promise<AuditPage> {
  const rows = await query<AuditEntry & Record<string, unknown>>(
    db,
    bookingId === undefined
      ? `${ENTRIES} where ($1::bigint is null or id < $1) order by id desc limit $2`
      : ENTRIES_OF_BOOKING,
    [before ?? null, limit + 1, ...(bookingId === undefined ? [] : [bookingId])],
  );
  const entries = rows.slice(0, limit);
  return { entries, next: rows.length > limit ? entries.at(-1)?.id : undefined };
}

/** A version of a snapshot that was. */
export interface Revision {
  epoch: number;
  revision: number;
  at: Date;
  status: string;
  /** What changed: see the comment of the table. */
  cause: 'new' | 'own' | 'parts' | 'epoch';
}

/** The last revisions of a booking's snapshot, newest first: at most 16 are kept. */
export async function listRevisions(db: Database, bookingId: string): Promise<Revision[]> {
  return query<Revision & Record<string, unknown>>(
    db,
    `select epoch, revision, at, status, cause from market_sync.revision where booking_id = $1
     order by epoch desc, revision desc`,
    [bookingId],
  );
}
