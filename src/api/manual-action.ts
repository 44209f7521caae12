import { z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type pg from 'pg';
import { asActor, findPause, type Refusal, RefusedError } from '../store/manual-actions.ts';
import { findSnapshot } from '../store/snapshots.ts';
import { actorOf } from './caller.ts';
import type { ApiEnv, RouteContext } from './context.ts';
import { type ProblemCode, ProblemError } from './problem.ts';
import { type SnapshotResource, toSnapshotResource } from './snapshot-resource.ts';

const PROBLEM_OF: Record<Refusal, ProblemCode> = {
  unknown_booking: 'not_found',
  conflict: 'conflict',
  version: 'version_mismatch',
  bad_argument: 'bad_argument',
  paused: 'paused',
};

/**
 * Does by hand, in one transaction and in the caller's name, what `work` says; what the state of things forbids becomes
 * the problem that says so.
 */
export async function act<Result>(
  ctx: RouteContext,
  c: Context<ApiEnv>,
  work: (client: pg.PoolClient) => Promise<Result>,
): Promise<Result> {
  try {
    return await asActor(ctx.pool, actorOf(c), work);
  } catch (error) {
    if (error instanceof RefusedError) throw refused(error);
    throw error;
  }
}

function refused(error: RefusedError): ProblemError {
  if (error.refusal === 'paused') return pausedProblem(error);
  const sentence = `${error.message[0]?.toUpperCase() ?? ''}${error.message.slice(1)}`;
  const detail = [`${sentence}.`, ...(error.hint === undefined ? [] : [error.hint])].join(' ');
  return new ProblemError(PROBLEM_OF[error.refusal], { detail, cause: error });
}

/** Nothing is published while the pipeline is paused. */
const pausedProblem = (cause?: unknown): ProblemError =>
  new ProblemError('paused', {
    detail:
      'The pipeline is paused: nothing is published until it is resumed (POST /pipeline/resume). GET /pipeline/status says why.',
    cause,
  });

/** Answers 409 while the pipeline is paused. */
export async function requireRunning({ pool }: RouteContext): Promise<void> {
  if ((await findPause(pool)) !== undefined) throw pausedProblem();
}

/** What was done, and that it reaches MongoDB later while the pipeline is paused. */
export async function sayWhen({ pool }: RouteContext, done: string): Promise<string> {
  const paused = (await findPause(pool)) !== undefined;
  return paused ? `${done}; the pipeline is paused, so it reaches MongoDB when that is resumed` : done;
}

export async function readSnapshot(
  { pool }: RouteContext,
  bookingId: string,
): Promise<SnapshotResource | null> {
  const snapshot = await findSnapshot(pool, bookingId);
  return snapshot === undefined ? null : toSnapshotResource(snapshot);
}

const REASON_LIMITS = 'is needed: 1 to 500 characters';

/** Why somebody does something by hand; it is kept in the audit log. */
export const reasonField = z
  .string(REASON_LIMITS)
  .trim()
  .min(1, REASON_LIMITS)
  .max(500, REASON_LIMITS)
  .openapi({
    description: 'Why; kept in the audit log.',
    example: 'buyer disputes the weight',
  });

export const withReason = z.strictObject({ reason: reasonField }).openapi('WithReason');
