import { BSON, ObjectId } from 'mongodb';
import type { Listing } from '../domain/listing.ts';

// Listings as bytes: an audit reads millions of them, and nearly all are, to the byte, what the publisher wrote.

/** The parts of a listing that it shares with others of its location or vendor, as PostgreSQL's JSON text. */
export type SharedPart = 'sensors' | 'sensor_summary' | 'pest_events' | 'certificates';

/** Bytes of texts, and of what they are encoded to, that are remembered; then it begins anew. */
const REMEMBERED_BYTES_MAX = 16 * 1024 * 1024;

/** Larger documents are not encoded. */
const DOCUMENT_BYTES_MAX = 256 * 1024;

/** Encodes listings in BSON, each shared part once for all listings that say the same. What it remembers of them is bounded. */
export class ListingEncoder {
  #elements = noElements();
  #rememberedBytes = 0;
  #document = Buffer.alloc(DOCUMENT_BYTES_MAX);
  #plain = Buffer.alloc(DOCUMENT_BYTES_MAX);

  /**
   * The document that an insert of this listing leaves in MongoDB, `_id` first; undefined for a large one. It is valid until
   * the next call. `listingId` is 24 hex digits, `textOf` answers a shared part's text.
   */
  encode(listing: Listing, listingId: string, textOf: (name: SharedPart) => string): Uint8Array | undefined {
    try {
      const bytes = this.#fill({ _id: ObjectId.createFromHexString(listingId), ...listing }, textOf);
      return this.#document.subarray(0, bytes);
    } catch (error) {
      if (error instanceof RangeError) return undefined; // Beyond the end of a buffer.
      throw error;
    }
  }

  #fill(fields: Record<string, unknown>, textOf: (name: SharedPart) => string): number {
    let end = LENGTH_BYTES;
    const append = (elements: Uint8Array): void => {
      this.#document.set(elements, end);
      end += elements.length;
    };
    let plain: Record<string, unknown> | undefined;
    for (const [name, value] of Object.entries(fields)) {
      if (isShared(name)) {
        if (plain !== undefined) append(this.#encodePlain(plain));
        plain = undefined;
        append(this.#encodePart(name, textOf(name)));
      } else {
        plain ??= {};
        plain[name] = value;
      }
    }
    if (plain !== undefined) append(this.#encodePlain(plain));
    this.#document.set(END, end);
    this.#document.writeInt32LE(end + END.length, 0);
    return end + END.length;
  }

  /** Elements of a document: without its length and the zero at its end. */
  #encodePlain(fields: Record<string, unknown>): Uint8Array {
    const last = BSON.serializeWithBufferAndIndex(fields, this.#plain);
    return this.#plain.subarray(LENGTH_BYTES, last);
  }

  #encodePart(name: SharedPart, text: string): Uint8Array {
    const known = this.#elements[name].get(text);
    if (known !== undefined) return known;
    const element = BSON.serialize({ [name]: JSON.parse(text) }).slice(LENGTH_BYTES, -END.length);
    this.#rememberedBytes += text.length + element.length;
    if (this.#rememberedBytes > REMEMBERED_BYTES_MAX) {
      this.#elements = noElements();
      this.#rememberedBytes = text.length + element.length;
    }
    this.#elements[name].set(text, element);
    return element;
  }
}

const noElements = (): Record<SharedPart, Map<string, Uint8Array>> => ({
  sensors: new Map(),
  sensor_summary: new Map(),
  pest_events: new Map(),
  certificates: new Map(),
});

const LENGTH_BYTES = 4;
const END = new Uint8Array(1);

const isShared = (name: string): name is SharedPart =>
  name === 'sensors' || name === 'sensor_summary' || name === 'pest_events' || name === 'certificates';

/** How a document of ours begins: `_id`, an ObjectId, then `booking_id`, a text of 36 bytes (and a zero). */
const ID_NAME = Buffer.from('\u0007_id\0', 'latin1');
const ID_AT = LENGTH_BYTES;
const BOOKING_NAME = Buffer.from('\u0002booking_id\0\u0025\0\0\0', 'latin1');
const BOOKING_NAME_AT = ID_AT + ID_NAME.length + 12;
const BOOKING_AT = BOOKING_NAME_AT + BOOKING_NAME.length;
const BOOKING_END = BOOKING_AT + 36;

/** The booking of a document that begins as ours do; undefined for any other. */
export function readBookingId(document: Uint8Array): string | undefined {
  if (document.length <= BOOKING_END) return undefined;
  const bytes = Buffer.from(document.buffer, document.byteOffset, document.byteLength);
  const isOurs =
    ID_NAME.equals(bytes.subarray(ID_AT, ID_AT + ID_NAME.length)) &&
    BOOKING_NAME.equals(bytes.subarray(BOOKING_NAME_AT, BOOKING_AT));
  return isOurs ? bytes.toString('latin1', BOOKING_AT, BOOKING_END) : undefined;
}

/** As the driver decodes what it reads. Throws a `BSONError` for bytes that are no document. */
export const decodeDocument = (document: Uint8Array): Record<string, unknown> => BSON.deserialize(document);
