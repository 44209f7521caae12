import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { z } from 'zod';
import { type CrashSetting, parseCrashSetting } from './crash-point.ts';
import { SettingsError } from './errors.ts';

const MINUTE_SECONDS = 60;
const DAY_SECONDS = 24 * 60 * MINUTE_SECONDS;

const integer = (fallback: number, bounds: { min: number; max: number }) =>
  z
    .string()
    .regex(/^-?\d+$/, 'must be a whole number')
    .default(String(fallback))
    .transform(Number)
    .pipe(z.number().min(bounds.min).max(bounds.max));

const onOff = (fallback: 'on' | 'off') => z.enum(['on', 'off']).default(fallback);

const identifier = (fallback: string) =>
  z
    .string()
    .regex(/^[a-z_][a-z0-9_]{0,62}$/, 'must be a lowercase SQL identifier of at most 63 characters')
    .default(fallback);

/** Least and greatest number of minute, hour, day of month, month and day of week (0 and 7 are Sunday). */
const CRON_FIELDS = [
  [0, 59],
  [0, 23],
  [1, 31],
  [1, 12],
  [0, 7],
] as const;

/** Lists of `*`, `5`, `1-5`, each with an optional step (`/15`). What pg-boss cannot read would fail it after the start. */
function isCron(text: string): boolean {
  const fields = text.split(' ');
  return (
    fields.length === CRON_FIELDS.length &&
    CRON_FIELDS.every(([min, max], position) =>
      (fields[position] ?? '').split(',').every((part) => {
        const match = /^(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:\/([1-9]\d?))?$/.exec(part);
        if (match === null) return false;
        const first = Number(match[1] ?? min);
        const last = Number(match[2] ?? match[1] ?? max);
        return min <= first && first <= last && last <= max;
      }),
    )
  );
}

/** Five fields only: pg-boss accepts six and then fires once a minute. */
const cron = (fallback: string) =>
  z.string().refine(isCron, 'must be a cron expression of five fields, in numbers').default(fallback);

const url = (schemes: RegExp, example: string) =>
  z.string().regex(schemes, `must look like ${example}`).optional();

/**
 * Every setting: an environment variable, its meaning with unit, its default and its bounds. A value may instead come
 * from a file named by the same variable with `_FILE` behind it (for secrets mounted as files).
 */
