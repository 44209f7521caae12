import type { Config } from '../config.ts';
import { EnvironmentError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { requireMigrated } from '../migrate.ts';
import { connectMarket } from '../mongo.ts';
import { checkPostgres } from '../postgres.ts';
import { findDuplicates, removeDuplicates } from '../store/listing-duplicates.ts';
import { openPool, requireServers } from './services.ts';

/** Bookings named on the screen; the summary counts all of them. */
const SHOWN_MAX = 20;

/**
 * `market-sync dedupe`: says which listings of the system before this one are too many, and with `--apply` deletes them.
 * Until then `booking_id` cannot be unique, which every publisher needs, and nothing starts. Nothing else may write
 * listings meanwhile.
 */
export async function runDedupe(config: Config, log: Logger, { apply }: { apply: boolean }): Promise<void> {
  const { databaseUrl, mongodbUrl } = requireServers(config);
  const pool = openPool(config, log, databaseUrl);
  try {
    await checkPostgres(pool, databaseUrl, { logical: false });
    await requireMigrated(pool);
    const market = await connectMarket({
      url: mongodbUrl,
      database: config.mongodbDatabase,
      timeoutMs: config.mongodbTimeoutMs,
    });
    try {
      let [bookings, documents, unowned] = [0, 0, 0];
      for await (const batch of findDuplicates(pool, market)) {
        for (const { bookingId, kept, removed } of batch.duplicates.slice(0, SHOWN_MAX - bookings)) {
          process.stdout.write(`${bookingId}: keeps ${kept}, not ${removed.join(', ')}\n`);
        }
        bookings += batch.duplicates.length;
        unowned += batch.unowned;
        documents += apply
          ? await removeDuplicates(market, batch.duplicates)
          : batch.duplicates.reduce((sum, { removed }) => sum + removed.length, 0);
      }
      process.stdout.write(
        `${documents} documents of ${bookings} bookings ${apply ? 'deleted' : 'are too many. Delete them: market-sync dedupe --apply'}\n`,
      );
      if (unowned > 1) {
        throw new EnvironmentError(
          `MONGODB_URL: ${unowned} documents of market_listings have no booking_id, or one that is no text, and stand in the way of its being unique. Whose they are only you can say: delete them, or move them to another collection.`,
        );
      }
    } finally {
      await market.close();
    }
  } finally {
    await pool.end();
  }
}
