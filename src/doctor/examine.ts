import { describeError } from '../errors.ts';
import { query, redactUrl, sqlStateOf } from '../postgres.ts';
import { openReader, type Reader } from '../read-only.ts';
import { CAPTURE_CHECKS } from './capture.ts';
import { type Check, type CheckDefinition, type Finding, failure, ok, skipAll, skipped } from './check.ts';
import { judgeClocks } from './clocks.ts';
import { CONNECTION_CHECKS } from './connection.ts';
import { CHECK_MS, CONNECT_MS, type ExamineInput, judgeMissing, type Part } from './examination.ts';
import { examineMarket, MARKET_REACHABLE } from './examine-market.ts';
import { MARKET_CHECKS } from './market.ts';
import { LIMITS, type PostgresContext, readFacts } from './postgres-context.ts';
import { SERVER_CHECKS } from './postgres-server.ts';
import { PRIVILEGE_CHECKS } from './privileges.ts';
import { SLOT_CHECKS } from './slot.ts';
import { INDEX_CHECKS } from './source-indexes.ts';
import { SURROUNDING_CHECKS } from './source-surroundings.ts';
import { SOURCE_TABLE_CHECKS } from './source-tables.ts';
import { STANDBY_CHECKS } from './standbys.ts';

/** From then on nothing more is looked at: what is left is skipped. */
const DEADLINE_MS = 8_000;

/** Looked at side by side. One check needs three connections of the reader's four at once. */
const CHECKS_AT_ONCE = 3;

const GROUPS: readonly { group: string; checks: readonly CheckDefinition<PostgresContext>[] }[] = [
  { group: 'connection', checks: CONNECTION_CHECKS },
  { group: 'server', checks: SERVER_CHECKS },
  { group: 'privileges', checks: PRIVILEGE_CHECKS },
  { group: 'source', checks: [...SOURCE_TABLE_CHECKS, ...SURROUNDING_CHECKS, ...INDEX_CHECKS] },
  { group: 'capture', checks: CAPTURE_CHECKS },
  { group: 'slot', checks: [...SLOT_CHECKS, ...STANDBY_CHECKS] },
];

const POSTGRES_REACHABLE = { group: 'connection', name: 'postgres_reachable' };
const CLOCKS = { group: 'clocks', name: 'clock_skew' };

/** Every check there is, in the order of the report. */
export const CATALOGUE: readonly { group: string; name: string; means: string; stops: boolean }[] = [
  {
    ...POSTGRES_REACHABLE,
    means: 'Failure when PostgreSQL cannot be reached; all that is asked of it is skipped then.',
    stops: false,
  },
  ...GROUPS.flatMap(({ group, checks }) =>
    checks.map(({ name, means, stops }) => ({ group, name, means, stops: stops === true })),
  ),
  {
    ...MARKET_REACHABLE,
    means: 'Failure when MongoDB cannot be reached; all that is asked of it is skipped then.',
    stops: false,
  },
  ...MARKET_CHECKS.map(({ name, means, stops }) => ({
    group: 'mongodb',
    name,
    means,
    stops: stops === true,
  })),
  {
    ...CLOCKS,
    means:
      "Warning when the clocks of PostgreSQL, MongoDB and this machine differ by more than 5 s. Only PostgreSQL's decides windows, expiries and leases.",
    stops: false,
  },
];

export interface Report {
  ok: boolean;
  /** 0 all is well, 1 warnings, 2 it will not work. */
  exit_code: 0 | 1 | 2;
  checks: Check[];
  duration_ms: number;
}

/**
 * Looks at both servers, side by side, and changes nothing: PostgreSQL in `read only` transactions, MongoDB by commands
 * that only read. What goes wrong in a look is a line of the report. Throws a `SettingsError` for a MONGODB_URL that
 * cannot be read.
 */
export async function examine(input: ExamineInput): Promise<Report> {
  const startedAt = performance.now();
  const [postgres, market] = await Promise.all([
    examinePostgres(input, startedAt + DEADLINE_MS),
    examineMarket(input),
  ]);
  const limits = { ...LIMITS, ...input.limits };
  const clocks = judgeClocks({ postgresMs: postgres.aheadMs, marketMs: market.aheadMs }, limits);
  const checks = [...postgres.checks, ...market.checks, { ...CLOCKS, ...clocks }];
  const exit_code = checks.some(({ status }) => status === 'failure')
    ? 2
    : checks.some(({ status }) => status === 'warning')
      ? 1
      : 0;
  const duration_ms = Math.round(performance.now() - startedAt);
  return { ok: exit_code === 0, exit_code, checks, duration_ms };
}

