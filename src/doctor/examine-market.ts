import { setTimeout as delay } from 'node:timers/promises';
import { describeError } from '../errors.ts';
import { openMarketClient } from '../mongo.ts';
import { type CheckDefinition, type Finding, failure, ok, skipAll, skipped } from './check.ts';
import { CHECK_MS, CONNECT_MS, type ExamineInput, judgeMissing, type Part } from './examination.ts';
import { type HelloReply, MARKET_CHECKS, type MarketContext } from './market.ts';

export const MARKET_REACHABLE = { group: 'mongodb', name: 'mongodb_reachable' };

/** All that is asked of MongoDB, side by side. Throws a `SettingsError` for a URL that cannot be read. */
export async function examineMarket(input: ExamineInput): Promise<Part> {
  const target = input.mongodb;
  if ('missing' in target) {
    return {
      checks: [
        { ...MARKET_REACHABLE, ...judgeMissing(target) },
        ...skipAll('mongodb', MARKET_CHECKS, 'there is no server to ask'),
      ],
    };
  }
  const market = openMarketClient({
    url: target.url,
    database: input.mongodbDatabase,
    timeoutMs: Math.min(input.mongodbTimeoutMs, CONNECT_MS),
  });
  const abort = () => void market.client.close(true).catch(() => undefined);
  input.signal?.addEventListener('abort', abort);
  try {
    const admin = market.client.db('admin');
    await market.client.connect();
    const before = input.now();
    const hello: HelloReply = await admin.command({ hello: 1 });
    const after = input.now();
    const context: MarketContext = { ...market, hello, build: await admin.command({ buildInfo: 1 }) };
    const findings = await Promise.all(
      MARKET_CHECKS.map(async (check) => ({
        group: 'mongodb',
        name: check.name,
        ...(await lookAtMarket(context, check)),
      })),
    );
    const reachable = ok(`${input.mongodbDatabase} at ${market.address}`);
    const checks = [{ ...MARKET_REACHABLE, ...reachable }, ...findings];
    if (!(hello.localTime instanceof Date)) return { checks };
    return { checks, aheadMs: hello.localTime.getTime() - (before + after) / 2 };
  } catch (error) {
    const found = `no usable MongoDB server at ${market.address} (${describeError(error)})`;
    const reachable = failure(found, 'export MONGODB_URL=mongodb://…  # or start MongoDB there');
    return {
      checks: [
        { ...MARKET_REACHABLE, ...reachable },
        ...skipAll('mongodb', MARKET_CHECKS, 'MongoDB cannot be reached'),
      ],
    };
  } finally {
    input.signal?.removeEventListener('abort', abort);
    await market.client.close();
  }
}

async function lookAtMarket(context: MarketContext, check: CheckDefinition<MarketContext>): Promise<Finding> {
  const ended = new AbortController();
  // Not every server keeps to maxTimeMS.
  const overdue = delay(CHECK_MS, skipped(`it could not be told within ${CHECK_MS / 1_000} s`), {
    signal: ended.signal,
  });
  overdue.catch(() => undefined);
  try {
    return await Promise.race([check.look(context), overdue]);
  } catch (error) {
    return skipped(`it could not be told (${describeError(error)})`);
  } finally {
    ended.abort();
  }
}
