import { documentPieces, type Elements, findElements, lengthOf, type Place, takeApart } from './bson.ts';

/** A whole document: put together and taken apart only when somebody asks for that. */
export class Body {
  /** What its bytes consist of. */
  readonly pieces: readonly Buffer[];
  readonly length: number;
  #bytes: Buffer | undefined;
  #places: readonly Place[] | undefined;
  #elements: Elements | undefined;
  #overlay: { base: Body; fields: Body } | undefined;

  private constructor(pieces: readonly Buffer[]) {
    this.pieces = pieces;
    this.length = lengthOf(pieces);
  }

  /** When they are not a document, whatever asks for its elements throws as `parse` does. */
  static ofBytes(bytes: Buffer): Body {
    const body = new Body([bytes]);
    body.#bytes = bytes;
    return body;
  }

  static ofElements(elements: Elements): Body {
    const body = new Body(documentPieces(elements.values()));
    body.#elements = elements;
    return body;
  }

  /** These elements, or pieces of them: those of `base`, but for the ones in `fields`. */
  static ofOverlay(elements: readonly Buffer[], base: Body, fields: Body): Body {
    const body = new Body(documentPieces(elements));
    body.#overlay = { base, fields };
    return body;
  }

  get bytes(): Buffer {
    this.#bytes ??= Buffer.concat(this.pieces, this.length);
    return this.#bytes;
  }

  get elements(): Elements {
    this.#elements ??= takeApart(this.bytes, this.places);
    return this.#elements;
  }

  get places(): readonly Place[] {
    this.#places ??= findElements(this.bytes);
    return this.#places;
  }

  find(name: string): Place | undefined {
    if (!ASCII.test(name)) return this.places[[...this.elements.keys()].indexOf(name)];
    const { bytes } = this;
    for (const place of this.places) {
      const [, start, nameLength] = place;
      if (nameLength !== name.length) continue;
      let same = 0;
      while (same < nameLength && bytes[start + same] === name.charCodeAt(same)) same += 1;
      if (same === nameLength) return place;
    }
    return undefined;
  }

  /** Whether both have the same element with this name, or neither has any. */
  shares(name: string, other: Body): boolean {
    const laid = this.#overlay?.base === other ? this.#overlay.fields : undefined;
    const own = laid ?? this;
    const place = own.find(name);
    if (place === undefined && laid !== undefined) return true;
    const otherPlace = other.find(name);
    if (place === undefined || otherPlace === undefined) return place === otherPlace;
    return areSame(own.bytes, place, other.bytes, otherPlace);
  }
}

/** Whether two elements of the same name have the same type and value. */
export function areSame(bytes: Buffer, place: Place, otherBytes: Buffer, otherPlace: Place): boolean {
  const [type, , , offset, length] = place;
  const [otherType, , , otherOffset, otherLength] = otherPlace;
  if (type !== otherType || length !== otherLength) return false;
  return bytes.compare(otherBytes, otherOffset, otherOffset + otherLength, offset, offset + length) === 0;
}

const ASCII = /^[ -~]*$/;
