import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { readMetrics } from '../../src/store/metrics.ts';
import { apiContext, insertBooking } from '../api/setup.ts';
import { startCluster, type TestCluster } from '../support/cluster.ts';
import { until } from '../support/pipeline.ts';
import { createScene, type Scene } from '../support/scene.ts';
import { type ParsedFamily, parseExposition } from './exposition.ts';
import { readExpressions, readText } from './files.ts';
import { readSelectors } from './promql.ts';

/** What Prometheus adds to every sample, and what it makes itself. */
const SCRAPED_LABELS = ['job', 'instance'];
const MADE_BY_PROMETHEUS = ['up'];

let cluster: TestCluster;
let scene: Scene;
let families: Map<string, ParsedFamily>;

/** The answer of an API beside a pipeline that has worked. Without a limit for the slot, its metric would be left out. */
beforeAll(async () => {
  cluster = await startCluster({ fsync: false, parameters: { max_slot_wal_keep_size: '4GB' } });
  scene = await createScene({ cluster });
  const { pool } = scene.database;
  const pipeline = await scene.start();
  await insertBooking(pool);
  await scene.settle();
  await until('the queue takes jobs', () =>
    pipeline.queue.trigger('refresh').then(
      () => true,
      () => false,
    ),
  );
  const jobs = `select from market_sync.jobs where state = 'completed' limit 1`;
  await until('a job is done', async () => (await pool.query(jobs)).rowCount === 1);
  await pool.query(`select market_sync.audit('so that there is one')`);
  const audited = `select from market_sync.audits where state = 'done'`;
  await until('an audit has ended', async () => (await pool.query(audited)).rowCount === 1);
  const app = createApi(apiContext({ pool, market: scene.market.market }));
  await app.request('/healthz');
  families = parseExposition(await (await app.request('/metrics')).text());
});
afterAll(async () => {
  await scene.stop();
  await cluster.stop();
});

/** Names as queries know them: with what histograms and summaries append. */
const namesInQueries = (): Map<string, ParsedFamily> =>
  new Map([...families.values()].flatMap((family) => family.samples.map(({ name }) => [name, family])));

test('a pipeline that works fills the histograms and the counters', () => {
  for (const name of ['market_sync_commit_to_snapshot_seconds', 'market_sync_commit_to_listing_seconds']) {
    const count = families.get(name)?.samples.find((sample) => sample.name === `${name}_count`);
    expect(count?.value, name).toBeGreaterThan(0);
  }
  const { samples = [] } = families.get('market_sync_publish_batch_listings') ?? {};
  expect(samples.find(({ name }) => name.endsWith('_sum'))?.value).toBeGreaterThan(0);
  expect(families.get('market_sync_jobs')?.samples).toContainEqual(
    expect.objectContaining({ labels: { queue: 'refresh', state: 'completed' } }),
  );
});

test('every metric in the alerts and on the dashboard is one that /metrics answers, with those labels', () => {
  const names = namesInQueries();
  for (const { place, expression } of readExpressions()) {
    for (const { metric, matchers } of readSelectors(expression)) {
      if (MADE_BY_PROMETHEUS.includes(metric)) continue;
      const samples = names.get(metric)?.samples.filter(({ name }) => name === metric) ?? [];
      expect(samples.length, `${place}: ${metric}`).toBeGreaterThan(0);
      for (const { label, operator, value } of matchers) {
        if (SCRAPED_LABELS.includes(label)) continue;
        const values = samples.map(({ labels }) => labels[label]);
        expect(values[0], `${place}: ${metric} ${label}`).toBeDefined();
        // Of statuses and routes, only those that were called are there.
        if (label === 'state' && operator !== '!=')
          for (const alternative of value.split('|')) expect(values, place).toContain(alternative);
      }
    }
  }
});

test('what an expression groups by is a label of what it groups', () => {
  const names = namesInQueries();
  for (const { place, expression } of readExpressions()) {
    for (const [, list = '', metric = ''] of expression.matchAll(/ by \(([^)]*)\) \((?:\w+\()*(\w+)/g)) {
      if (MADE_BY_PROMETHEUS.includes(metric)) continue;
      const labels = names.get(metric)?.samples.flatMap((sample) => Object.keys(sample.labels)) ?? [];
      for (const label of list.split(', ')) expect([...labels, ...SCRAPED_LABELS], place).toContain(label);
    }
  }
});

test('the runbook lists every metric with its type and meaning', () => {
  const rows = [...families.values()].map(({ name, type, help }) => `| \`${name}\` | ${type} | ${help} |`);
  const table = ['| metric | type | says |', '|---|---|---|', ...rows]
    .join('\n')
    .replaceAll(' From PostgreSQL: the same whichever process answers.', '');
  const written = /<!-- metrics: .*-->\n([\s\S]*?)\n<!-- \/metrics -->/.exec(
    readText('docs/operations.md'),
  )?.[1];
  expect(written).toBe(table);
});

test('every metric that the README and the runbook speak of exists', () => {
  const names = [...namesInQueries().keys(), ...families.keys()];
  const spoken = ['README.md', 'docs/operations.md'].flatMap((path) =>
    [...readText(path).matchAll(/`((?:market_sync|process|nodejs)_[a-z_]+)`/g)].map(([, name = '']) => name),
  );
  const roles = /^market_sync_(reader|operator|admin|consumer|publisher|api|publish|control)$/;
  expect(spoken.length).toBeGreaterThan(20);
  for (const name of spoken.filter((one) => !roles.test(one))) expect(names).toContain(name);
});

test('every statement of the runbook runs, as the role that it names', async () => {
  const blocks = [...readText('docs/operations.md').matchAll(/^```sql\n-- as (\w+)\n([\s\S]*?)^```/gm)];
  expect(blocks.length).toBe(readText('docs/operations.md').split('```sql').length - 1);
  const client = await scene.database.pool.connect();
  try {
    for (const [, role = '', sql = ''] of blocks) {
      await client.query('begin');
      if (sql.includes('resume()')) await client.query(`select market_sync.pause('a test pauses')`);
      await client.query(`set local role ${role}`);
      await expect(client.query(sql), sql).resolves.toBeDefined();
      await client.query('rollback');
    }
  } finally {
    client.release();
  }
});

test("the API's own role may read all of it", async () => {
  const client = await scene.database.pool.connect();
  try {
    await client.query('begin; set local role market_sync_api');
    expect((await readMetrics(client)).epoch).toBe(1);
    await client.query('rollback');
  } finally {
    client.release();
  }
});
