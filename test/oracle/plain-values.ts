/** Null for what JSON cannot hold; 0 for -0, which JSON cannot hold either. */
export function finite(value: number | null): number | null {
  if (value === null || !Number.isFinite(value)) return null;
  return value === 0 ? 0 : value;
}

export const finiteTime = (text: string | null): string | null =>
  text === 'infinity' || text === '-infinity' ? null : text;

/** UTF-8 byte order, PostgreSQL's "C" collation; JavaScript's own order differs above U+FFFF. */
export function compareBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

/** An object that also holds a key named `__proto__`. */
export function objectOf<Value>(entries: [string, Value][]): Record<string, Value> {
  const object: Record<string, Value> = Object.create(null);
  for (const [key, value] of entries) object[key] = value;
  return object;
}
