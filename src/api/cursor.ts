import { z } from '@hono/zod-openapi';
import type { SnapshotCursor } from '../store/snapshots.ts';

/** Place in the list, as PostgreSQL prints the time (UTC, microseconds). */
const placeSchema = z.tuple([
  z.string().regex(/^(-?infinity|\d{4,6}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?\+00( BC)?)$/),
  z.guid(),
]);

/** What a client passes back unread to get the next page. */
export function encodeCursor(cursor: SnapshotCursor): string {
  return Buffer.from(JSON.stringify([cursor.createdAt, cursor.bookingId])).toString('base64url');
}

/** Undefined when `text` was not made by `encodeCursor`. A time that no calendar has is left for PostgreSQL to refuse. */
export function decodeCursor(text: string): SnapshotCursor | undefined {
  const bytes = Buffer.from(text, 'base64url');
  // Buffer skips what is not base64url; a cursor must be exactly what was given out.
  if (bytes.toString('base64url') !== text) return undefined;
  try {
    const [createdAt, bookingId] = placeSchema.parse(JSON.parse(bytes.toString('utf8')));
    return { createdAt, bookingId };
  } catch {
    return undefined;
  }
}
