import { z } from '@hono/zod-openapi';
import { toIso } from '../domain/snapshot.ts';
import type { Task, TaskResult } from '../store/tasks.ts';

const time = () => z.string().openapi({ format: 'date-time', example: '2026-03-01T06:30:00.000Z' });

export const syncResultSchema = z
  .object({
    booking_id: z.guid().openapi({ format: 'uuid' }),
    status: z.enum(['published', 'failed', 'parked']).openapi({
      description:
        '`failed` will be tried again; `parked` failed too often and is left alone until it is retried or its booking changes.',
    }),
    listing_id: z.string().nullable().openapi({ example: '665f1c2ab7e4c81d2f9a3c1f' }),
    error: z.string().optional().openapi({ description: 'Why it was not published.' }),
  })
  .openapi('SyncResult');

const jobResultSchema = z
  .object({
    booking_id: z.guid().openapi({ format: 'uuid' }),
    status: z.enum(['published', 'failed', 'parked', 'changed']).openapi({
      description: 'As of a sync-all; of a backfill `changed` (a buyer can see a difference) or `parked`.',
    }),
    listing_id: z.string().nullable().openapi({ example: '665f1c2ab7e4c81d2f9a3c1f' }),
    error: z.string().optional(),
  })
  .openapi('JobResult');

export const jobSchema = z
  .object({
    id: z.guid().openapi({ format: 'uuid' }),
    kind: z.enum(['sync_all', 'backfill']),
    state: z.enum(['queued', 'running', 'done', 'failed', 'cancelled']).openapi({
      description:
        '`queued` until a pipeline process takes it, which is at once unless there is none or it is paused.',
    }),
    total: z
      .int()
      .nullable()
      .openapi({ description: 'Bookings to do; null until it begins.', example: 25_000 }),
    done: z.int().openapi({ example: 1_250 }),
    failed: z.int().openapi({ description: 'Beside those that are done.', example: 0 }),
    rate_per_second: z.number().nullable().openapi({
      description:
        'Bookings a second at the moment: 0 when it has not moved for 10 s, null when it is not in work.',
      example: 4_900.5,
    }),
    eta_seconds: z
      .int()
      .nullable()
      .openapi({ description: 'Seconds it still takes at this rate; null when nobody can say.', example: 5 }),
    requested_by: z.string().openapi({ example: 'night shift' }),
    requested_at: time(),
    started_at: time().nullable(),
    finished_at: time().nullable(),
    error: z
      .string()
      .nullable()
      .openapi({ description: 'Why it failed, or while it is in work what it waits for.' }),
    results: z
      .array(jobResultSchema)
      .optional()
      .openapi({ description: 'What came of single bookings: the first 1,000, where one job is asked for.' }),
  })
  .openapi('Job', { description: 'A long manual action: it goes on when nobody waits for it.' });

export type JobResource = z.infer<typeof jobSchema>;

export const toJobResource = (task: Task & { results?: TaskResult[] }): JobResource => ({
  id: task.id,
  kind: task.kind,
  state: task.state,
  total: task.total,
  done: task.done,
  failed: task.failed,
  rate_per_second: task.rate_per_second,
  eta_seconds: task.eta_seconds,
  requested_by: task.requested_by,
  requested_at: toIso(task.requested_at) ?? '',
  started_at: toIso(task.started_at),
  finished_at: toIso(task.finished_at),
  error: task.error,
  ...(task.results === undefined ? {} : { results: task.results }),
});

export const jobPath = (id: string): string => `/pipeline/jobs/${id}`;
