import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Ajv } from 'ajv';
import { expect, test } from 'vitest';
import { PROGRAM_FLAGS } from '../../bench/program.ts';
import { listSettings, loadConfig } from '../../src/config.ts';
import { applyStorageGuardTables } from '../../src/embedded/storage-guard.ts';
import { migrate } from '../../src/migrate.ts';
import { createPool, query } from '../../src/postgres.ts';
import { startCluster } from '../support/cluster.ts';
import { testLog } from '../support/pipeline.ts';
import { type ComposeService, readCompose, readComposeDocument } from './compose-file.ts';
import { readStages } from './dockerfile.ts';
import { readDashboard, readText, readYaml } from './files.ts';

// docker-compose.yml where no Docker runs: everything that can be known without one. What the images of others do with
// their files and variables is not: those are as their documentation has it.

const ROOT = join(import.meta.dirname, '..', '..');
const compose = readCompose();
const services = Object.entries(compose.services);
const own = services.filter(([, { build }]) => build !== undefined);

/** What the images of others read, by their documentation. */
const FOREIGN_VARIABLES: Record<string, RegExp> = {
  postgres: /^POSTGRES_(USER|DB|PASSWORD_FILE)$/,
  grafana: /^GF_[A-Z]+(_[A-Z]+)*(__FILE)?$/,
};

test('it is what the Compose Specification allows, by the schema that dclint has of it', () => {
  const root = dirname(createRequire(import.meta.url).resolve('dclint/package.json'));
  const schema = JSON.parse(readFileSync(join(root, 'schemas', 'compose.schema.json'), 'utf8')) as object;
  const ajv = new Ajv({ strict: false, allErrors: true, validateFormats: false });
  const validate = ajv.compile({ ...schema, $schema: 'http://json-schema.org/draft-07/schema#' });
  validate(readComposeDocument());
  expect(validate.errors).toBeNull();
  expect(validate({ services: { one: { image: 'a', prots: [] } } })).toBe(false);
});

test('every variable that it sets is a setting, or one that the image documents, and together they are a configuration', () => {
  const names = new Set<string>(listSettings().flatMap(({ name }) => [name, `${name}_FILE`]));
  for (const [name, { environment }] of own) {
    for (const variable of Object.keys(environment)) expect(names, name).toContain(variable);
    const values = Object.entries(environment).map(([variable, value]) =>
      variable.endsWith('_FILE') ? [variable.slice(0, -5), exampleOf(variable)] : [variable, value],
    );
    expect(() => loadConfig(Object.fromEntries(values)), name).not.toThrow();
  }
  for (const [name, { build, environment }] of services) {
    if (build !== undefined) continue;
    for (const variable of Object.keys(environment))
      expect(variable).toMatch(FOREIGN_VARIABLES[name] ?? /^$/);
  }
});

const exampleOf = (variable: string): string =>
  variable.startsWith('DATABASE_URL') ? 'postgresql://a:b@postgres:5432/storage_guard' : 'x'.repeat(48);

test('images are pinned by version, and the Node.js of the image is that of package.json', () => {
  for (const [name, { image }] of services) expect(image, name).toMatch(/^[\w./-]+:v?\d+\.\d+(\.\d+)?$/);
  const { version, dependencies } = JSON.parse(readText('package.json')) as {
    version: string;
    dependencies: Record<string, string>;
  };
  expect(readStages().map(({ image }) => image)).toEqual(
    readStages().map(() => `node:${dependencies.node}-slim`),
  );
  for (const [name, { image }] of own) expect(image, name).toBe(`market-sync:${version}`);
});

test('Node.js runs the program with the same flags in the image, by npm, by its own command and in the benchmark', () => {
  const { scripts } = JSON.parse(readText('package.json')) as { scripts: Record<string, string> };
  const command = ['node', ...PROGRAM_FLAGS];
  expect(readStages().at(-1)?.entrypoint).toEqual([...command, '/app/src/main.ts']);
  expect(scripts['market-sync']).toBe([...command, 'src/main.ts'].join(' '));
  expect(scripts.start).toBe(`${scripts['market-sync']} start`);
  expect(readText('bin/market-sync.js')).toContain(`spawn(node, ['${PROGRAM_FLAGS.join("', '")}', main, `);
});

test('every port is on loopback', () => {
  const ports = services.flatMap(([, { ports }]) => ports);
  expect(ports.length).toBeGreaterThan(3);
  for (const port of ports) expect(port).toMatch(/^127\.0\.0\.1:\d+:\d+$/);
  expect(new Set(ports.map((port) => port.split(':')[1])).size).toBe(ports.length);
});

