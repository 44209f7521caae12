/**
 * A log sequence number: a byte position in PostgreSQL's write-ahead log. It is a bigint from the edge inward, because
 * its text form has no order (`0/9` > `0/10` as text) and one library prints the same position in two notations.
 */
export type Lsn = bigint;

/** Parses `16/B374D848`, with or without leading zeros. Throws a `TypeError` on anything else. */
export function parseLsn(text: string): Lsn {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text);
  if (match === null) throw new TypeError(`not an LSN: ${JSON.stringify(text)}`);
  return (BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`);
}

/** PostgreSQL's own notation, as `pg_lsn` prints it. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffffffffn).toString(16).toUpperCase()}`;
}
