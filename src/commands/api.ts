import { requireListenable, startApi } from '../api/server.ts';
import type { Config } from '../config.ts';
import type { Logger } from '../log.ts';
import { requireMigrated } from '../migrate.ts';
import { publishContext } from '../store/publish.ts';
import { decideAccess } from './api-access.ts';
import { runService } from './run.ts';
import { openServices, requireServers } from './services.ts';

/** `market-sync api`: reads and manual actions, against shared servers. */
export function runApi(config: Config, log: Logger): Promise<void> {
  const servers = requireServers(config);
  return runService(log, async (running) => {
    await requireListenable(config);
    const services = await openServices(config, log, { ...servers, logical: false });
    running.add('connections', () => services.close());
    await requireMigrated(services.pool);
    const access = await decideAccess(config, services.pool);
    const api = await startApi(
      {
        ...services,
        log,
        publish: publishContext({ config, ...services, log, random: Math.random, role: 'api' }),
        apiKey: config.apiKey,
        ...access,
      },
      { host: config.host, port: config.port },
    );
    running.add('api', () => api.stop());
    process.stdout.write(`API         ${api.url}\nAPI docs    ${api.url}/docs\n`);
  });
}
