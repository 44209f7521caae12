import { resolve } from 'node:path';
import { z } from 'zod';

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

/** Every algorithm with a public key; with a symmetric one, whoever can check a token could make one. */
const TOKEN_ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
  'Ed25519',
] as const;

const url = (schemes: RegExp, example: string) =>
  z.string().regex(schemes, `must look like ${example}`).optional();

/**
 * Every setting: an environment variable, its meaning with unit, its default and its bounds. A value may instead come
 * from a file named by the same variable with `_FILE` behind it (for secrets mounted as files).
 */
export const SETTINGS = {
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
    .describe(
      'Key of an admin that needs no database. Without it, OIDC_ISSUER or a key of "market-sync keys create" the API serves loopback addresses only.',
    ),
  OIDC_ISSUER: z
    .string()
    .regex(
      /^(https:\/\/[^\s?#]+|http:\/\/(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(\/[^\s?#]*)?)$/,
      'must look like https://login.example.org/realm',
    )
    .optional()
    .describe('Issuer whose OpenID Connect tokens are taken as keys, exactly as it calls itself.'),
  OIDC_AUDIENCE: z
    .string()
    .min(1)
    .max(255)
    .optional()
    .describe('Audience that a token must be for. Needed with OIDC_ISSUER.'),
  OIDC_ALGORITHMS: z
    .string()
    .default('RS256,ES256')
    .transform((text) => text.split(','))
    .refine(
      (names) => names.every((name) => (TOKEN_ALGORITHMS as readonly string[]).includes(name)),
      `must be a list, with commas, of ${TOKEN_ALGORITHMS.join(', ')}`,
    )
    .describe('Algorithms that a token may be signed with.'),
  OIDC_ROLE_CLAIM: z
    .string()
    .regex(/^[\x21-\x7e]{1,255}$/, 'must be the name of a claim, or a path like realm_access.roles')
    .default('roles')
    .describe(
      'Claim of a token that holds its role, or a list: reader, operator or admin, also as market_sync_reader and so on. The highest counts.',
    ),
  RATE_LIMIT_PER_SECOND: integer(50, { min: 1, max: 100_000 }).describe(
    'Calls a second that one caller may make to one API on average.',
  ),
  RATE_LIMIT_BURST: integer(200, { min: 1, max: 1_000_000 }).describe(
    'Calls that one caller may make at once.',
  ),
  IDEMPOTENCY_HOURS: integer(24, { min: 1, max: 8_760 }).describe(
    'Hours an answer is kept at least for a call that is repeated with its Idempotency-Key.',
  ),
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
  SLOT_FAILOVER: onOff('on').describe(
    'Let standbys that synchronise slots carry the slot over (PostgreSQL 17 or later), so that a failover needs no recompute.',
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
  PUBLISH_INTERVAL_MS: integer(250, { min: 0, max: 60_000 }).describe(
    'Milliseconds between two writes of one listing at least: the first change goes out at once, further ones together at the end.',
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
  AUDIT_CRON: cron('43 2 * * *').describe(
    'When every snapshot and listing is compared with what it must say (cron, UTC).',
  ),
  AUDIT_REPAIR: z
    .enum(['off', 'safe', 'all'])
    .default('safe')
    .describe(
      'What the scheduled audit repairs: off, only look; safe, what this project has written; all, listings that it cannot have written are deleted, too.',
    ),
} satisfies Record<string, z.ZodType>;
