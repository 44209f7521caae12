import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Config, isLoopback, listSettings, loadConfig } from '../../src/config.ts';
import { SettingsError } from '../../src/errors.ts';

const SECRET = 'hunter2-do-not-repeat';

/** The message that these settings are refused with. */
function refusal(environment: NodeJS.ProcessEnv): string {
  try {
    loadConfig(environment);
  } catch (error) {
    expect(error).toBeInstanceOf(SettingsError);
    return (error as SettingsError).message;
  }
  throw new Error(`accepted: ${JSON.stringify(environment)}`);
}

test('without any setting everything has its documented default', () => {
  expect(loadConfig({})).toEqual({
    databaseUrl: undefined,
    mongodbUrl: undefined,
    mongodbDatabase: 'market_connect',
    dataDir: resolve('.data'),
    embeddedPostgresPort: 0,
    embeddedMarketPort: 0,
    demo: true,
    host: '127.0.0.1',
    port: 3000,
    apiKey: undefined,
    oidc: undefined,
    rateLimitPerSecond: 50,
    rateLimitBurst: 200,
    idempotencySeconds: 86_400,
    logLevel: 'info',
    sourceSchema: 'public',
    slotName: 'market_sync',
    slotFailover: true,
    pestWindowSeconds: 7 * 86_400,
    sensorStaleSeconds: 3_600,
    retentionSeconds: 90 * 86_400,
    batchKeysMax: 250,
    pendingKeysMax: 100_000,
    publishBatchMax: 200,
    publishIntervalMs: 250,
    publishLeaseSeconds: 60,
    publishAttemptsMax: 5,
    mongodbTimeoutMs: 10_000,
    consumerLeaseSeconds: 10,
    publishSweepCron: '*/5 * * * *',
    refreshCron: '* * * * *',
    cleanupCron: '17 3 * * *',
    auditCron: '43 2 * * *',
    auditRepair: 'safe',
    crashSetting: undefined,
  } satisfies Config);
});

test('the settings in force cannot be changed afterwards', () => {
  const config = loadConfig({}) as { port: number };
  expect(() => {
    config.port = 1;
  }).toThrow(TypeError);
});

const BOUNDS: [name: string, min: number, max: number, key: keyof Config, unit: number][] = [
  ['PORT', 0, 65_535, 'port', 1],
  ['EMBEDDED_POSTGRES_PORT', 0, 65_535, 'embeddedPostgresPort', 1],
  ['EMBEDDED_MARKET_PORT', 0, 65_535, 'embeddedMarketPort', 1],
  ['PEST_WINDOW_DAYS', 1, 365, 'pestWindowSeconds', 86_400],
  ['SENSOR_STALE_MINUTES', 1, 525_600, 'sensorStaleSeconds', 60],
  ['RETENTION_DAYS', 1, 36_500, 'retentionSeconds', 86_400],
  ['BATCH_KEYS_MAX', 1, 10_000, 'batchKeysMax', 1],
  ['PENDING_KEYS_MAX', 1_000, 10_000_000, 'pendingKeysMax', 1],
  ['PUBLISH_BATCH_MAX', 1, 1_000, 'publishBatchMax', 1],
  ['PUBLISH_INTERVAL_MS', 0, 60_000, 'publishIntervalMs', 1],
  ['PUBLISH_LEASE_SECONDS', 5, 3_600, 'publishLeaseSeconds', 1],
  ['PUBLISH_ATTEMPTS_MAX', 1, 100, 'publishAttemptsMax', 1],
  ['MONGODB_TIMEOUT_MS', 100, 600_000, 'mongodbTimeoutMs', 1],
  ['CONSUMER_LEASE_SECONDS', 2, 300, 'consumerLeaseSeconds', 1],
  ['RATE_LIMIT_PER_SECOND', 1, 100_000, 'rateLimitPerSecond', 1],
  ['RATE_LIMIT_BURST', 1, 1_000_000, 'rateLimitBurst', 1],
  ['IDEMPOTENCY_HOURS', 1, 8_760, 'idempotencySeconds', 3_600],
];

test.each(BOUNDS)('%s is taken from %i to %i and refused outside', (name, min, max, key, unit) => {
  expect(loadConfig({ [name]: String(min) })[key]).toBe(min * unit);
  expect(loadConfig({ [name]: String(max) })[key]).toBe(max * unit);
  for (const outside of [min - 1, max + 1]) {
    const message = refusal({ [name]: String(outside) });
    expect(message).toContain(`${name}=${outside}: `);
    expect(message).toContain(String(outside < min ? min : max));
  }
});

