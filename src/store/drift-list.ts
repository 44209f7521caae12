import { type Database, query } from '../postgres.ts';
import type { AuditRun, FindingKind } from './drift-run.ts';

/** An audit as whoever asks for it sees it: how far it is, and what it has found so far. */
export interface ListedAudit
  extends Pick<
    AuditRun,
    | 'id'
    | 'state'
    | 'repair'
    | 'reason'
    | 'requested_by'
    | 'started_at'
    | 'finished_at'
    | 'total'
    | 'compared'
    | 'listings'
    | 'in_flight'
    | 'parked'
    | 'error'
  > {
  requested_at: Date;
  found: number;
  repaired: number;
  /** Only of those kinds of which something was found. */
  kinds: Partial<Record<FindingKind, { found: number; repaired: number }>>;
}

const COLUMNS = `id, state, repair, reason, requested_by, requested_at, started_at, finished_at, total, compared, listings,
  in_flight, parked, found, repaired, kinds, error`;

/** The last audits, the last asked for first. */
export const listAudits = (db: Database, limit: number): Promise<ListedAudit[]> =>
  query<ListedAudit & Record<string, unknown>>(
    db,
    `select ${COLUMNS} from market_sync.audits order by id desc limit $1`,
    [limit],
  );

/** One audit; undefined when there is none of this id, or it was deleted because it is old. */
export async function findAudit(db: Database, id: number): Promise<ListedAudit | undefined> {
  const rows = await query<ListedAudit & Record<string, unknown>>(
    db,
    `select ${COLUMNS} from market_sync.audits where id = $1`,
    [id],
  );
  return rows[0];
}
