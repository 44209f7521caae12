import { z } from 'zod';

/**
 * The kinds of key a change can dirty. A change says what is dirty, never what to write (D3); keys are of the changed
 * thing, and are resolved to bookings when they are recomputed (D2).
 */
export const KEY_KINDS = ['booking', 'location', 'sensor', 'vendor', 'inspection'] as const;
export type KeyKind = (typeof KEY_KINDS)[number];

/** Prefix of this project's logical messages (`pg_logical_emit_message`); others are not ours. */
export const MESSAGE_PREFIX = 'market_sync';

/** Longest payload that is parsed, in bytes: the triggers cut theirs at 5,000 keys, about 200 kB. */
const MESSAGE_BYTES_MAX = 1_000_000;

const keys = z.array(z.string().regex(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)).optional();

/** What a capture trigger writes: keys by kind, or the name of a table of which anything may have changed. */
const messageSchema = z.strictObject({
  v: z.literal(1),
  booking: keys,
  location: keys,
  sensor: keys,
  vendor: keys,
  inspection: keys,
  // Names as the triggers write them: a NUL in one would make PostgreSQL refuse the batch, again with every redelivery.
  all: z
    .string()
    .regex(/^[a-z_]{1,63}$/)
    .optional(),
  sqlstate: z
    .string()
    .regex(/^[0-9A-Z]{5}$/)
    .optional(),
});

export type CaptureMessage = z.output<typeof messageSchema>;

/**
 * Parses a message of the capture triggers; undefined when it is not one. Any role can write such a message, so nothing
 * in it is trusted beyond naming keys to recompute.
 */
export function parseCaptureMessage(content: Uint8Array): CaptureMessage | undefined {
  if (content.byteLength > MESSAGE_BYTES_MAX) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(content));
  } catch {
    return undefined;
  }
  const parsed = messageSchema.safeParse(json);
  return parsed.success ? parsed.data : undefined;
}
