import { BSON } from 'mongodb';

/** MongoDB takes documents up to 16 MiB; the rest is room for the operation around it and for fields of others. */
const LISTING_BYTES_MAX = 16 * 1024 * 1024 - 64 * 1024;

/** The code that MongoDB gives, so that the one classification serves both. */
class ListingTooLargeError extends Error {
  override name = 'ListingTooLargeError';
  readonly code = 10334;
}

/** Of the objects that listings share (sensors of a location, certificates of a vendor): measuring a part takes as long as encoding it, 4 µs. */
const bytesByObject = new WeakMap<object, number>();

/**
 * Why these fields of a listing cannot be sent: too many bytes, or nothing that BSON can hold. The driver would refuse the
 * whole batch for it.
 */
export function checkSize(fields: object): Error | undefined {
  try {
    const plain: [string, unknown][] = [];
    let bytes = 0;
    for (const [name, value] of Object.entries(fields)) {
      if (typeof value === 'object' && value !== null) bytes += Buffer.byteLength(name) + 2 + sizeOf(value);
      else plain.push([name, value]);
    }
    bytes += BSON.calculateObjectSize(Object.fromEntries(plain), { ignoreUndefined: true });
    if (bytes <= LISTING_BYTES_MAX) return undefined;
    return new ListingTooLargeError(
      `the listing has ${bytes} bytes, more than the ${LISTING_BYTES_MAX} that fit`,
    );
  } catch (error) {
    return error as Error;
  }
}

function sizeOf(value: object): number {
  let bytes = bytesByObject.get(value);
  if (bytes === undefined) {
    bytes = BSON.calculateObjectSize(value, { ignoreUndefined: true });
    bytesByObject.set(value, bytes);
  }
  return bytes;
}