const skipPostgres = (found: string): Check[] =>
  GROUPS.flatMap(({ group, checks }) => skipAll(group, checks, found));

async function examinePostgres(input: ExamineInput, deadline: number): Promise<Part> {
  const target = input.postgres;
  if ('missing' in target) {
    return {
      checks: [
        { ...POSTGRES_REACHABLE, ...judgeMissing(target) },
        ...skipPostgres('there is no server to ask'),
      ],
    };
  }
  const reader = openReader({
    url: target.url,
    applicationName: 'market-sync doctor',
    sourceSchema: input.sourceSchema,
    connectTimeoutMs: CONNECT_MS,
    statementTimeoutMs: CHECK_MS,
  });
  const abort = () => void reader.close().catch(() => undefined);
  input.signal?.addEventListener('abort', abort);
  try {
    const first = await meetPostgres(reader, input);
    if ('error' in first) {
      const found = `${redactUrl(target.url)} cannot be reached (${describeError(first.error)})`;
      const reachable = failure(found, 'export DATABASE_URL=postgresql://…  # or start PostgreSQL there');
      return {
        checks: [{ ...POSTGRES_REACHABLE, ...reachable }, ...skipPostgres('PostgreSQL cannot be reached')],
      };
    }
    const context = {
      reader,
      url: target.url,
      facts: first.facts,
      sourceSchema: input.sourceSchema,
      slotName: input.slotName,
      limits: { ...LIMITS, ...input.limits },
      replication: input.replication,
    };
    const checks = await lookAtAll(context, deadline);
    const reachable = ok(`${first.facts.database} at ${redactUrl(target.url)}, as ${first.facts.login}`);
    return { checks: [{ ...POSTGRES_REACHABLE, ...reachable }, ...checks], aheadMs: first.aheadMs };
  } finally {
    input.signal?.removeEventListener('abort', abort);
    if (input.signal?.aborted !== true) await reader.close();
  }
}

async function meetPostgres(reader: Reader, { sourceSchema, now }: ExamineInput) {
  try {
    return await reader.read(async (db) => {
      const before = now();
      const rows = await query<{ ms: number }>(
        db,
        'select (extract(epoch from clock_timestamp()) * 1000)::float8 as ms',
      );
      const aheadMs = (rows[0]?.ms ?? 0) - (before + now()) / 2;
      return { facts: await readFacts(db, sourceSchema), aheadMs };
    });
  } catch (error) {
    return { error };
  }
}

/** In the order of the catalogue, a few at a time. */
async function lookAtAll(context: Omit<PostgresContext, 'db'>, deadline: number): Promise<Check[]> {
  const all = GROUPS.flatMap(({ group, checks }) => checks.map((check) => ({ group, check })));
  const results: Check[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < all.length) {
      const index = next;
      next += 1;
      const { group, check } = all[index] as (typeof all)[number];
      const finding =
        performance.now() > deadline ? skipped('no time was left') : await lookWith(context, check);
      results[index] = { group, name: check.name, ...finding };
    }
  };
  await Promise.all(Array.from({ length: CHECKS_AT_ONCE }, work));
  return results;
}

const QUERY_CANCELED = '57014';
const INSUFFICIENT_PRIVILEGE = '42501';

async function lookWith(
  context: Omit<PostgresContext, 'db'>,
  check: CheckDefinition<PostgresContext>,
): Promise<Finding> {
  try {
    return await context.reader.read(async (db) => check.look({ ...context, db }));
  } catch (error) {
    const state = sqlStateOf(error);
    if (state === QUERY_CANCELED) return skipped(`it could not be told within ${CHECK_MS / 1_000} s`);
    if (state === INSUFFICIENT_PRIVILEGE) {
      return skipped(`${context.facts.login} may not look (${describeError(error)})`);
    }
    return skipped(`it could not be told (${describeError(error)})`);
  }
}