const SETTINGS = {
  DATABASE_URL: url(/^postgres(ql)?:\/\/.+/, 'postgresql://user:password@host:5432/database').describe(
    'The Storage Guard database (PostgreSQL 15 or later, wal_level=logical). Without it a PostgreSQL 18 of its own runs under DATA_DIR.',
  ),
  MONGODB_URL: url(/^mongodb(\+srv)?:\/\/.+/, 'mongodb://host:27017/?replicaSet=rs0').describe(
    'The Market Connect server (MongoDB 6 or later, or compatible). Without it an in-process stand-in keeps its documents in PostgreSQL; for trying and testing.',
  ),
  MONGODB_DATABASE: z
    .string()
    .regex(/^[^/\\. "$*<>:|?]{1,63}$/, 'must be a MongoDB database name')
    .default('market_connect')
    .describe('The database that holds the collection market_listings.'),
  DATA_DIR: z
    .string()
    .min(1)
    .default('.data')
    .transform((path) => resolve(path))
    .describe('Where the embedded PostgreSQL and run.json live.'),
  EMBEDDED_POSTGRES_PORT: integer(0, { min: 0, max: 65535 }).describe(
    'Port of the embedded PostgreSQL on 127.0.0.1; 0 takes a free one and keeps it.',
  ),
  EMBEDDED_MARKET_PORT: integer(0, { min: 0, max: 65535 }).describe(
    'Port of the embedded stand-in for MongoDB on 127.0.0.1; 0 takes a free one.',
  ),
  DEMO: onOff('on').describe(
    'Embedded default only: fill an empty database with a small market and keep readings coming.',
  ),
  HOST: z.string().min(1).default('127.0.0.1').describe('Address the API listens on.'),
  PORT: integer(3000, { min: 0, max: 65535 }).describe('Port the API listens on; 0 takes a free one.'),
  API_KEY: z
    .string()
    .min(16, 'must have at least 16 characters')
    .optional()
    .describe('Key that API calls must carry. Without one the API serves loopback addresses only.'),
  LOG_LEVEL: z
    .enum(['debug', 'info', 'warn', 'error', 'silent'])
    .default('info')
    .describe('Least severe log line written.'),
  SOURCE_SCHEMA: identifier('public').describe(
    'Schema of the Storage Guard tables; the snapshots live beside them.',
  ),
  SLOT_NAME: identifier('market_sync').describe(
    'Name of the logical replication slot. Unique in the PostgreSQL cluster.',
  ),
  PEST_WINDOW_DAYS: integer(7, { min: 1, max: 365 }).describe('Days a pest detection stays in a snapshot.'),
  SENSOR_STALE_MINUTES: integer(60, { min: 1, max: 525_600 }).describe(
    'Minutes without a reading after which an active sensor counts as silent.',
  ),
  RETENTION_DAYS: integer(90, { min: 1, max: 36_500 }).describe(
    'Days a completed or withdrawn snapshot and its listing are kept.',
  ),
  BATCH_KEYS_MAX: integer(250, { min: 1, max: 10_000 }).describe('Most dirty keys that one reconcile takes.'),
  PENDING_KEYS_MAX: integer(100_000, { min: 1_000, max: 10_000_000 }).describe(
    'Dirty keys held in memory before reading from the slot pauses.',
  ),
  PUBLISH_BATCH_MAX: integer(200, { min: 1, max: 1_000 }).describe(
    'Most listings written to MongoDB at once.',
  ),
  PUBLISH_LEASE_SECONDS: integer(60, { min: 5, max: 3600 }).describe(
    'Seconds a publisher may take for a claimed snapshot before another one may take it over.',
  ),
  PUBLISH_ATTEMPTS_MAX: integer(5, { min: 1, max: 100 }).describe(
    'Failed attempts to publish one snapshot before it is parked.',
  ),
  MONGODB_TIMEOUT_MS: integer(10_000, { min: 100, max: 600_000 }).describe(
    'Milliseconds after which an unanswered call to MongoDB counts as failed.',
  ),
  CONSUMER_LEASE_SECONDS: integer(10, { min: 2, max: 300 }).describe(
    'Seconds without a sign of life after which a standby takes over from the active consumer.',
  ),
  PUBLISH_SWEEP_CRON: cron('*/5 * * * *').describe(
    'When the publish sweep runs (cron, UTC): the net under the immediate path.',
  ),
  REFRESH_CRON: cron('* * * * *').describe(
    'When snapshots that the clock alone has changed are refreshed (cron, UTC).',
  ),
  CLEANUP_CRON: cron('17 3 * * *').describe(
    'When old completed and withdrawn snapshots are deleted (cron, UTC).',
  ),
} satisfies Record<string, z.ZodType>;

const schema = z.object(SETTINGS);
type Settings = z.output<typeof schema>;
export type SettingName = keyof Settings;

/** The settings in force, grouped by nothing: one flat, frozen object with units last in its names. */
export type Config = Readonly<{
  databaseUrl: string | undefined;
  mongodbUrl: string | undefined;
  mongodbDatabase: string;
  dataDir: string;
  embeddedPostgresPort: number;
  embeddedMarketPort: number;
  demo: boolean;
  host: string;
  port: number;
  apiKey: string | undefined;
  logLevel: Settings['LOG_LEVEL'];
  sourceSchema: string;
  slotName: string;
  pestWindowSeconds: number;
  sensorStaleSeconds: number;
  retentionSeconds: number;
  batchKeysMax: number;
  pendingKeysMax: number;
  publishBatchMax: number;
  publishLeaseSeconds: number;
  publishAttemptsMax: number;
  mongodbTimeoutMs: number;
  consumerLeaseSeconds: number;
  publishSweepCron: string;
  refreshCron: string;
  cleanupCron: string;
  /** Where the program is to crash; tests alone can ask for it. */
  crashSetting: CrashSetting | undefined;
}>;

const LOOPBACK_HOSTS = new Set(['127.0.0.1', '::1', 'localhost']);

/** True when nobody outside this machine can reach `host`. */
export const isLoopback = (host: string): boolean => LOOPBACK_HOSTS.has(host);

/**
 * Reads the settings from environment variables.
 *
 * Throws a `SettingsError` that names every wrong setting with what it must be. A variable that is set but empty
 * counts as not set, as in a compose file.
 */
export function loadConfig(environment: NodeJS.ProcessEnv): Config {
  const input: Record<string, string> = {};
  for (const name of Object.keys(SETTINGS)) {
    const value = readSetting(environment, name);
    if (value !== undefined) input[name] = value;
  }
  const parsed = schema.safeParse(input);
  if (!parsed.success) {
    const lines = parsed.error.issues.map((issue) => {
      const name = String(issue.path[0]) as SettingName;
      return `${name}=${describeValue(name, input[name])}: ${issue.message}. ${SETTINGS[name].description}`;
    });
    throw new SettingsError(lines.join('\n'));
  }
  const settings = parsed.data;
  if (!isLoopback(settings.HOST) && settings.API_KEY === undefined) {
    throw new SettingsError(
      `HOST=${settings.HOST}: without API_KEY only loopback is served. Set API_KEY, or leave HOST at 127.0.0.1.`,
    );
  }
  return Object.freeze({ ...toConfig(settings), crashSetting: readCrashSetting(environment) });
}

function toConfig(settings: Settings): Omit<Config, 'crashSetting'> {
  return {
    databaseUrl: settings.DATABASE_URL,
    mongodbUrl: settings.MONGODB_URL,
    mongodbDatabase: settings.MONGODB_DATABASE,
    dataDir: settings.DATA_DIR,
    embeddedPostgresPort: settings.EMBEDDED_POSTGRES_PORT,
    embeddedMarketPort: settings.EMBEDDED_MARKET_PORT,
    demo: settings.DEMO === 'on',
    host: settings.HOST,
    port: settings.PORT,
    apiKey: settings.API_KEY,
    logLevel: settings.LOG_LEVEL,
    sourceSchema: settings.SOURCE_SCHEMA,
    slotName: settings.SLOT_NAME,
    pestWindowSeconds: settings.PEST_WINDOW_DAYS * DAY_SECONDS,
    sensorStaleSeconds: settings.SENSOR_STALE_MINUTES * MINUTE_SECONDS,
    retentionSeconds: settings.RETENTION_DAYS * DAY_SECONDS,
    batchKeysMax: settings.BATCH_KEYS_MAX,
    pendingKeysMax: settings.PENDING_KEYS_MAX,
    publishBatchMax: settings.PUBLISH_BATCH_MAX,
    publishLeaseSeconds: settings.PUBLISH_LEASE_SECONDS,
    publishAttemptsMax: settings.PUBLISH_ATTEMPTS_MAX,
    mongodbTimeoutMs: settings.MONGODB_TIMEOUT_MS,
    consumerLeaseSeconds: settings.CONSUMER_LEASE_SECONDS,
    publishSweepCron: settings.PUBLISH_SWEEP_CRON,
    refreshCron: settings.REFRESH_CRON,
    cleanupCron: settings.CLEANUP_CRON,
  };
}

/** No setting: it is in no list, needs NODE_ENV=test, and anything else refuses it rather than ignoring it. */
function readCrashSetting(environment: NodeJS.ProcessEnv): CrashSetting | undefined {
  const text = environment.TEST_CRASH_POINT;
  if (text === undefined || text === '') return undefined;
  if (environment.NODE_ENV === 'test') return parseCrashSetting(text);
  throw new SettingsError(
    'TEST_CRASH_POINT: makes the program crash, for its own tests, and needs NODE_ENV=test. Unset it.',
  );
}

function readSetting(environment: NodeJS.ProcessEnv, name: string): string | undefined {
  const value = environment[name];
  if (value !== undefined && value !== '') return value;
  const file = environment[`${name}_FILE`];
  if (file === undefined || file === '') return undefined;
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (cause) {
    throw new SettingsError(
      `${name}_FILE=${file}: the file cannot be read. Mount it, or set ${name} itself.`,
      { cause },
    );
  }
}

const SECRETS = new Set<SettingName>(['DATABASE_URL', 'MONGODB_URL', 'API_KEY']);

/** Secrets are never repeated in an error. */
function describeValue(name: SettingName, value: string | undefined): string {
  if (value === undefined) return '';
  return SECRETS.has(name) ? '(not shown)' : value;
}

/** One line a setting for `--help` and the README: name, default, meaning. */
export function listSettings(): { name: SettingName; fallback: string | undefined; meaning: string }[] {
  const defaults = schema.parse({});
  return (Object.keys(SETTINGS) as SettingName[]).map((name) => {
    const fallback = name === 'DATA_DIR' ? '.data' : defaults[name];
    return {
      name,
      fallback: fallback === undefined ? undefined : String(fallback),
      meaning: SETTINGS[name].description ?? '',
    };
  });
}
