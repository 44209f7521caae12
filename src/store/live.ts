import { type Database, query } from '../postgres.ts';

/** What a snapshot says now, in short, and what of it MongoDB has confirmed. */
export interface LiveSnapshot {
  booking_id: string;
  crop_type: string;
  status: string;
  revision: number;
  updated_at: Date;
  /**
   * When the change was committed that MongoDB has not confirmed yet; when the snapshot was computed, if that is not
   * known or there is none.
   */
  changed_at: Date;
  /** When MongoDB confirmed this version; null when it has not. */
  confirmed_at: Date | null;
}

/** These bookings' snapshots in short; one that is gone is left out. */
export async function readLive(db: Database, bookingIds: readonly string[]): Promise<LiveSnapshot[]> {
  return query<LiveSnapshot & Record<string, unknown>>(
    db,
    `select s.booking_id, s.crop_type, s.status, s.revision, s.updated_at,
       coalesce(state.changed_at, s.updated_at) as changed_at,
       case when (state.published_epoch, state.published_revision) >= (s.epoch, s.revision)
         then s.last_synced_at end as confirmed_at
     from market_inventory_snapshots s
     join market_sync.snapshot_state state on state.booking_id = s.booking_id
     where s.booking_id = any ($1)`,
    [bookingIds],
  );
}
