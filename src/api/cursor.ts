import { z } from '@hono/zod-openapi';
import { sqlStateOf } from '../postgres.ts';
import { ProblemError } from './problem.ts';

/** A place in a list that is ordered by a time and, within it, by booking: that of the last entry of the page before. */
export interface Place {
  /** As PostgreSQL prints it (UTC, microseconds): a JavaScript `Date` would skip or repeat rows. */
  at: string;
  bookingId: string;
}

export const LIMIT_DEFAULT = 50;
const LIMIT_MAX = 200;

/** The query parameters of a list that is read page by page. */
export const pageParams = {
  limit: z
    .string()
    .regex(/^\d{1,3}$/, `must be a whole number from 1 to ${LIMIT_MAX}`)
    .transform(Number)
    .pipe(z.int().min(1).max(LIMIT_MAX))
    .optional()
    .openapi({
      type: 'integer',
      minimum: 1,
      maximum: LIMIT_MAX,
      default: LIMIT_DEFAULT,
      description: 'Most entries on a page.',
    }),
  cursor: z
    .string()
    .max(200)
    .optional()
    .openapi({ description: '`next_cursor` of the page before, unchanged.' }),
};

/** What a page says of the next one. */
export const nextCursor = z
  .string()
  .nullable()
  .openapi({ description: 'Where the next page begins; null after the last one.' });

const placeSchema = z.tuple([
  z.string().regex(/^(-?infinity|\d{4,6}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?\+00( BC)?)$/),
  z.guid(),
]);

/** What a client passes back unread to get the next page; null after the last one. */
export const encodeCursor = (next: Place | undefined): string | null =>
  next === undefined ? null : Buffer.from(JSON.stringify([next.at, next.bookingId])).toString('base64url');

/** Reads the page after the cursor. Answers 400 for a cursor that was not given out. */
export async function readPage<Page>(
  cursor: string | undefined,
  read: (after: Place | undefined) => Promise<Page>,
): Promise<Page> {
  if (cursor === undefined) return read(undefined);
  const after = decodeCursor(cursor);
  if (after === undefined) throw malformedCursor();
  try {
    return await read(after);
  } catch (error) {
    // A cursor made by hand may hold a time that no calendar has: invalid_datetime_format, datetime_field_overflow.
    const state = sqlStateOf(error);
    if (state === '22007' || state === '22008') throw malformedCursor();
    throw error;
  }
}

function decodeCursor(text: string): Place | undefined {
  const bytes = Buffer.from(text, 'base64url');
  // Buffer skips what is not base64url; a cursor must be exactly what was given out.
  if (bytes.toString('base64url') !== text) return undefined;
  try {
    const [at, bookingId] = placeSchema.parse(JSON.parse(bytes.toString('utf8')));
    return { at, bookingId };
  } catch {
    return undefined;
  }
}

const malformedCursor = (): ProblemError =>
  new ProblemError('malformed_request', {
    detail: 'query: cursor is none that was given out',
    errors: [{ in: 'query', name: 'cursor', message: 'is none that was given out' }],
  });

/** As `encodeCursor`, for a list that is ordered by a number alone. */
export const encodeNumber = (next: number | undefined): string | null =>
  next === undefined ? null : Buffer.from(JSON.stringify(next)).toString('base64url');

/** What `encodeNumber` gave out. Answers 400 for anything else. */
export function decodeNumber(cursor: string | undefined): number | undefined {
  if (cursor === undefined) return undefined;
  const text = Buffer.from(cursor, 'base64url').toString('utf8');
  const number = Number(text);
  if (!/^\d{1,15}$/.test(text) || encodeNumber(number) !== cursor) throw malformedCursor();
  return number;
}
