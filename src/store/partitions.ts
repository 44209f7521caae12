import { type Database, query } from '../postgres.ts';

/** Partitions of sensor_readings whose direct writes are not captured yet, as SQL names them. */
export async function findUncaptured(db: Database): Promise<string[]> {
  const rows = await query<{ partition: string }>(
    db,
    'select partition from market_sync.partitions where not captured order by 1',
  );
  return rows.map((row) => row.partition);
}

/**
 * Puts the capture triggers on a partition, in a transaction of its own. Throws 55P03 when its writers do not let go of it
 * within 0.4 s, 42501 when it belongs to somebody else than the owner of `market_sync`. Answers the sensors recomputed for it.
 */
export async function capturePartition(db: Database, partition: string): Promise<number> {
  const rows = await query<{ sensors: number }>(
    db,
    'select market_sync.capture_partition($1::regclass) as sensors',
    [partition],
  );
  return rows[0]?.sensors ?? 0;
}

/** Asks for a recompute of what partitions that came or went since the last look can have changed. */
export async function comparePartitions(
  db: Database,
): Promise<{ came: number; went: number; sensors: number }> {
  const rows = await query<{ came: number; went: number; sensors: number }>(
    db,
    'select came, went, sensors from market_sync.compare_partitions()',
  );
  return rows[0] ?? { came: 0, went: 0, sensors: 0 };
}