test.each(['1.5', '1e3', '0x10', 'ten', ' 5', '5 ', '1_000', '+5', 'NaN', 'Infinity'])(
  'a number is written in digits: PORT=%j is refused',
  (value) => {
    expect(refusal({ PORT: value })).toContain(`PORT=${value}: must be a whole number`);
  },
);

const NUMBERS = new Set(BOUNDS.map(([name]) => name));
const WRONG: Record<string, string[]> = {
  DATABASE_URL: ['localhost:5432', 'mysql://host/db', 'postgresql://', 'http://host'],
  MONGODB_URL: ['localhost:27017', 'postgresql://host/db', 'mongodb://', 'mongo://host'],
  MONGODB_DATABASE: ['a/b', 'a.b', 'a b', '$a', 'x'.repeat(64)],
  DEMO: ['yes', 'true', '1', 'ON'],
  SLOT_FAILOVER: ['yes', 'auto', 'ON'],
  AUDIT_CRON: ['* * * *', '43 2 * * * *'],
  AUDIT_REPAIR: ['yes', 'ALL', 'none'],
  API_KEY: ['short', 'fifteen-chars-x'],
  OIDC_ISSUER: [
    'login.example.org',
    'http://login.example.org',
    'http://127.0.0.1.example.org',
    'https://login.example.org?x=1',
    'file:///etc/passwd',
  ],
  OIDC_AUDIENCE: ['x'.repeat(256)],
  OIDC_ALGORITHMS: ['none', 'HS256', 'RS256,HS512', 'RS256,none', 'RS256, ES256', 'rs256', ','],
  OIDC_ROLE_CLAIM: ['the roles', 'x'.repeat(256)],
  LOG_LEVEL: ['verbose', 'INFO', 'trace'],
  SOURCE_SCHEMA: ['Public', '1st', 'a-b', 'a.b', 'a"b', 'a'.repeat(64)],
  SLOT_NAME: ['Slot', 'a-b', 'a b', 'a'.repeat(64)],
  PUBLISH_SWEEP_CRON: ['* * * *', '*/5 * * * * *', 'hourly'],
  REFRESH_CRON: ['* * * *', '0 * * * * *', '@daily'],
  CLEANUP_CRON: [
    '17 3 * *',
    '0 17 3 * * *',
    '17  3 * * *',
    '60 3 * * *',
    '17 24 * * *',
    '0 0 0 * *',
    '0 0 * 13 *',
    '0 0 * * 8',
    '5-1 * * * *',
    '*/0 * * * *',
    '1, * * * *',
  ],
};

test.each(Object.entries(WRONG))('a wrong %s is refused by name, with what it is for', (name, values) => {
  const meaning = listSettings().find((setting) => setting.name === name)?.meaning ?? 'unknown';
  for (const value of values) {
    const message = refusal({ [name]: value });
    expect(message).toMatch(new RegExp(`^${name}=`));
    expect(message).toContain(meaning);
  }
});

test('every setting is tried with a wrong value here, but those that take anything', () => {
  const tried = new Set([...NUMBERS, ...Object.keys(WRONG), 'DATA_DIR', 'HOST']);
  expect(listSettings().map((setting) => setting.name)).toEqual(
    expect.arrayContaining([...tried].filter((name) => !name.includes('_FILE'))),
  );
  expect(listSettings().filter((setting) => !tried.has(setting.name))).toEqual([]);
});

test.each(['PUBLISH_SWEEP_CRON', 'REFRESH_CRON', 'CLEANUP_CRON', 'AUDIT_CRON'])(
  'a cron of six fields, which pg-boss would run once a minute, is refused: %s',
  (name) => {
    expect(refusal({ [name]: '*/10 * * * * *' })).toContain('must be a cron expression of five fields');
  },
);

test.each(['* * * * *', '*/15 0-6,18-23 1,15 * 1-5', '59 23 31 12 7', '0 9-17/2 * * *'])(
  'a cron of five fields is taken: %s',
  (expression) => {
    expect(loadConfig({ CLEANUP_CRON: expression }).cleanupCron).toBe(expression);
  },
);

test('all wrong settings are named at once', () => {
  const message = refusal({ PORT: '99999', DEMO: 'maybe', SLOT_NAME: 'My Slot' });
  expect(message.split('\n').map((line) => line.slice(0, line.indexOf('=')))).toEqual([
    'DEMO',
    'PORT',
    'SLOT_NAME',
  ]);
});

test.each([
  { DATABASE_URL: `mysql://admin:${SECRET}@host/db` },
  { MONGODB_URL: `http://admin:${SECRET}@host` },
  { API_KEY: SECRET.slice(0, 15) },
])('a secret that is wrong is not repeated: %o', (environment) => {
  const message = refusal(environment);
  expect(message).toContain(`${Object.keys(environment)[0]}=(not shown): must `);
  expect(message).not.toContain('hunter2');
});

