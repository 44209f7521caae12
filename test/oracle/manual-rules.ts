import type pg from 'pg';
import type { ExpectedContent } from '../support/oracle.ts';

/** What people have decided about a booking, as the tables say it. */
export interface Decided {
  /** Fields that speak instead of the source; none when no override is in force. */
  override: Partial<Pick<ExpectedContent, 'grade' | 'quality_score' | 'freshness' | 'visual_defects'>> & {
    special_notes?: string;
  };
  state: 'held' | 'withdrawn' | undefined;
}

const FIELDS = ['grade', 'quality_score', 'freshness', 'visual_defects', 'special_notes'] as const;

/** The decisions about these bookings as of `now`; a booking without any is not in the answer. */
export async function readDecisions(
  db: Pick<pg.Pool, 'query'>,
  bookingIds: readonly string[],
  now: Date,
): Promise<Map<string, Decided>> {
  const decided = new Map<string, Decided>();
  const of = (id: string): Decided => {
    const entry = decided.get(id) ?? { override: {}, state: undefined };
    decided.set(id, entry);
    return entry;
  };
  const overrides = await db.query<Record<string, unknown> & { booking_id: string }>(
    'select *, quality_score::float8 from market_sync.override where booking_id = any ($1)',
    [bookingIds],
  );
  for (const row of overrides.rows) {
    if (row.expires_at instanceof Date && row.expires_at <= now) continue;
    const fields = FIELDS.filter((field) => row[field] !== null).map((field) => [field, row[field]]);
    of(row.booking_id).override = Object.fromEntries(fields);
  }
  const states = await db.query<{ booking_id: string; state: 'held' | 'withdrawn' }>(
    'select booking_id, state from market_sync.manual_state where booking_id = any ($1)',
    [bookingIds],
  );
  for (const { booking_id: id, state } of states.rows) of(id).state = state;
  return decided;
}

/** The content with what people have decided: it speaks instead of the source, and an end stays an end. */
export function decide(content: ExpectedContent, { override, state }: Decided): ExpectedContent {
  const { special_notes: notes, ...fields } = override;
  const metadata = { ...content.metadata, ...(notes === undefined ? {} : { special_notes: notes }) };
  let { status } = content;
  if (state === 'withdrawn') status = 'withdrawn';
  else if (state === 'held' && status === 'published') status = 'held';
  return { ...content, ...fields, metadata, status };
}
