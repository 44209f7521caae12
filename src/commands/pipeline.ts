import { startPipeline } from '../../pipeline/pipeline.ts';
import type { Config } from '../config.ts';
import type { Logger } from '../log.ts';
import { requireMigrated } from '../migrate.ts';
import { runService } from './run.ts';
import { openServices, requireServers } from './services.ts';

/** `market-sync pipeline`: consumer, publisher and schedules, against shared servers. */
export function runPipeline(config: Config, log: Logger): Promise<void> {
  const servers = requireServers(config);
  return runService(log, async (running) => {
    const services = await openServices(config, log, { ...servers, logical: true });
    running.add('connections', () => services.close());
    await requireMigrated(services.pool);
    const pipeline = await startPipeline({ config, log, ...services });
    running.add('pipeline', () => pipeline.stop());
    running.watch(pipeline.failed);
    process.stdout.write('pipeline running\n');
  });
}
