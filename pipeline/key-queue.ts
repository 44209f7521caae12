import { randomInt } from 'node:crypto';
import { KEY_KINDS, type KeyKind } from '../src/domain/change.ts';
import type { Lsn } from '../src/lsn.ts';

/** Characters of a UUID, as PostgreSQL and the capture triggers write it. */
const ID_LENGTH_MAX = 36;

/** A key in bytes: its kind, the length of its id, its id. */
const KEY_BYTES = 2 + ID_LENGTH_MAX;

/** Keys that there is room for at first, and again once it is empty. A power of two, as every capacity. */
const CAPACITY_MIN = 4_096;

const NONE = -1;

/** Another one in each process: ids can be forged, and whoever knew the hash could have them all in one bucket. */
const HASH_BASIS = randomInt(2 ** 32);

/**
 * Distinct keys, first in, first out, each with a position. What a `Map` of strings would be, but outside of the heap that
 * JavaScript collects: keys wait just long enough to be moved to its old generation, and V8 lets that grow to several
 * times of what is alive before it looks: a process through which half a million keys passed held 155 MB instead of 102.
 *
 * A ring of slots, and a hash table over them. The slots of a bucket are chained from the oldest to the newest, so the
 * oldest key of all, the only one that is ever removed, is the first of its chain.
 */
export class KeyQueue {
  #capacity = 0;
  #first = 0;
  #size = 0;
  /** By slot: the key; its position; the next slot of its bucket. */
  #keys = Buffer.alloc(0);
  #lsns = new BigUint64Array();
  #next = new Int32Array();
  /** By bucket: its first slot. */
  #heads = new Int32Array();

  constructor() {
    this.#allocate(CAPACITY_MIN);
  }

  get size(): number {
    return this.#size;
  }

  /** The oldest key's kind and position; undefined when there is none. */
  get oldest(): { kind: KeyKind; lsn: Lsn } | undefined {
    const kind = KEY_KINDS[this.#keys[this.#first * KEY_BYTES] ?? NONE];
    const lsn = this.#lsns[this.#first];
    return this.#size === 0 || kind === undefined || lsn === undefined ? undefined : { kind, lsn };
  }

  /** Adds a key unless it is here already: it then keeps its place and its position. */
  add(kind: KeyKind, id: string, lsn: Lsn): void {
    // Half an id would be another id.
    if (id.length > ID_LENGTH_MAX) throw new Error(`the id of a ${kind} has ${id.length} characters`);
    if (this.#size === this.#capacity) this.#grow();
    const slot = this.#slotAt(this.#size);
    const start = slot * KEY_BYTES;
    this.#keys[start] = KEY_KINDS.indexOf(kind);
    this.#keys[start + 1] = id.length;
    this.#keys.write(id, start + 2, 'latin1');
    if (!this.#chain(slot)) return;
    this.#lsns[slot] = lsn;
    this.#size += 1;
  }

  /** Removes the oldest key; answers its id. */
  shift(): string {
    if (this.#size === 0) throw new Error('no key waits');
    const slot = this.#first;
    const start = slot * KEY_BYTES;
    const id = this.#keys.toString('latin1', start + 2, start + 2 + (this.#keys[start + 1] ?? 0));
    this.#heads[this.#bucketOf(slot)] = this.#next[slot] ?? NONE;
    this.#first = this.#slotAt(1);
    this.#size -= 1;
    if (this.#size === 0 && this.#capacity > CAPACITY_MIN) this.#allocate(CAPACITY_MIN);
    return id;
  }

  #allocate(capacity: number): void {
    this.#capacity = capacity;
    this.#first = 0;
    this.#keys = Buffer.alloc(capacity * KEY_BYTES);
    this.#lsns = new BigUint64Array(capacity);
    this.#next = new Int32Array(capacity);
    this.#heads = new Int32Array(capacity).fill(NONE);
  }

  /** Twice the room. The oldest key comes to stand in the first slot. */
  #grow(): void {
    const [keys, lsns, first] = [this.#keys, this.#lsns, this.#first];
    this.#allocate(this.#capacity * 2);
    this.#keys.set(keys.subarray(first * KEY_BYTES));
    this.#keys.set(keys.subarray(0, first * KEY_BYTES), keys.length - first * KEY_BYTES);
    this.#lsns.set(lsns.subarray(first));
    this.#lsns.set(lsns.subarray(0, first), lsns.length - first);
    for (let slot = 0; slot < this.#size; slot += 1) this.#chain(slot);
  }

  /** Puts a slot at the end of its bucket's chain; false when the key is there already. */
  #chain(slot: number): boolean {
    const bucket = this.#bucketOf(slot);
    let last = NONE;
    for (let other = this.#heads[bucket] ?? NONE; other !== NONE; other = this.#next[other] ?? NONE) {
      if (this.#isSame(slot, other)) return false;
      last = other;
    }
    if (last === NONE) this.#heads[bucket] = slot;
    else this.#next[last] = slot;
    this.#next[slot] = NONE;
    return true;
  }

  #slotAt(place: number): number {
    return (this.#first + place) & (this.#capacity - 1);
  }

  /** FNV-1a over the bytes of the key, but for its basis. */
  #bucketOf(slot: number): number {
    const start = slot * KEY_BYTES;
    const end = start + 2 + (this.#keys[start + 1] ?? 0);
    let hash = HASH_BASIS;
    for (let at = start; at < end; at += 1) hash = Math.imul(hash ^ (this.#keys[at] ?? 0), 0x01000193);
    return (hash ^ (hash >>> 15)) & (this.#capacity - 1);
  }

  #isSame(slot: number, other: number): boolean {
    const [start, otherStart] = [slot * KEY_BYTES, other * KEY_BYTES];
    const length = 2 + (this.#keys[start + 1] ?? 0);
    for (let at = 0; at < length; at += 1) {
      if (this.#keys[start + at] !== this.#keys[otherStart + at]) return false;
    }
    return true;
  }
}
