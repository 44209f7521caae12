import { EnvironmentError } from '../errors.ts';
import { type Database, query } from '../postgres.ts';

// An audit is a row of market_sync.audit_run: what was asked for, how far it is, what came of it. What it finds is written
// with its cursor, so that a kill costs at most the chunk in work.

/** What an audit may mend: see market_sync.audit_run.repair. */
export type Repair = 'off' | 'safe' | 'all';

/** What each means: see market_sync.drift_findings.kind. */
export const FINDING_KINDS = [
  'snapshot_missing',
  'snapshot_differs',
  'snapshot_hash',
  'state_missing',
  'state_differs',
  'state_orphan',
  'listing_missing',
  'listing_differs',
  'listing_stale',
  'listing_ahead',
  'listing_id',
  'listing_duplicate',
  'listing_orphan',
  'listing_stray',
] as const;
export type FindingKind = (typeof FINDING_KINDS)[number];

export interface Finding {
  kind: FindingKind;
  /** Null for a document whose booking_id is none. */
  bookingId: string | null;
  /** `_id` of the document that is meant; null where none is. */
  listingId: string | null;
  /** What of it differs. */
  fields: string[];
}

export interface AuditRun {
  id: number;
  reason: string;
  requested_by: string;
  /** Whose it is to work on: see market_sync.audit_run.worker. */
  worker: 'pipeline' | 'command';
  repair: Repair;
  state: 'queued' | 'running' | 'done' | 'failed' | 'cancelled';
  started_at: Date | null;
  finished_at: Date | null;
  generation: number;
  phase: 'bookings' | 'strays';
  after_booking_id: string | null;
  total: number | null;
  compared: number;
  listings: number;
  in_flight: number;
  parked: number;
  busy_ms: number;
  error: string | null;
}

const COLUMNS = `id, reason, requested_by, worker, repair, state, started_at, finished_at, generation, phase, after_booking_id, total,
  compared, listings, in_flight, parked, busy_ms, error`;
type RunRow = AuditRun & Record<string, unknown>;

/** Findings kept of each audit; the counts say how many there were. */
const FINDINGS_MAX = 10_000;

/** Another process has taken the audit up, or somebody has cancelled it. */
export class AuditLostError extends Error {
  override name = 'AuditLostError';
}

export interface AuditRequest {
  reason: string;
  requestedBy: string;
  repair: Repair;
  worker: AuditRun['worker'];
}

/** Asks for an audit; the one that is open serves all who ask. Answers its id. */
export async function requestAudit(db: Database, asked: AuditRequest): Promise<number> {
  const rows = await query<{ id: number }>(db, 'select market_sync.request_audit($1, $2, $3, $4) as id', [
    asked.reason,
    asked.requestedBy,
    asked.repair,
    asked.worker,
  ]);
  const id = rows[0]?.id;
  if (id === undefined) throw new Error('request_audit answered nothing');
  return id;
}

export async function findOpenAudit(db: Database): Promise<AuditRun | undefined> {
  const rows = await query<RunRow>(
    db,
    `select ${COLUMNS} from market_sync.audit_run where state in ('queued', 'running')`,
  );
  return rows[0];
}

/** Gives up an audit that nobody works on. */
export async function abandonAudit(db: Database, id: number): Promise<void> {
  await query(
    db,
    `update market_sync.audit_run
     set state = 'cancelled', finished_at = clock_timestamp(), error = 'it was interrupted, and another one asked for'
     where id = $1 and state in ('queued', 'running')`,
    [id],
  );
}

export async function readAudit(db: Database, id: number): Promise<AuditRun> {
  const rows = await query<RunRow>(db, `select ${COLUMNS} from market_sync.audit_run where id = $1`, [id]);
  if (rows[0] === undefined) throw new AuditLostError('the audit was deleted');
  return rows[0];
}

/** How much of each kind an audit found, and how much of it is mended, with a few bookings of each. */
export interface KindCount {
  kind: FindingKind;
  found: number;
  repaired: number;
  examples: string[];
}

export function readCounts(db: Database, id: number): Promise<KindCount[]> {
  return query(
    db,
    `select c.kind, c.found, c.repaired, array(
       select coalesce(f.booking_id::text, f.listing_id) from market_sync.finding f
       where f.run_id = c.run_id and f.kind = c.kind order by f.id limit 3) as examples
     from market_sync.finding_count c where c.run_id = $1 order by c.kind`,
    [id],
  );
}

/** Takes an open audit up, behind its last whole chunk: whoever had it cannot write any more. */
export async function takeAudit(db: Database, id: number): Promise<AuditRun> {
  const rows = await query<RunRow>(
    db,
    `update market_sync.audit_run
     set state = 'running', generation = generation + 1, started_at = coalesce(started_at, clock_timestamp()), error = null,
       total = coalesce(total, greatest(
         (select count(*) from market_inventory_snapshots), (select count(*) from market_sync.snapshot_state)))
     where id = $1 and state in ('queued', 'running') returning ${COLUMNS}`,
    [id],
  );
  if (rows[0] === undefined) throw new AuditLostError('the audit has ended');
  return rows[0];
}

/** Holds the audit's place for the rest of the transaction. Throws `AuditLostError` for one that has lost it. */
export async function requireAudit(db: Database, { id, generation }: AuditRun): Promise<void> {
  const rows = await query(
    db,
    `select from market_sync.audit_run where id = $1 and generation = $2 and state = 'running' for update`,
    [id, generation],
  );
  if (rows.length === 0) throw new AuditLostError('the audit was cancelled, or another process works on it');
}

