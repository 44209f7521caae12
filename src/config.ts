import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { type CrashSetting, parseCrashSetting } from './crash-point.ts';
import { SettingsError } from './errors.ts';
import { SETTING_USERS, type SettingUser } from './setting-users.ts';
import { SETTINGS } from './settings.ts';

const MINUTE_SECONDS = 60;
const HOUR_SECONDS = 60 * MINUTE_SECONDS;
const DAY_SECONDS = 24 * HOUR_SECONDS;

const schema = z.object(SETTINGS);
type Settings = z.output<typeof schema>;
type SettingName = keyof Settings;

/** All of it is needed to believe a token. */
type Oidc = Readonly<{ issuer: string; audience: string; algorithms: readonly string[]; roleClaim: string }>;

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
  /** Whose tokens are taken as keys. */
  oidc: Oidc | undefined;
  rateLimitPerSecond: number;
  rateLimitBurst: number;
  idempotencySeconds: number;
  logLevel: Settings['LOG_LEVEL'];
  sourceSchema: string;
  slotName: string;
  slotFailover: boolean;
  pestWindowSeconds: number;
  sensorStaleSeconds: number;
  retentionSeconds: number;
  batchKeysMax: number;
  pendingKeysMax: number;
  publishBatchMax: number;
  publishIntervalMs: number;
  publishLeaseSeconds: number;
  publishAttemptsMax: number;
  mongodbTimeoutMs: number;
  consumerLeaseSeconds: number;
  publishSweepCron: string;
  refreshCron: string;
  cleanupCron: string;
  auditCron: string;
  auditRepair: Settings['AUDIT_REPAIR'];
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
    oidc: toOidc(settings),
    rateLimitPerSecond: settings.RATE_LIMIT_PER_SECOND,
    rateLimitBurst: settings.RATE_LIMIT_BURST,
    idempotencySeconds: settings.IDEMPOTENCY_HOURS * HOUR_SECONDS,
    logLevel: settings.LOG_LEVEL,
    sourceSchema: settings.SOURCE_SCHEMA,
    slotName: settings.SLOT_NAME,
    slotFailover: settings.SLOT_FAILOVER === 'on',
    pestWindowSeconds: settings.PEST_WINDOW_DAYS * DAY_SECONDS,
    sensorStaleSeconds: settings.SENSOR_STALE_MINUTES * MINUTE_SECONDS,
    retentionSeconds: settings.RETENTION_DAYS * DAY_SECONDS,
    batchKeysMax: settings.BATCH_KEYS_MAX,
    pendingKeysMax: settings.PENDING_KEYS_MAX,
    publishBatchMax: settings.PUBLISH_BATCH_MAX,
    publishIntervalMs: settings.PUBLISH_INTERVAL_MS,
    publishLeaseSeconds: settings.PUBLISH_LEASE_SECONDS,
    publishAttemptsMax: settings.PUBLISH_ATTEMPTS_MAX,
    mongodbTimeoutMs: settings.MONGODB_TIMEOUT_MS,
    consumerLeaseSeconds: settings.CONSUMER_LEASE_SECONDS,
    publishSweepCron: settings.PUBLISH_SWEEP_CRON,
    refreshCron: settings.REFRESH_CRON,
    cleanupCron: settings.CLEANUP_CRON,
    auditCron: settings.AUDIT_CRON,
    auditRepair: settings.AUDIT_REPAIR,
  };
}

function toOidc(settings: Settings): Oidc | undefined {
  const { OIDC_ISSUER: issuer, OIDC_AUDIENCE: audience } = settings;
  if (issuer === undefined && audience === undefined) return undefined;
  if (issuer === undefined || audience === undefined) {
    const missing = issuer === undefined ? 'OIDC_ISSUER' : 'OIDC_AUDIENCE';
    throw new SettingsError(
      `${missing} is not set: a token is believed of one issuer and for one audience. Set OIDC_ISSUER and OIDC_AUDIENCE, or neither.`,
    );
  }
  return Object.freeze({
    issuer,
    audience,
    algorithms: settings.OIDC_ALGORITHMS,
    roleClaim: settings.OIDC_ROLE_CLAIM,
  });
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

/** What is known of a setting, for `--help` and docs/configuration.md. */
export interface SettingFacts {
  name: SettingName;
  fallback: string | undefined;
  meaning: string;
  /** What a value may be, in words: bounds, a choice, a form. */
  bounds: string;
  usedBy: readonly SettingUser[];
}

export function listSettings(): SettingFacts[] {
  const defaults = schema.parse({});
  return (Object.keys(SETTINGS) as SettingName[]).map((name) => {
    const fallback = name === 'DATA_DIR' ? '.data' : defaults[name];
    return {
      name,
      fallback: fallback === undefined ? undefined : String(fallback),
      meaning: SETTINGS[name].description ?? '',
      bounds: describeBounds(SETTINGS[name]),
      usedBy: SETTING_USERS[name],
    };
  });
}

/** From the schema itself: its limits, its choices, or else what it says of a value that it refuses. */
function describeBounds(setting: z.ZodType): string {
  const { minimum, maximum, enum: choices } = z.toJSONSchema(setting, { unrepresentable: 'any' });
  if (minimum !== undefined && maximum !== undefined) return `${minimum} to ${maximum}`;
  if (choices !== undefined) return choices.join(', ');
  // Wrong for every setting of a form: what the message then says is what the form is.
  for (const refused of ['\0', '.']) {
    const message = setting.safeParse(refused).error?.issues[0]?.message;
    if (message !== undefined) return message.replace(/^must (be |have |look )?/, '');
  }
  return 'any text';
}
