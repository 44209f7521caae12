import type pg from 'pg';
import { EnvironmentError } from '../src/errors.ts';
import { sqlStateOf } from '../src/postgres.ts';
import { findSourceError } from '../src/store/source-shape.ts';

/** Says what to do about what an operator can mend. Nothing has been confirmed: the slot keeps the changes meanwhile. */
export async function explainFatal(pool: pg.Pool, error: unknown): Promise<unknown> {
  if (error instanceof EnvironmentError) return error;
  // Whatever failed: when a column is gone or another one, that is why.
  const drift = await findSourceError(pool, error).catch(() => undefined);
  if (drift !== undefined) return drift;
  const state = sqlStateOf(error);
  if (state === '42703' || state === '42P01' || state === '42883') {
    return new EnvironmentError(
      'something that market-sync stands on is missing in PostgreSQL. Restore it, or install a version of market-sync that ' +
        'does without; changes wait in the replication slot until then',
      { cause: error },
    );
  }
  if (state === '42501') {
    return new EnvironmentError('the role of DATABASE_URL lacks a privilege. Grant it and start again', {
      cause: error,
    });
  }
  return error;
}
