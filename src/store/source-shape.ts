import { createHash } from 'node:crypto';
import { EnvironmentError } from '../errors.ts';
import { type Database, query } from '../postgres.ts';
import { describeFaults, readSourceShape, type SourceFault } from '../source.ts';

/** Remembered instead of a shape that nothing can be computed from. */
const UNUSABLE = 'unusable';

/**
 * Looks at the application's tables, and remembers what they look like. What has changed since the last look, and can be
 * gone on with, leads to a recompute of everything: true.
 *
 * Throws an `EnvironmentError` that names table, column and remedy when snapshots cannot be computed from them. That is
 * remembered, too: once it is mended, the next look leads to a recompute of everything.
 */
export async function checkSource(db: Database, { generation }: { generation: number }): Promise<boolean> {
  const { faults, fingerprint } = await readSourceShape(db);
  const shape = faults.length > 0 ? UNUSABLE : createHash('sha256').update(fingerprint).digest('hex');
  const rows = await query<{ recomputes: boolean }>(
    db,
    'select market_sync.note_source_shape($1, $2, $3) as recomputes',
    [generation, shape, 'columns of the source tables have changed'],
  );
  if (faults.length > 0) throw sourceError(faults);
  return rows[0]?.recomputes === true;
}

/** What to say when work has failed with `cause` because of the application's tables; undefined when they are in order. */
export async function findSourceError(db: Database, cause: unknown): Promise<EnvironmentError | undefined> {
  const { faults } = await readSourceShape(db);
  return faults.length > 0 ? sourceError(faults, cause) : undefined;
}

const sourceError = (faults: SourceFault[], cause?: unknown): EnvironmentError =>
  new EnvironmentError(
    `the source tables are not what snapshots are computed from: ${describeFaults(faults)}. ` +
      'Mend them, or install a version of market-sync that knows them, and start again; changes wait in the replication slot ' +
      'until then, and everything is recomputed afterwards',
    { cause },
  );
