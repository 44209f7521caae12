import { isDeepStrictEqual } from 'node:util';
import {
  compareListing,
  compareSnapshot,
  type Difference,
  type ListingDocument,
  plainNumber,
  plainRow,
  type SnapshotRow,
} from '../support/compare.ts';
import { type ExpectedContent, expectedListing } from '../support/oracle.ts';
import type { Possible } from './possible-snapshots.ts';

/** What a booking looked like at a settle point, for the next one to hold against. */
export type Seen = {
  content: ExpectedContent;
  revision: number;
  epoch: number;
  updatedAt: string;
  listingId: string;
  published: boolean;
};

type Settled = {
  subject: string;
  /** The states the snapshot may be in now. */
  candidates: readonly Possible[];
  /** The states it may have gone through since the last settle point, those of now included. */
  visited: readonly Possible[];
  before: Seen | undefined;
  rows: readonly SnapshotRow[];
  documents: readonly ListingDocument[];
};

/** Compares one booking's snapshot and listing; `content` is the candidate that it is, or is nearest to. */
export function checkBooking(settled: Settled): {
  differences: Difference[];
  content: Possible;
  seen: Seen | undefined;
} {
  const { candidates, documents, rows, subject } = settled;
  const [row] = rows.map(plainRow);
  const count = (field: string, expected: number, actual: number): Difference[] =>
    expected === actual ? [] : [{ subject, field, expected, actual }];
  if (row === undefined) {
    const missing = candidates.includes(null) ? [] : count('number of snapshots', 1, 0);
    return {
      differences: [...missing, ...count('number of listings', 0, documents.length)],
      content: null,
      seen: undefined,
    };
  }
  const contents = candidates.filter((candidate) => candidate !== null);
  const nearest = nearestOf(subject, contents, row);
  if (nearest === undefined) {
    return { differences: count('number of snapshots', 0, rows.length), content: null, seen: undefined };
  }
  const { content } = nearest;
  const seen = seenOf(content, row, documents[0]);
  return {
    differences: [
      ...nearest.differences,
      ...count('number of listings', 1, documents.length),
      ...(documents[0] === undefined ? [] : checkListing(settled, { seen, row, document: documents[0] })),
      ...checkVersion(settled, seen),
    ],
    content,
    seen,
  };
}

/** The candidate with the fewest differences: of several that are possible, the one worth reading about. */
function nearestOf(subject: string, contents: readonly ExpectedContent[], row: SnapshotRow) {
  const compared = contents.map((content) => ({
    content,
    differences: compareSnapshot(
      contents.length === 1
        ? `${subject} snapshot`
        : `${subject} snapshot (nearest of ${contents.length} possible)`,
      content,
      row,
    ),
  }));
  compared.sort((a, b) => a.differences.length - b.differences.length);
  return compared[0];
}

function seenOf(content: ExpectedContent, row: SnapshotRow, document: ListingDocument | undefined): Seen {
  return {
    content,
    revision: Number(row.revision),
    epoch: Number(plainNumber(document?.epoch)),
    updatedAt: String(row.updated_at),
    listingId: String(document?._id),
    published: typeof document?.published_at === 'string',
  };
}

function checkListing(
  { before, subject }: Settled,
  { seen, row, document }: { seen: Seen; row: SnapshotRow; document: ListingDocument },
): Difference[] {
  const version = {
    revision: seen.revision,
    updatedAt: seen.updatedAt,
    ...(row.epoch === undefined ? {} : { epoch: Number(row.epoch) }),
  };
  const name = `${subject} listing`;
  const differences = compareListing(name, { content: seen.content, version }, document);
  const expect = (field: string, expected: unknown, actual: unknown): void => {
    if (expected !== actual) differences.push({ subject: name, field, expected, actual });
  };
  expect('_id', String(row.market_listing_id), seen.listingId);
  if (before !== undefined) expect('_id, as before', before.listingId, seen.listingId);
  // A booking that ended before its first listing was written has a tombstone that never was published.
  if (seen.content.status === 'published' || before?.published === true) {
    expect('published_at is a time', true, isTime(document.published_at));
    expect('snapshot has a published_at', true, isTime(row.published_at));
  }
  expect('snapshot has a last_synced_at', true, isTime(row.last_synced_at));
  return differences;
}

const isTime = (value: unknown): boolean =>
  typeof value === 'string' && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(value);

/** I3 and D5: the version never goes down, goes up when a buyer sees something new, and only then. */
function checkVersion({ before, subject, visited }: Settled, seen: Seen): Difference[] {
  const differences: Difference[] = [];
  const expect = (field: string, expected: unknown, actual: unknown, holds: boolean): void => {
    if (!holds) differences.push({ subject: `${subject} version`, field, expected, actual });
  };
  expect('epoch', 'a number', seen.epoch, Number.isSafeInteger(seen.epoch));
  expect('revision', 'a number', seen.revision, Number.isSafeInteger(seen.revision));
  if (before === undefined) return differences;
  const shown = visibleOf(before.content);
  expect('epoch', `at least ${before.epoch}`, seen.epoch, seen.epoch >= before.epoch);
  expect('revision', `at least ${before.revision}`, seen.revision, seen.revision >= before.revision);
  if (!isDeepStrictEqual(visibleOf(seen.content), shown)) {
    expect('revision', `above ${before.revision}`, seen.revision, seen.revision > before.revision);
  }
  const neverChanged = visited.every((state) => state !== null && isDeepStrictEqual(visibleOf(state), shown));
  if (neverChanged) {
    expect('revision', `still ${before.revision}`, seen.revision, seen.revision === before.revision);
  }
  if (seen.revision === before.revision) {
    expect('updated_at', before.updatedAt, seen.updatedAt, seen.updatedAt === before.updatedAt);
  }
  return differences;
}

const visibleOf = (content: ExpectedContent) => expectedListing(content, { revision: 0, updatedAt: '' });
