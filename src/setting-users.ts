import type { SETTINGS } from './settings.ts';

/** The commands of the program, as a setting's readers. */
export type SettingUser = 'start' | 'migrate' | 'pipeline' | 'api' | 'keys' | 'status';

const EVERY: SettingUser[] = ['start', 'migrate', 'pipeline', 'api', 'keys', 'status'];
const FINDS_START: SettingUser[] = ['start', 'keys', 'status'];
const SERVES: SettingUser[] = ['start', 'api'];
const PIPELINE: SettingUser[] = ['start', 'pipeline'];
const PUBLISHES: SettingUser[] = ['start', 'pipeline', 'api'];
const START: SettingUser[] = ['start'];

/** Which commands a setting changes something for. All others read it and check it, too. */
export const SETTING_USERS: Record<keyof typeof SETTINGS, readonly SettingUser[]> = {
  DATABASE_URL: EVERY,
  MONGODB_URL: PUBLISHES,
  MONGODB_DATABASE: PUBLISHES,
  DATA_DIR: FINDS_START,
  EMBEDDED_POSTGRES_PORT: START,
  EMBEDDED_MARKET_PORT: START,
  DEMO: START,
  HOST: SERVES,
  PORT: SERVES,
  API_KEY: SERVES,
  OIDC_ISSUER: SERVES,
  OIDC_AUDIENCE: SERVES,
  OIDC_ALGORITHMS: SERVES,
  OIDC_ROLE_CLAIM: SERVES,
  RATE_LIMIT_PER_SECOND: SERVES,
  RATE_LIMIT_BURST: SERVES,
  // The pipeline's cleanup forgets the answers that the API keeps.
  IDEMPOTENCY_HOURS: PIPELINE,
  LOG_LEVEL: EVERY,
  SOURCE_SCHEMA: EVERY,
  SLOT_NAME: PIPELINE,
  SLOT_FAILOVER: PIPELINE,
  PEST_WINDOW_DAYS: PIPELINE,
  SENSOR_STALE_MINUTES: PIPELINE,
  RETENTION_DAYS: PIPELINE,
  BATCH_KEYS_MAX: PIPELINE,
  PENDING_KEYS_MAX: PIPELINE,
  PUBLISH_BATCH_MAX: PIPELINE,
  PUBLISH_INTERVAL_MS: PIPELINE,
  PUBLISH_LEASE_SECONDS: PUBLISHES,
  PUBLISH_ATTEMPTS_MAX: PUBLISHES,
  MONGODB_TIMEOUT_MS: PUBLISHES,
  CONSUMER_LEASE_SECONDS: PIPELINE,
  PUBLISH_SWEEP_CRON: PIPELINE,
  REFRESH_CRON: PIPELINE,
  CLEANUP_CRON: PIPELINE,
  AUDIT_CRON: PIPELINE,
  AUDIT_REPAIR: PIPELINE,
};