test('every file that it mounts is there, every volume is named, and nothing but volumes is written', () => {
  for (const [name, { volumes }] of services) {
    for (const volume of volumes) {
      const [source = '', , mode] = volume.split(':');
      if (source.startsWith('./')) {
        expect(() => statSync(join(ROOT, source)), `${name}: ${source}`).not.toThrow();
        expect(mode, volume).toBe('ro');
      } else expect(Object.keys(compose.volumes)).toContain(source);
    }
  }
});

test('our processes are confined: no root, no capabilities, a root file system that nobody can write, limits', () => {
  expect(readStages().at(-1)?.user).toBe('node');
  for (const [name, service] of services) {
    expect(service.security_opt, name).toContain('no-new-privileges:true');
    if (service.build === undefined && !service.profiles.includes('monitoring')) continue;
    expect(service, name).toMatchObject({ read_only: true, tmpfs: ['/tmp'], cap_drop: ['ALL'] });
  }
  for (const [name, { restart }] of services)
    expect(restart, name).toBe(name === 'migrate' ? 'no' : 'unless-stopped');
});

test('what needs tables waits for the migration, which waits for PostgreSQL, and the standby is another pipeline', () => {
  expect(compose.services.migrate?.depends_on).toEqual({ postgres: { condition: 'service_healthy' } });
  for (const name of ['pipeline', 'standby', 'api']) {
    expect(compose.services[name]?.depends_on, name).toEqual({
      migrate: { condition: 'service_completed_successfully' },
      mongodb: { condition: 'service_healthy' },
    });
  }
  const { profiles, ...standby } = compose.services.standby as ComposeService;
  expect(profiles).toEqual(['standby']);
  expect({ ...standby, profiles: [] }).toEqual(compose.services.pipeline);
});

test('the script makes every secret that is named, once, and nothing of it can be committed or sent to a build', () => {
  const home = mkdtempSync(join(tmpdir(), 'market-sync-secrets-'));
  try {
    const directory = join(home, 'a path with a space');
    const make = (): Record<string, string> => {
      execFileSync(join(ROOT, 'ops', 'compose', 'make-secrets.sh'), [directory]);
      return Object.fromEntries(
        readdirSync(directory).map((file) => [file, readFileSync(join(directory, file), 'utf8')]),
      );
    };
    const made = make();
    expect(Object.keys(made).sort()).toEqual(Object.keys(compose.secrets).sort());
    for (const [name, { file }] of Object.entries(compose.secrets)) expect(file).toBe(`./secrets/${name}`);
    expect(new Set(Object.values(made)).size).toBe(Object.keys(made).length - 1); // Prometheus begins with the admin's key.
    expect(made.api_url).toBe(`postgresql://sync_api:${made.api_password}@postgres:5432/storage_guard`);
    expect(statSync(directory).mode & 0o777).toBe(0o700);
    expect(statSync(join(directory, 'api_key')).mode & 0o777).toBe(0o644);
    expect(make()).toEqual(made);
  } finally {
    rmSync(home, { recursive: true });
  }
  const used = services.flatMap(([, { secrets }]) => secrets);
  expect(new Set([...used])).toEqual(new Set(Object.keys(compose.secrets)));
  expect(readText('.gitignore').split('\n')).toContain('secrets/');
  for (const [name, { environment, secrets }] of services) {
    for (const value of Object.values(environment)) {
      const file = /^\/run\/secrets\/(\w+)$/.exec(value)?.[1];
      if (file !== undefined) expect(secrets, name).toContain(file);
    }
  }
});

test('the logins have what their processes need, made before the migration and granted by it', async () => {
  const cluster = await startCluster({ fsync: false });
  try {
    const log = testLog();
    const pool = createPool({ url: cluster.url(), applicationName: 'test', sourceSchema: 'public', log });
    try {
      await applyStorageGuardTables({ pool, sourceSchema: 'public' });
      const passwords = {
        pipeline_password: randomBytes(8).toString('hex'),
        api_password: randomBytes(8).toString('hex'),
      };
      for (const statement of readLogins(passwords)) await query(pool, statement);
      await migrate({ pool, sourceSchema: 'public', log });
      const rows = await query<{ may: boolean[] }>(
        pool,
        `select array[
           has_function_privilege('sync_pipeline', p.oid, 'execute'), has_function_privilege('sync_api', h.oid, 'execute'),
           (select rolreplication from pg_roles where rolname = 'sync_pipeline'),
           has_function_privilege('sync_api', p.oid, 'execute')] as may
         from pg_proc p, pg_proc h
         where p.oid = 'market_sync.acquire_consumer'::regproc and h.oid = 'market_sync.hold'::regproc`,
      );
      expect(rows[0]?.may).toEqual([true, true, true, false]);
    } finally {
      await pool.end();
    }
  } finally {
    await cluster.stop();
  }
});

