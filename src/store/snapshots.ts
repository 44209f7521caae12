import type { Snapshot } from '../domain/snapshot.ts';
import { type Database, query } from '../postgres.ts';

/** A snapshot with what people have decided about it. */
export interface MarkedSnapshot extends Snapshot {
  /** Fields that an override speaks for. */
  override: string[];
  /** Why a person has taken it off the market; null when nobody has. */
  manual_state: { state: 'held' | 'withdrawn'; reason: string; actor: string; since: string | null } | null;
}

const MARKS = `
  array(
    select field.name from market_sync.override o
    cross join lateral (values
      ('grade', o.grade is not null), ('quality_score', o.quality_score is not null),
      ('freshness', o.freshness is not null), ('visual_defects', o.visual_defects is not null),
      ('special_notes', o.special_notes is not null)) as field (name, overridden)
    where o.booking_id = s.booking_id and (o.expires_at is null or o.expires_at > clock_timestamp())
      and field.overridden) as override,
  (select jsonb_build_object('state', m.state, 'reason', m.reason, 'actor', m.actor, 'since', market_sync.iso(m.since))
   from market_sync.manual_state m where m.booking_id = s.booking_id) as manual_state`;

/** One booking's snapshot, or undefined. */
export async function findSnapshot(db: Database, bookingId: string): Promise<MarkedSnapshot | undefined> {
  const rows = await query<MarkedSnapshot & Record<string, unknown>>(
    db,
    `select s.*, ${MARKS} from market_inventory_snapshots s where s.booking_id = $1`,
    [bookingId],
  );
  return rows[0];
}

export interface SnapshotFilter {
  status?: string;
  farmerId?: string;
  locationId?: string;
  cropType?: string;
}

/** A place in the order of `listSnapshots`: that of the last snapshot of the page before. */
export interface SnapshotCursor {
  /** As PostgreSQL prints it, with microseconds: a JavaScript `Date` would skip or repeat rows. */
  createdAt: string;
  bookingId: string;
}

export interface SnapshotPage {
  snapshots: MarkedSnapshot[];
  next: SnapshotCursor | undefined;
}

/** Snapshots that match every given filter, newest first, after the cursor; at most `limit`. */
export async function listSnapshots(
  db: Database,
  { filter, after, limit }: { filter: SnapshotFilter; after: SnapshotCursor | undefined; limit: number },
): Promise<SnapshotPage> {
  const rows = await query<MarkedSnapshot & { cursor_created_at: string }>(
    db,
    `select s.*, s.created_at::text as cursor_created_at, ${MARKS} from market_inventory_snapshots s
     where ($1::text is null or status = $1)
       and ($2::uuid is null or farmer_id = $2)
       and ($3::uuid is null or location_id = $3)
       and ($4::text is null or crop_type = $4)
       and ($5::timestamptz is null or (created_at, booking_id) < ($5, $6::uuid))
     order by created_at desc, booking_id desc
     limit $7`,
    [
      filter.status ?? null,
      filter.farmerId ?? null,
      filter.locationId ?? null,
      filter.cropType ?? null,
      after?.createdAt ?? null,
      after?.bookingId ?? null,
      limit + 1,
    ],
  );
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  return {
    snapshots: page.map(({ cursor_created_at: _, ...snapshot }) => snapshot),
    next:
      rows.length > limit && last !== undefined
        ? { createdAt: last.cursor_created_at, bookingId: last.booking_id }
        : undefined,
  };
}

/** What holds one snapshot back, if anything: why it failed last and whether it is parked. */
export interface Trouble {
  parked: boolean;
  error: string | undefined;
  attempts: number;
}

export async function findTrouble(db: Database, bookingId: string): Promise<Trouble | undefined> {
  const rows = await query<{ parked: boolean; last_error: string | null; attempts: number }>(
    db,
    `select parked_at is not null as parked, last_error, attempts
     from market_sync.snapshot_state where booking_id = $1`,
    [bookingId],
  );
  const row = rows[0];
  return row === undefined
    ? undefined
    : { parked: row.parked, error: row.last_error ?? undefined, attempts: row.attempts };
}

/** Whether the application has this booking, whatever its state. */
export async function bookingExists(db: Database, bookingId: string): Promise<boolean> {
  const rows = await query<{ found: boolean }>(
    db,
    'select exists (select from storage_bookings where id = $1) as found',
    [bookingId],
  );
  return rows[0]?.found === true;
}
