import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Config } from '../config.ts';
import { EnvironmentError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { requireMigrated } from '../migrate.ts';
import { checkPostgres } from '../postgres.ts';
import { readStatus, type Status } from '../store/status.ts';
import { openPool } from './services.ts';

const runFileSchema = z.object({ database_url: z.string() });

/** `market-sync status`: how everything stands, in one screen or as JSON. */
export async function runStatus(config: Config, log: Logger, { json }: { json: boolean }): Promise<void> {
  const databaseUrl = config.databaseUrl ?? (await findRunningDatabase(config.dataDir));
  const pool = openPool(config, log, databaseUrl);
  try {
    await checkPostgres(pool, databaseUrl, { logical: false });
    await requireMigrated(pool);
    const status = await readStatus(pool);
    process.stdout.write(json ? `${JSON.stringify(status)}\n` : describe(status));
  } finally {
    await pool.end();
  }
}

/** The embedded database of a `start` that runs in this data directory. */
async function findRunningDatabase(dataDir: string): Promise<string> {
  const file = join(dataDir, 'run.json');
  try {
    return runFileSchema.parse(JSON.parse(await readFile(file, 'utf8'))).database_url;
  } catch (cause) {
    throw new EnvironmentError(
      `DATABASE_URL is not set, and ${file} does not tell of a running market-sync. Start it, or set DATABASE_URL.`,
      { cause },
    );
  }
}

function describe(status: Status): string {
  const { consumer, slot, checkpoint, snapshots, resync } = status;
  const lines = [
    `consumer    ${consumer.state}${consumer.holder === null ? '' : ` (${consumer.holder})`}`,
    `slot        ${slot.name ?? 'none yet'}, ${slot.active ? 'streaming' : 'not streaming'}, WAL ${slot.wal_status ?? 'unknown'}, ${formatBytes(slot.retained_wal_bytes)} retained${slot.safe_wal_bytes === null ? '' : `, ${formatBytes(slot.safe_wal_bytes)} until it is in danger`}`,
    `checkpoint  ${checkpoint.commit_lsn ?? 'none yet'}, ${formatBytes(checkpoint.lag_bytes)} behind, epoch ${checkpoint.epoch}, ${checkpoint.malformed_messages} malformed messages`,
    `snapshots   ${snapshots.total} in all, ${snapshots.to_publish} to publish, ${snapshots.parked} parked, ${snapshots.due_for_refresh} due for refresh`,
    `resync      ${resync === null ? 'none' : `${resync.reason}: ${resync.phase}, ${resync.bookings_done} bookings done`}`,
  ];
  return `${lines.join('\n')}\n`;
}

function formatBytes(bytes: number | null): string {
  if (bytes === null) return 'unknown';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}
