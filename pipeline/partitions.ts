import type pg from 'pg';
import type { Logger } from '../src/log.ts';
import { sqlStateOf } from '../src/postgres.ts';
import { capturePartition, comparePartitions, findUncaptured } from '../src/store/partitions.ts';

/** Partitions that one run puts triggers on; what is left the next one does. */
const CAPTURE_MAX = 100;

/**
 * Follows the partitions of sensor_readings: puts triggers on those that have come, and has recomputed what those that have
 * come or gone can have changed. Nothing of it makes a writer wait longer than 0.4 s: a partition that is busy is left to the
 * next run. Does nothing where sensor_readings is not partitioned.
 */
export async function followPartitions(
  { pool, log }: { pool: pg.Pool; log: Logger },
  signal: AbortSignal,
): Promise<Record<string, number>> {
  let captured = 0;
  for (const partition of (await findUncaptured(pool)).slice(0, CAPTURE_MAX)) {
    if (signal.aborted) break;
    try {
      await capturePartition(pool, partition);
      captured += 1;
      log.info({ partition }, 'partition captured');
    } catch (error) {
      const state = sqlStateOf(error) ?? '';
      if (state === '42501') {
        log.warn(
          { partition, remedy: 'give it to the owner of sensor_readings, or run: market-sync migrate' },
          'writes made straight to a partition are not seen: its triggers may not be made',
        );
      } else if (!['55P03', '40P01', '42P01', '22023'].includes(state)) throw error;
    }
  }
  const { came, went, sensors } = await comparePartitions(pool);
  if (came + went > 0) log.info({ came, went, sensors }, 'partitions of sensor_readings have changed');
  return captured + came + went === 0 ? {} : { captured, came, went, sensors };
}
