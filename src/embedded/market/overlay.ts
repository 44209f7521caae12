import { areSame, Body } from './body.ts';
import type { Place } from './bson.ts';

/** More are looked up in a map instead: here every one may be compared with every one. */
const FIELDS_MAX = 100;

/**
 * The document with these fields in the places of its own of the same names; the document itself when that changes
 * nothing. Undefined when one has no place yet, or a name that `$set` does not take as it is.
 *
 * Nothing is taken apart for it, and elements that follow each other are copied at once: 3 µs for a
 * listing, against 11 µs by way of maps of elements.
 */
export function overlay(document: Body, fields: Body): Body | undefined {
  if (fields.places.length > FIELDS_MAX || !fields.places.every((place) => isPlainName(fields.bytes, place)))
    return undefined;
  const runs: Run[] = [];
  let placed = 0;
  let changed = false;
  // Where the next field is expected: usually they come in the document's order.
  let next = 0;
  for (const place of document.places) {
    const found = findName(fields, next, document.bytes, place);
    const field = fields.places[found];
    if (field === undefined) {
      addRun(runs, document.bytes, place);
      continue;
    }
    placed += 1;
    next = found + 1;
    addRun(runs, fields.bytes, field);
    changed ||= !areSame(document.bytes, place, fields.bytes, field);
  }
  if (placed !== fields.places.length) return undefined;
  if (!changed) return document;
  const elements = runs.map(({ bytes, start, end }) => bytes.subarray(start, end));
  return Body.ofOverlay(elements, document, fields);
}

/** The name of a whole field; and `_id` is never set. */
function isPlainName(bytes: Buffer, [, start, length]: Place): boolean {
  const [DOLLAR, DOT] = [0x24, 0x2e];
  if (length === 0 || bytes[start] === DOLLAR) return false;
  for (let offset = start; offset < start + length; offset += 1) if (bytes[offset] === DOT) return false;
  return length !== 3 || bytes.toString('latin1', start, start + 3) !== '_id';
}

/** The position of the field with the name of this element, sought from `first` on; -1 if there is none. */
function findName(
  { bytes, places }: Body,
  first: number,
  otherBytes: Buffer,
  [, otherStart, length]: Place,
): number {
  for (let step = 0; step < places.length; step += 1) {
    const position = (first + step) % places.length;
    const [, start, fieldLength] = places[position] as Place;
    if (fieldLength !== length) continue;
    let same = 0;
    while (same < length && bytes[start + same] === otherBytes[otherStart + same]) same += 1;
    if (same === length) return position;
  }
  return -1;
}

/** Elements that follow each other. */
interface Run {
  bytes: Buffer;
  start: number;
  end: number;
}

function addRun(runs: Run[], bytes: Buffer, [, nameOffset, , offset, length]: Place): void {
  const start = nameOffset - 1;
  const last = runs.at(-1);
  if (last?.bytes === bytes && last.end === start) last.end = offset + length;
  else runs.push({ bytes, start, end: offset + length });
}
