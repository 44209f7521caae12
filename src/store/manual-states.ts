import { type Database, query } from '../postgres.ts';

/** A booking that a person has taken off the market. */
export interface ManualState {
  booking_id: string;
  state: 'held' | 'withdrawn';
  reason: string;
  actor: string;
  since: Date;
}

export async function findManualState(db: Database, bookingId: string): Promise<ManualState | undefined> {
  const rows = await query<ManualState & Record<string, unknown>>(
    db,
    'select booking_id, state, reason, actor, since from market_sync.manual_state where booking_id = $1',
    [bookingId],
  );
  return rows[0];
}

/** A place in the order of `listManualStates`. */
export interface ManualStateCursor {
  /** As PostgreSQL prints it, with microseconds. */
  since: string;
  bookingId: string;
}

/** A listed one, with what its snapshot says of the crop; null when it has none. */
export type ListedManualState = ManualState & { crop_type: string | null };

/** Bookings in this state by hand, the latest first, after the cursor; at most `limit`. */
export async function listManualStates(
  db: Database,
  {
    state,
    after,
    limit,
  }: { state: ManualState['state']; after: ManualStateCursor | undefined; limit: number },
): Promise<{ listed: ListedManualState[]; next: ManualStateCursor | undefined }> {
  const rows = await query<ListedManualState & { cursor_since: string }>(
    db,
    `select m.booking_id, m.state, m.reason, m.actor, m.since, s.crop_type, m.since::text as cursor_since
     from market_sync.manual_state m
     left join market_inventory_snapshots s on s.booking_id = m.booking_id
     where m.state = $1 and ($2::timestamptz is null or (m.since, m.booking_id) < ($2, $3::uuid))
     order by m.since desc, m.booking_id desc limit $4`,
    [state, after?.since ?? null, after?.bookingId ?? null, limit + 1],
  );
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  return {
    listed: page.map(({ cursor_since: _, ...entry }) => entry),
    next:
      rows.length > limit && last !== undefined
        ? { since: last.cursor_since, bookingId: last.booking_id }
        : undefined,
  };
}
