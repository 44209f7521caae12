import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { GenericContainer, Wait } from 'testcontainers';
import { readCompose } from '../ops/compose-file.ts';

/**
 * Runs a command against a real PostgreSQL and a real MongoDB in containers, by the variables that the tests read:
 *
 *   npx node test/support/containers.ts -- npx vitest run test/market test/pipeline
 *
 * The images are those of docker-compose.yml. Needs a Docker engine; without one it says so and exits with 1.
 */
async function main(command: string[]): Promise<number> {
  const [program, ...args] = command;
  if (program === undefined) throw new Error('usage: node test/support/containers.ts -- COMMAND…');
  const [postgres, mongodb] = await Promise.all([startPostgres(), startMongo()]);
  try {
    const child = spawn(program, args, {
      stdio: 'inherit',
      env: {
        ...process.env,
        TEST_POSTGRES_URL: `postgresql://postgres:test@${postgres.getHost()}:${postgres.getMappedPort(5432)}/postgres`,
        TEST_MONGODB_URL: `mongodb://${mongodb.getHost()}:${mongodb.getMappedPort(27017)}/?directConnection=true`,
      },
    });
    const [code] = (await once(child, 'exit')) as [number | null];
    return code ?? 1;
  } finally {
    await Promise.all([postgres.stop(), mongodb.stop()]);
  }
}

const imageOf = (service: 'postgres' | 'mongodb'): string => readCompose().services[service]?.image ?? '';

const startPostgres = () =>
  new GenericContainer(imageOf('postgres'))
    .withEnvironment({ POSTGRES_PASSWORD: 'test' })
    .withCommand([
      'postgres',
      ...[
        'wal_level=logical',
        'max_replication_slots=64',
        'max_wal_senders=64',
        'max_connections=300',
      ].flatMap((setting) => ['-c', setting]),
    ])
    .withExposedPorts(5432)
    // Once for the server that runs the set-up, once for the one that stays.
    .withWaitStrategy(Wait.forLogMessage(/database system is ready to accept connections/, 2))
    .start();

/** A replica set of one, so that majority and retryable writes are real. */
async function startMongo() {
  const container = await new GenericContainer(imageOf('mongodb'))
    .withCommand(['mongod', '--replSet', 'rs0', '--bind_ip_all'])
    .withExposedPorts(27017)
    .withWaitStrategy(Wait.forLogMessage(/Waiting for connections/))
    .start();
  const initiated = await container.exec([
    'mongosh',
    '--quiet',
    '--eval',
    "rs.initiate({ _id: 'rs0', members: [{ _id: 0, host: 'localhost:27017' }] }); while (!db.hello().isWritablePrimary) sleep(50)",
  ]);
  if (initiated.exitCode !== 0) throw new Error(`the replica set was not initiated: ${initiated.output}`);
  return container;
}

const separator = process.argv.indexOf('--');
try {
  process.exitCode = await main(separator === -1 ? [] : process.argv.slice(separator + 1));
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
