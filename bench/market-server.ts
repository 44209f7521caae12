import { startMarket } from '../src/embedded/market/server.ts';
import { createLogger } from '../src/log.ts';

// The stand-in for MongoDB in a process of its own: prints its URL, ends with SIGTERM.

const market = await startMarket({
  databaseUrl: process.env.BENCH_DATABASE_URL ?? '',
  host: '127.0.0.1',
  port: 0,
  log: createLogger('silent'),
});
process.stdout.write(`${market.url}\n`);
process.once('SIGTERM', () => void market.stop().then(() => process.exit()));
