import { z } from '@hono/zod-openapi';
import { toIso } from '../domain/snapshot.ts';
import type { AuditEntry, Revision } from '../store/audit.ts';

const time = () => z.string().openapi({ format: 'date-time', example: '2026-03-01T06:30:00.000Z' });

export const auditEntrySchema = z
  .object({
    id: z.int().openapi({ example: 4711 }),
    at: time(),
    action: z.string().openapi({
      description:
        'pause, resume, resync, reconcile, publish_now, retry_parked, hold, release, withdraw, set_override, end_override, sync_all, backfill, cancel, create_key, rotate_key, revoke_key',
      example: 'hold',
    }),
    actor: z.string().openapi({
      description: 'Name of the API key or token, or the database login that called the function in SQL.',
      example: 'night shift',
    }),
    via: z.enum(['sql', 'http']),
    booking_ids: z
      .array(z.guid().openapi({ format: 'uuid' }))
      .nullable()
      .openapi({ description: 'Bookings that it touched, 1,000 at most; null: none in particular.' }),
    reason: z.string().nullable().openapi({ example: 'buyer disputes the weight' }),
    details: z.record(z.string(), z.unknown()).openapi({ example: {} }),
    request_id: z.string().nullable().openapi({ description: 'Find the call in the log of the API by it.' }),
  })
  .openapi('AuditEntry', {
    description: 'A manual action. Each one has exactly one, written in its transaction.',
  });

export const toAuditResource = (entry: AuditEntry): z.infer<typeof auditEntrySchema> => ({
  id: entry.id,
  at: toIso(entry.at) ?? '',
  action: entry.action,
  actor: entry.actor,
  via: entry.via,
  booking_ids: entry.booking_ids,
  reason: entry.reason,
  details: entry.details,
  request_id: entry.request_id,
});

export const revisionSchema = z
  .object({
    epoch: z.int().openapi({ example: 1 }),
    revision: z.int().openapi({ example: 7 }),
    at: time(),
    status: z.string().openapi({
      description: 'Which it had when it was made: `ready_to_publish`, `held`, `completed` or `withdrawn`.',
      example: 'ready_to_publish',
    }),
    cause: z.enum(['new', 'own', 'parts', 'epoch', 'manual']).openapi({
      description:
        "`new`: the booking's first. `own`: the booking's own columns, its status or its grade. `parts`: inspection, sensors, detections, certificates, or an override of them. `epoch`: written again in a new epoch.",
    }),
  })
  .openapi('Revision');

export const toRevisionResource = (revision: Revision): z.infer<typeof revisionSchema> => ({
  epoch: revision.epoch,
  revision: revision.revision,
  at: toIso(revision.at) ?? '',
  status: revision.status,
  cause: revision.cause,
});
