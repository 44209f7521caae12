import type pg from 'pg';
import type { ListingDocument, SnapshotRow } from '../support/compare.ts';
import type { Harness } from '../support/history.ts';
import { type ExpectedContent, expectedListing, snapshotFrom } from '../support/oracle.ts';
import { type Possible, recompute } from './possible-snapshots.ts';
import { loadWorld, type World } from './source-rows.ts';

/** Where a reference pipeline may be made to go wrong. */
export type Faults = {
  recompute?: typeof recompute;
  world?: (world: World) => World;
  /** Looks at the rows only: what the clock alone changes is not noticed. */
  ignoresClock?: boolean;
  /** Whether a recompute that changed `before` to `after` is a new revision. */
  isRevision?: (before: ExpectedContent, after: ExpectedContent) => boolean;
  row?: (row: SnapshotRow, before: SnapshotRow | undefined) => SnapshotRow;
  document?: (document: ListingDocument, before: ListingDocument | undefined) => ListingDocument | undefined;
};

type Entry = { content: ExpectedContent; row: SnapshotRow; document: ListingDocument | undefined };

const SETTINGS = { pestWindowSeconds: 7 * 86_400, sensorStaleSeconds: 3600 };

/**
 * A pipeline that is right by construction, in memory, out of the oracle: what histories, runner and comparison are
 * tried on. It lags behind at every third event, and `faults` make it wrong on purpose.
 */
export function createReferencePipeline(pool: pg.Pool, faults: Faults = {}): Harness {
  const entries = new Map<string, Entry>();
  let time = new Date('2026-03-01T08:30:00.000Z').getTime();
  let events = 0;
  let lastWorld = '';

  async function work(): Promise<void> {
    const client = await pool.connect();
    const loaded = await loadWorld(client).finally(() => client.release());
    const key = JSON.stringify(loaded, (_, value) => (typeof value === 'bigint' ? String(value) : value));
    if (faults.ignoresClock === true && key === lastWorld) return;
    lastWorld = key;
    const world = faults.world?.(loaded) ?? loaded;
    for (const id of new Set([...entries.keys(), ...loaded.bookings.map((booking) => booking.id)])) {
      const before = entries.get(id);
      const fresh = snapshotFrom(world, id, new Date(time), SETTINGS);
      const content = (faults.recompute ?? recompute)(before?.content ?? null, fresh);
      const next = nextEntry(before, content, { time: new Date(time), faults });
      if (next === undefined) entries.delete(id);
      else entries.set(id, next);
    }
  }

  return {
    pool,
    settings: SETTINGS,
    clock: {
      now: () => new Date(time),
      advance(ms) {
        time += ms;
      },
    },
    settle: work,
    async afterEvent() {
      events += 1;
      if (events % 3 !== 0) await work();
    },
    async readSnapshots(ids) {
      return [...entries.values()].map((entry) => entry.row).filter((row) => ids.includes(row.booking_id));
    },
    async readListings(ids) {
      return [...entries.values()]
        .map((entry) => entry.document)
        .filter((document) => document !== undefined && ids.includes(String(document.booking_id)))
        .map((document) => document ?? {});
    },
    async reset() {
      entries.clear();
    },
  };
}

const isChange = (before: ExpectedContent, after: ExpectedContent): boolean =>
  visible(before) !== visible(after);

const visible = (content: ExpectedContent): string =>
  JSON.stringify(expectedListing(content, { revision: 0, updatedAt: '' }));

function nextEntry(
  before: Entry | undefined,
  content: Possible,
  { time, faults }: { time: Date; faults: Faults },
): Entry | undefined {
  if (content === null) return undefined;
  const isRevision = before === undefined || (faults.isRevision ?? isChange)(before.content, content);
  const updatedAt = isRevision ? time : (before.row.updated_at as Date);
  const revision = Number(before?.row.revision ?? 0) + (isRevision ? 1 : 0);
  const { start_date, end_date, quality_score, metadata, ...copied } = content;
  const made: SnapshotRow = {
    ...copied,
    start_date: asPg(start_date),
    end_date: asPg(end_date),
    quality_score: quality_score === null ? null : quality_score.toFixed(2),
    metadata: { ...metadata, last_updated: updatedAt.toISOString() },
    revision: String(revision),
    epoch: '1',
    market_listing_id: before?.row.market_listing_id ?? `listing of ${content.booking_id}`,
    published_at: before?.row.published_at ?? time,
    last_synced_at: time,
    updated_at: updatedAt,
  };
  const row = faults.row?.(made, before?.row) ?? made;
  const document: ListingDocument = {
    ...expectedListing(content, { revision, epoch: 1, updatedAt: updatedAt.toISOString() }),
    _id: row.market_listing_id,
    published_at: (row.published_at as Date | null)?.toISOString() ?? null,
  };
  const changed = faults.document === undefined ? document : faults.document(document, before?.document);
  return { content, row, document: changed };
}

/** As pg reads a `timestamptz`. */
function asPg(time: string | null): Date | number | null {
  if (time === null) return null;
  if (time === 'infinity') return Number.POSITIVE_INFINITY;
  return time === '-infinity' ? Number.NEGATIVE_INFINITY : new Date(time);
}