test('a setting that is empty counts as not set, as in a compose file', () => {
  const names = listSettings().map((setting) => setting.name);
  const empty = Object.fromEntries(
    names.flatMap((name) => [
      [name, ''],
      [`${name}_FILE`, ''],
    ]),
  );
  expect(loadConfig(empty)).toEqual(loadConfig({}));
});

test('a HOST outside of this machine is told from loopback', () => {
  for (const host of ['0.0.0.0', '::', '10.0.0.5', 'example.org', '127.0.0.1.example.org']) {
    expect(isLoopback(host)).toBe(false);
    expect(loadConfig({ HOST: host }).host).toBe(host);
  }
  for (const host of ['127.0.0.1', '::1', 'localhost']) expect(isLoopback(host)).toBe(true);
});

test('tokens are believed of one issuer and for one audience: one of the two alone is refused', () => {
  const issuer = 'https://login.example.org/realm';
  expect(refusal({ OIDC_ISSUER: issuer })).toContain('OIDC_AUDIENCE is not set');
  expect(refusal({ OIDC_AUDIENCE: 'market-sync' })).toContain('OIDC_ISSUER is not set');
  expect(loadConfig({ OIDC_ISSUER: issuer, OIDC_AUDIENCE: 'market-sync' }).oidc).toEqual({
    issuer,
    audience: 'market-sync',
    algorithms: ['RS256', 'ES256'],
    roleClaim: 'roles',
  });
});

test('DATA_DIR is made absolute, so that a later change of directory does not move it', () => {
  expect(loadConfig({ DATA_DIR: 'my data' }).dataDir).toBe(resolve('my data'));
  expect(loadConfig({ DATA_DIR: '/var/data' }).dataDir).toBe('/var/data');
});

test('settings that are not ours are ignored', () => {
  expect(loadConfig({ PATH: '/bin', PORTS: '1', port: '5', PGHOST: 'elsewhere' })).toEqual(loadConfig({}));
});

test('the list of settings has a meaning and the default of each', () => {
  const settings = listSettings();
  for (const { name, meaning } of settings) expect(meaning, name).toMatch(/^[A-Z].*[.;]/);
  const fallbacks = Object.fromEntries(settings.map(({ name, fallback }) => [name, fallback]));
  expect(fallbacks).toMatchObject({
    PORT: '3000',
    DATA_DIR: '.data',
    DEMO: 'on',
    CLEANUP_CRON: '17 3 * * *',
  });
  expect(fallbacks.DATABASE_URL).toBeUndefined();
});

const directory = join(tmpdir(), 'market-sync-config-');
let files: string;
beforeAll(() => {
  files = mkdtempSync(directory);
});
afterAll(() => rmSync(files, { recursive: true }));

const writeSecret = (name: string, content: string): string => {
  const file = join(files, name);
  writeFileSync(file, content);
  chmodSync(file, 0o600);
  return file;
};

test('NAME_FILE reads the setting from a file, without the newline editors leave at its end', () => {
  const file = writeSecret('key', 'a-key-of-enough-letters\n');
  expect(loadConfig({ API_KEY_FILE: file }).apiKey).toBe('a-key-of-enough-letters');
  expect(loadConfig({ PORT_FILE: writeSecret('port', '8080\n') }).port).toBe(8080);
});

test('the setting itself goes before its file, and an empty one does not', () => {
  const file = writeSecret('other', 'key-from-the-file-000');
  expect(loadConfig({ API_KEY: 'key-from-variable-00', API_KEY_FILE: file }).apiKey).toBe(
    'key-from-variable-00',
  );
  expect(loadConfig({ API_KEY: '', API_KEY_FILE: file }).apiKey).toBe('key-from-the-file-000');
});

test('a file that cannot be read is named, with the variable', () => {
  const message = refusal({ DATABASE_URL_FILE: '/nowhere/secret' });
  expect(message).toBe(
    'DATABASE_URL_FILE=/nowhere/secret: the file cannot be read. Mount it, or set DATABASE_URL itself.',
  );
});

test('what a file holds is checked like the variable, and a secret in it is not repeated', () => {
  const message = refusal({ DATABASE_URL_FILE: writeSecret('url', `mysql://root:${SECRET}@host/db`) });
  expect(message).toContain('DATABASE_URL=(not shown)');
  expect(message).not.toContain(SECRET);
  expect(refusal({ API_KEY_FILE: writeSecret('empty', '\n') })).toContain('API_KEY=(not shown)');
});
