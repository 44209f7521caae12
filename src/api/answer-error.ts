import type { Context } from 'hono';
import { HTTPException } from 'hono/http-exception';
import { describeError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { classifyPostgresError } from '../postgres.ts';
import type { ApiEnv } from './context.ts';
import { PROBLEM_TYPE, ProblemError, toProblem, unavailable, unexpectedError } from './problem.ts';

/** Turns whatever a route threw into a problem; what the caller need not know goes to the log, under the request's id. */
export function answerError(log: Logger, error: Error, c: Context<ApiEnv>): Response {
  const requestId = c.get('requestId');
  const problem = toProblemError(error);
  if (problem.status === 500) {
    log.error({ request_id: requestId, error: describeError(error) }, 'request failed');
  } else if (problem.status > 500) {
    log.warn({ request_id: requestId, error: describeError(error) }, 'request could not be served');
  }
  // Through the context, which adds what headers were set before the error.
  return c.body(JSON.stringify(toProblem(problem, requestId)), problem.status, {
    ...problem.headers,
    'content-type': PROBLEM_TYPE,
  });
}

function toProblemError(error: Error): ProblemError {
  if (error instanceof ProblemError) return error;
  // Hono's own, of which only those about the request can come up.
  if (error instanceof HTTPException && error.status < 500) {
    return new ProblemError('malformed_request', { detail: error.message, cause: error });
  }
  if (classifyPostgresError(error) === 'retryable') {
    return unavailable('database_unavailable', {
      detail: 'PostgreSQL cannot be reached, or is too busy, at the moment.',
      cause: error,
    });
  }
  return unexpectedError(error);
}
