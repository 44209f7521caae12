import { createRoute, type OpenAPIHono, z } from '@hono/zod-openapi';
import { recordAction } from '../store/manual-actions.ts';
import { cancelTask, findTask, listTasks, requestTask } from '../store/tasks.ts';
import { actorOf } from './caller.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { encodeCursor, LIMIT_DEFAULT, nextCursor, pageParams, readPage } from './cursor.ts';
import { jobPath, jobSchema, toJobResource } from './job-resource.ts';
import { act } from './manual-action.ts';
import { ACTION_PROBLEMS, documentProblems, ProblemError, READ_PROBLEMS } from './problem.ts';
import { acceptNoBody, answerWithin } from './request-input.ts';
import { requireRole } from './role.ts';

const ANSWER_MS_MAX = 10_000;

const jobIdParam = z.strictObject({
  job_id: z
    .guid('must be a UUID')
    .toLowerCase()
    .openapi({ param: { name: 'job_id', in: 'path' }, example: '3f0e5b6c-7f11-4a55-9d0a-0b5c6a2e1f2f' }),
});

const jobAnswer = {
  content: { 'application/json': { schema: z.object({ success: z.literal(true), job: jobSchema }) } },
};

const listRoute = createRoute({
  method: 'get',
  path: '/pipeline/jobs',
  operationId: 'listJobs',
  tags: ['Pipeline'],
  summary: 'Sync-alls and backfills, the last asked for first, page by page',
  description: 'Jobs can be looked at for 30 days after they ended.',
  middleware: [requireRole('reader'), answerWithin(ANSWER_MS_MAX)] as const,
  request: { query: z.strictObject(pageParams) },
  responses: {
    200: {
      description: 'A page of jobs.',
      content: {
        'application/json': {
          schema: z.object({ success: z.literal(true), jobs: z.array(jobSchema), next_cursor: nextCursor }),
        },
      },
    },
    ...documentProblems(READ_PROBLEMS),
  },
});

const getRoute = createRoute({
  method: 'get',
  path: '/pipeline/jobs/{job_id}',
  operationId: 'getJob',
  tags: ['Pipeline'],
  summary: 'How far a job is, and what came of it',
  middleware: [requireRole('reader'), answerWithin(ANSWER_MS_MAX)] as const,
  request: { params: jobIdParam, query: z.strictObject({}) },
  responses: {
    200: { description: 'The job.', ...jobAnswer },
    ...documentProblems([...READ_PROBLEMS, 'not_found']),
  },
});

const cancelRoute = createRoute({
  method: 'post',
  path: '/pipeline/jobs/{job_id}/cancel',
  operationId: 'cancelJob',
  tags: ['Pipeline'],
  summary: 'Cancel a job',
  description: 'What it has done stays; a chunk in work is finished. Takes no body.',
  middleware: [requireRole('admin'), answerWithin(ANSWER_MS_MAX), acceptNoBody] as const,
  request: { params: jobIdParam, query: z.strictObject({}) },
  responses: {
    200: { description: 'It is cancelled.', ...jobAnswer },
    ...documentProblems([...ACTION_PROBLEMS, 'not_found', 'conflict']),
  },
});

const backfillRoute = createRoute({
  method: 'post',
  path: '/storage-guard/snapshots/backfill',
  operationId: 'backfill',
  tags: ['Snapshots'],
  summary: 'Recompute the snapshot of every booking, as a job',
  description:
    'In small chunks beside live work, which goes first; what has changed is published. One at a time: while one is under ' +
    'way, asking again answers that one. While the pipeline is paused it waits. Takes no body.',
  middleware: [requireRole('admin'), answerWithin(ANSWER_MS_MAX), acceptNoBody] as const,
  request: { query: z.strictObject({}) },
  responses: {
    202: {
      description: 'The job; its address is in `Location`.',
      headers: { Location: { description: 'Where the job can be looked at.', schema: { type: 'string' } } },
      ...jobAnswer,
    },
    ...documentProblems(ACTION_PROBLEMS),
  },
});

const noSuchJob = (): ProblemError =>
  new ProblemError('not_found', { detail: 'There is no job of this id.' });

export function mountJobs(app: OpenAPIHono<ApiEnv>, ctx: RouteContext): void {
  app.openapi(listRoute, async (c) => {
    const { cursor, limit } = c.req.valid('query');
    const page = await readPage(cursor, (after) =>
      listTasks(ctx.pool, {
        after: after && { requestedAt: after.at, id: after.bookingId },
        limit: limit ?? LIMIT_DEFAULT,
      }),
    );
    return c.json(
      {
        success: true as const,
        jobs: page.tasks.map(toJobResource),
        next_cursor: encodeCursor(page.next && { at: page.next.requestedAt, bookingId: page.next.id }),
      },
      200,
    );
  });

  app.openapi(getRoute, async (c) => {
    const task = await findTask(ctx.pool, c.req.valid('param').job_id);
    if (task === undefined) throw noSuchJob();
    return c.json({ success: true as const, job: toJobResource(task) }, 200);
  });

  app.openapi(cancelRoute, async (c) => {
    const { job_id: id } = c.req.valid('param');
    const cancelled = await act(ctx, c, async (client) => {
      const task = await cancelTask(client, id);
      if (task !== undefined) {
        await recordAction(client, { action: 'cancel', details: { job_id: id, kind: task.kind } });
      }
      return task;
    });
    if (cancelled !== undefined)
      return c.json({ success: true as const, job: toJobResource(cancelled) }, 200);
    const ended = await findTask(ctx.pool, id);
    if (ended === undefined) throw noSuchJob();
    throw new ProblemError('conflict', { detail: `The job has ended already: it is ${ended.state}.` });
  });

  app.openapi(backfillRoute, async (c) => {
    const { actor } = actorOf(c);
    const { task } = await act(ctx, c, async (client) => {
      const asked = await requestTask(client, { kind: 'backfill', requestedBy: actor });
      if (asked.isNew) {
        await recordAction(client, { action: 'backfill', details: { job_id: asked.task.id } });
      }
      return asked;
    });
    return c.json({ success: true as const, job: toJobResource(task) }, 202, { location: jobPath(task.id) });
  });
}