/** Writes what a chunk found, before it is mended. What is found once more, after a kill, does not count again. */
export async function recordFound(db: Database, run: AuditRun, findings: Finding[]): Promise<void> {
  if (findings.length === 0) return;
  await query(
    db,
    `with inserted as (
       insert into market_sync.finding (run_id, kind, booking_id, listing_id, fields)
       select $1, kind, booking_id, listing_id, array(select jsonb_array_elements_text(fields))
       from jsonb_to_recordset($2::jsonb) as found (kind text, booking_id uuid, listing_id text, fields jsonb)
       on conflict do nothing returning kind
     )
     insert into market_sync.finding_count as c (run_id, kind, found)
     select $1, kind, count(*) from inserted group by kind
     on conflict (run_id, kind) do update set found = c.found + excluded.found`,
    [
      run.id,
      JSON.stringify(
        findings.map(({ kind, bookingId, listingId, fields }) => ({
          kind,
          booking_id: bookingId,
          listing_id: listingId,
          fields,
        })),
      ),
    ],
  );
}

/** What the chunk in work has found, also before it was taken up again. */
export async function readPending(db: Database, run: AuditRun): Promise<Finding[]> {
  const rows = await query<{
    kind: FindingKind;
    booking_id: string | null;
    listing_id: string | null;
    fields: string[];
  }>(
    db,
    'select kind, booking_id, listing_id, fields from market_sync.finding where run_id = $1 and repaired is null order by id',
    [run.id],
  );
  return rows.map((row) => ({
    kind: row.kind,
    bookingId: row.booking_id,
    listingId: row.listing_id,
    fields: row.fields,
  }));
}

export interface ChunkDone {
  /** The cursor afterwards; undefined: there are no more bookings. */
  after: string | undefined;
  compared: number;
  listings: number;
  inFlight: number;
  parked: number;
  busyMs: number;
  /** Subjects (booking or document) that are still not as they must be; undefined: nothing was mended. */
  left: Set<string> | undefined;
}

/** What a finding is about, in `ChunkDone.left`. */
export const subjectOf = ({ bookingId, listingId }: Pick<Finding, 'bookingId' | 'listingId'>): string =>
  bookingId ?? listingId ?? '';

/** Settles what the chunk found, and moves the cursor. */
export async function recordChunkDone(db: Database, run: AuditRun, chunk: ChunkDone): Promise<void> {
  await query(
    db,
    `with settled as (
       update market_sync.finding
       set repaired = $2 and coalesce(booking_id::text, listing_id, '') <> all ($3::text[])
       where run_id = $1 and repaired is null returning kind, repaired
     )
     update market_sync.finding_count c set repaired = c.repaired + done.count
     from (select kind, count(*) from settled where repaired group by kind) done
     where c.run_id = $1 and c.kind = done.kind`,
    [run.id, chunk.left !== undefined, [...(chunk.left ?? [])]],
  );
  await query(
    db,
    `delete from market_sync.finding where id in (
       select id from market_sync.finding where run_id = $1 order by id offset ${FINDINGS_MAX})`,
    [run.id],
  );
  await query(
    db,
    `update market_sync.audit_run
     set compared = compared + $2, listings = listings + $3, in_flight = in_flight + $4, parked = parked + $5,
       busy_ms = busy_ms + $6, after_booking_id = coalesce($7, after_booking_id),
       phase = case when $7::uuid is null then 'strays' else phase end
     where id = $1`,
    [run.id, chunk.compared, chunk.listings, chunk.inFlight, chunk.parked, chunk.busyMs, chunk.after ?? null],
  );
}

/** Closes an audit that this process works on. */
export async function finishAudit(
  db: Database,
  run: AuditRun,
  { state, error }: { state: 'done' | 'failed'; error?: string },
): Promise<void> {
  await query(
    db,
    `update market_sync.audit_run set state = $3, error = $4, finished_at = clock_timestamp()
     where id = $1 and generation = $2 and state = 'running'`,
    [run.id, run.generation, state, error ?? null],
  );
}

/** Deletes audits that ended longer ago than this; answers how many. */
export async function deleteOldAudits(db: Database, days: number): Promise<number> {
  const rows = await query(
    db,
    `delete from market_sync.audit_run where finished_at < clock_timestamp() - make_interval(days => $1) returning id`,
    [days],
  );
  return rows.length;
}

/** Nobody else can have it while this connection lives: PostgreSQL lets go of it as soon as the process is killed. */
const WORK_LOCK = [5504, 1];

/** Whether this connection is the one that works on audits from now on. */
export async function tryWorkLock(db: Database): Promise<boolean> {
  const rows = await query<{ got: boolean }>(db, 'select pg_try_advisory_lock($1, $2) as got', WORK_LOCK);
  return rows[0]?.got === true;
}

/** Gives the place back. */
export async function releaseWorkLock(db: Database): Promise<void> {
  await query(db, 'select pg_advisory_unlock($1, $2)', WORK_LOCK);
}

export const auditInWork = (): EnvironmentError =>
  new EnvironmentError(
    'An audit is in work in another process. See select * from market_sync.drift, and try again when it has ended.',
  );
