import type { AuditContext } from './drift-confirm.ts';
import { type ListingsLook, type ListingsRange, lookAtRange } from './drift-listings.ts';
import type { ListingVerdict } from './drift-verdict.ts';
import type { ListingEncoder } from './listing-bytes.ts';

/** Bookings whose listings are looked at together. More of them outlive a collection of garbage, which copies what lives. */
const LISTINGS_MAX = 500;

/** So many times that at once: one is read while another is compared. */
const LOOKS_MAX = 2;

/** As `lookAtRange`, for as many bookings as there are: a part at a time. */
export async function lookAtListings(
  ctx: AuditContext & { encoder: ListingEncoder },
  { after, upto, bookingIds }: ListingsRange,
): Promise<ListingsLook> {
  const parts: ListingsRange[] = [];
  for (let at = 0; at === 0 || at < bookingIds.length; at += LISTINGS_MAX) {
    const ids = bookingIds.slice(at, at + LISTINGS_MAX);
    const isLast = at + LISTINGS_MAX >= bookingIds.length;
    parts.push({
      after: at === 0 ? after : (bookingIds[at - 1] ?? null),
      upto: isLast ? upto : ids.at(-1),
      bookingIds: ids,
    });
  }
  const verdicts: ListingVerdict[] = [];
  let documents = 0;
  const lookAtParts = async (): Promise<void> => {
    for (let part = parts.shift(); part !== undefined; part = parts.shift()) {
      const found = await lookAtRange(ctx, part);
      verdicts.push(...found.verdicts);
      documents += found.documents;
    }
  };
  await Promise.all(Array.from({ length: LOOKS_MAX }, lookAtParts));
  return { verdicts, documents };
}