/** The statements of logins.sql, with psql's variables filled in. Throws for one that no secret of postgres fills. */
function readLogins(passwords: Record<string, string>): string[] {
  const text = readText('ops/compose/logins.sql');
  for (const [, name = '', file = ''] of text.matchAll(/^\\set (\w+) `cat \/run\/secrets\/(\w+)`$/gm)) {
    expect(name).toBe(file);
    expect(compose.services.postgres?.secrets).toContain(file);
    expect(Object.keys(passwords)).toContain(name);
  }
  return text
    .replaceAll(/^(--|\\set ).*$/gm, '')
    .replaceAll(/:'(\w+)'/g, (_, name: string) => `'${passwords[name]}'`)
    .split(';')
    .map((statement) => statement.trim())
    .filter((statement) => statement !== '');
}

test("MongoDB's health check initiates the replica set once, and is not healthy before there is a primary", () => {
  const script = compose.services.mongodb?.healthcheck?.test?.at(-1) ?? '';
  const world = { initiated: [] as unknown[], primary: false };
  const check = (): number => {
    let code = 0;
    const rs = {
      status: () => {
        if (world.initiated.length === 0) throw new Error('no replset config has been received');
        return { ok: 1 };
      },
      initiate: (config: unknown) => {
        world.initiated.push(config);
        return { ok: 1 };
      },
    };
    const db = { hello: () => ({ isWritablePrimary: world.primary }) };
    new Function('rs', 'db', 'quit', script)(rs, db, (status: number) => {
      code = status;
    });
    return code;
  };
  expect(check()).toBe(1);
  expect(check()).toBe(1);
  world.primary = true;
  expect(check()).toBe(0);
  expect(world.initiated).toEqual([{ _id: 'rs0', members: [{ _id: 0, host: '127.0.0.1:27017' }] }]);
});

test.skipIf(spawnSync('pg_isready', ['--version']).error !== undefined)(
  "PostgreSQL's health check answers once the server does",
  async () => {
    const [, program = '', ...args] = compose.services.postgres?.healthcheck?.test ?? [];
    const cluster = await startCluster({ fsync: false });
    const { port } = new URL(cluster.url());
    const ask = () => spawnSync(program, args, { env: { ...process.env, PGPORT: port } }).status;
    expect(ask()).toBe(0);
    await cluster.stop();
    expect(ask()).not.toBe(0);
  },
);

test('Prometheus has the scrape settings and alerts of ops/prometheus, by the names that containers have', () => {
  const [shown, mounted] = ['prometheus.yml', 'compose.yml'].map((file) =>
    readText(`ops/prometheus/${file}`),
  );
  const strip = (text = '') => text.replaceAll(/^\s*#.*\n/gm, '');
  expect(strip(mounted)).toBe(
    strip(shown)
      .replace('/etc/prometheus/market-sync.key', '/run/secrets/prometheus_key')
      .replace('127.0.0.1:3000', 'api:3000'),
  );
  const volumes = compose.services.prometheus?.volumes ?? [];
  expect(volumes).toContain('./ops/prometheus/compose.yml:/etc/prometheus/prometheus.yml:ro');
  // `rule_files` is relative to the configuration.
  expect(volumes).toContain('./ops/prometheus/alerts.yml:/etc/prometheus/alerts.yml:ro');
});

test("Grafana finds the dashboard where it is mounted, and the dashboard's data source is the default one", () => {
  const volumes = compose.services.grafana?.volumes ?? [];
  expect(volumes).toContain('./ops/grafana/provisioning:/etc/grafana/provisioning:ro');
  const dashboards = readYaml('ops/grafana/provisioning/dashboards/market-sync.yml');
  expect(dashboards).toMatchObject({ providers: [{ options: { path: '/var/lib/grafana/dashboards' } }] });
  const dashboard = '/var/lib/grafana/dashboards/market-sync.json';
  expect(volumes).toContain(`./ops/grafana/market-sync.json:${dashboard}:ro`);
  expect(compose.services.grafana?.environment.GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH).toBe(dashboard);

  expect(readYaml('ops/grafana/provisioning/datasources/prometheus.yml')).toMatchObject({
    datasources: [{ uid: 'prometheus', type: 'prometheus', isDefault: true, url: 'http://prometheus:9090' }],
  });
  // Without a choice of its own the variable takes the default data source of its type.
  expect(readDashboard().templating.list.find(({ name }) => name === 'datasource')).toMatchObject({
    type: 'datasource',
    query: 'prometheus',
    current: {},
  });
});
