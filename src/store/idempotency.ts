import { type Database, query } from '../postgres.ts';

/** What identifies a call that may be sent again: whose key, and what was called with it. */
export interface IdempotentCall {
  caller: string;
  key: string;
  /** Of method, address and body: the same key with another call is a mistake. */
  requestHash: Buffer;
  /** Who works on it: unique to this attempt. */
  owner: string;
}

/** An answer as it is kept. */
export interface KeptAnswer {
  status: number;
  headers: Record<string, string>;
  body: Buffer;
}

export type Claim =
  | { outcome: 'claimed' }
  | { outcome: 'done'; answer: KeptAnswer }
  | { outcome: 'in_work'; retryAfterSeconds: number }
  | { outcome: 'mismatch' };

/** How long a call may be in work before it counts as abandoned: longer than any answer takes. */
const LEASE_SECONDS = 60;
const CLAIM_ATTEMPTS_MAX = 3;

/**
 * Claims a key for one attempt, or says what became of the attempt before. A claim whose process died is taken over once
 * its lease has ended. Of any number at once, one claims.
 */
export async function claimKey(db: Database, call: IdempotentCall): Promise<Claim> {
  for (let attempt = 1; attempt <= CLAIM_ATTEMPTS_MAX; attempt += 1) {
    const claimed = await query(
      db,
      `insert into market_sync.idempotency as i (caller, key, request_hash, state, owner, lease_until)
       values ($1, $2, $3, 'in_work', $4, clock_timestamp() + make_interval(secs => $5))
       on conflict (caller, key) do update set owner = excluded.owner, lease_until = excluded.lease_until
       where i.state = 'in_work' and i.lease_until < clock_timestamp() and i.request_hash = excluded.request_hash
       returning i.key`,
      [call.caller, call.key, call.requestHash, call.owner, LEASE_SECONDS],
    );
    if (claimed.length > 0) return { outcome: 'claimed' };
    const found = await findCall(db, call);
    // Given back in between: free again.
    if (found !== undefined) return found;
  }
  return { outcome: 'in_work', retryAfterSeconds: 1 };
}

interface Row {
  same: boolean;
  state: 'in_work' | 'done';
  status: number | null;
  headers: Record<string, string> | null;
  body: Buffer | null;
  left_seconds: number;
  [column: string]: unknown;
}

async function findCall(db: Database, call: IdempotentCall): Promise<Claim | undefined> {
  const rows = await query<Row>(
    db,
    `select request_hash = $3 as same, state, status, headers, body,
       ceil(greatest(extract(epoch from lease_until - clock_timestamp()), 0))::int as left_seconds
     from market_sync.idempotency where caller = $1 and key = $2`,
    [call.caller, call.key, call.requestHash],
  );
  const row = rows[0];
  if (row === undefined) return undefined;
  if (!row.same) return { outcome: 'mismatch' };
  if (row.state === 'in_work') {
    const ASK_AGAIN_SECONDS = 2; // Most calls take less, whatever is left of the lease.
    return {
      outcome: 'in_work',
      retryAfterSeconds: Math.max(1, Math.min(row.left_seconds, ASK_AGAIN_SECONDS)),
    };
  }
  return {
    outcome: 'done',
    answer: { status: row.status ?? 500, headers: row.headers ?? {}, body: row.body ?? Buffer.alloc(0) },
  };
}

/** Keeps the answer for whoever sends the call again. False when another attempt has taken the claim over. */
export async function keepAnswer(db: Database, call: IdempotentCall, answer: KeptAnswer): Promise<boolean> {
  const kept = await query(
    db,
    `update market_sync.idempotency set state = 'done', status = $4, headers = $5, body = $6
     where caller = $1 and key = $2 and owner = $3 and state = 'in_work' returning key`,
    [call.caller, call.key, call.owner, answer.status, JSON.stringify(answer.headers), answer.body],
  );
  return kept.length > 0;
}

/**
 * Ends the claim: the same call may be sent again with its key at once, and is then done again. It stays one call: what it
 * did before has its row in the audit log, and gets no second.
 */
export async function giveBackKey(db: Database, call: IdempotentCall): Promise<void> {
  await query(
    db,
    `update market_sync.idempotency set lease_until = '-infinity'
     where caller = $1 and key = $2 and owner = $3 and state = 'in_work'`,
    [call.caller, call.key, call.owner],
  );
}

const DELETE_BATCH = 1_000;

/** Deletes up to `limit` kept answers older than this, in batches, and says how many. Part of the daily cleanup. */
export async function deleteOldAnswers(
  db: Database,
  { olderThanSeconds, limit }: { olderThanSeconds: number; limit: number },
): Promise<number> {
  let deleted = 0;
  while (deleted < limit) {
    const batch = Math.min(DELETE_BATCH, limit - deleted);
    const rows = await query(
      db,
      `delete from market_sync.idempotency i using (
         select caller, key from market_sync.idempotency
         where created_at < clock_timestamp() - make_interval(secs => $1) and lease_until < clock_timestamp()
         order by created_at limit $2 for update skip locked) old
       where i.caller = old.caller and i.key = old.key returning 1`,
      [olderThanSeconds, batch],
    );
    deleted += rows.length;
    if (rows.length < batch) break;
  }
  return deleted;
}
