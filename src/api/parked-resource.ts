import { z } from '@hono/zod-openapi';
import { toIso } from '../domain/snapshot.ts';
import type { Parked } from '../store/parked.ts';

const time = () => z.string().openapi({ format: 'date-time', example: '2026-03-01T06:30:00.000Z' });

export const parkedSchema = z
  .object({
    booking_id: z.guid().openapi({ format: 'uuid' }),
    stage: z.enum(['reconcile', 'publish']).openapi({
      description:
        '`reconcile`: its data could not be made into a snapshot; `publish`: MongoDB would not take its listing.',
    }),
    error: z.string().openapi({ example: 'the listing has 17000000 bytes, more than the 16711680 that fit' }),
    attempts: z.int().openapi({ description: 'Failed in a row.', example: 5 }),
    first_failed_at: time(),
    last_failed_at: time(),
    parked_at: time(),
  })
  .openapi('Parked', { description: 'A snapshot that failed too often and is left alone.' });

export const toParkedResource = (parked: Parked): z.infer<typeof parkedSchema> => ({
  booking_id: parked.booking_id,
  stage: parked.stage,
  error: parked.error,
  attempts: parked.attempts,
  first_failed_at: toIso(parked.first_failed_at) ?? '',
  last_failed_at: toIso(parked.last_failed_at) ?? '',
  parked_at: toIso(parked.parked_at) ?? '',
});
