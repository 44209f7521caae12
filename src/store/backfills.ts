import { type Database, query } from '../postgres.ts';

/** How a backfill stands, from the views alone: whoever may look can follow it. */
export interface BackfillProgress {
  state: 'queued' | 'running' | 'done' | 'failed' | 'cancelled';
  total: number | null;
  done: number;
  failed: number;
  rate_per_second: number | null;
  eta_seconds: number | null;
  /** From its beginning to its end, or to now. */
  seconds: number;
  error: string | null;
  /** Why the pipeline is paused, if it is. */
  pause_reason: string | null;
  /** Whether a consumer shows signs of life: then a pipeline works jobs, too. */
  pipeline_alive: boolean;
  /** Snapshots that MongoDB has not confirmed; counted up to 100,001. */
  to_publish: number;
}

/** Undefined when there is no backfill of this id. */
export async function readBackfill(db: Database, id: string): Promise<BackfillProgress | undefined> {
  const rows = await query<BackfillProgress & Record<string, unknown>>(
    db,
    `select b.state, b.total, b.done, b.failed, b.rate_per_second, extract(epoch from b.time_left)::float8 as eta_seconds,
       coalesce(extract(epoch from coalesce(b.finished_at, clock_timestamp()) - b.started_at), 0)::float8 as seconds, b.error,
       case when s.paused_at is not null then coalesce(s.pause_reason, '') end as pause_reason,
       s.consumer_state = 'active' as pipeline_alive, s.to_publish
     from market_sync.backfills b cross join market_sync.status s where b.id = $1`,
    [id],
  );
  return rows[0];
}
