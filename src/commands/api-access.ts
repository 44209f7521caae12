import type pg from 'pg';
import type { ApiContext } from '../api/context.ts';
import { type Config, isLoopback } from '../config.ts';
import { SettingsError } from '../errors.ts';
import { hasActiveKey, wereKeysMade } from '../store/api-keys.ts';

/** Wrong keys that one address may send a minute: enough for slips, useless for guessing. */
const FAILURES_PER_MINUTE = 30;

/**
 * Who may call the API, by settings and by the keys there are. Throws a `SettingsError` that names HOST where others than
 * this machine could call and nobody has a key.
 */
export async function decideAccess(
  config: Config,
  pool: pg.Pool,
): Promise<Pick<ApiContext, 'requireKey' | 'oidc' | 'rateLimits'>> {
  const isSet = config.apiKey !== undefined || config.oidc !== undefined;
  if (!isSet && !(await hasActiveKey(pool)) && !isLoopback(config.host)) {
    throw new SettingsError(
      `HOST=${config.host}: without any key only loopback is served. Make one with "market-sync keys create --name NAME --role admin" ` +
        '(against DATABASE_URL, or a start that runs on loopback), set API_KEY or OIDC_ISSUER, or leave HOST at 127.0.0.1.',
    );
  }
  return {
    requireKey: isSet || (await wereKeysMade(pool)),
    oidc: config.oidc,
    rateLimits: {
      perSecond: config.rateLimitPerSecond,
      burst: config.rateLimitBurst,
      failuresPerMinute: FAILURES_PER_MINUTE,
    },
  };
}
