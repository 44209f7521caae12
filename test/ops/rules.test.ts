import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { z } from 'zod';
import { readDashboard, readExpressions, readRules, readText, readYaml } from './files.ts';
import { readSelectors } from './promql.ts';

/** Checked with it where it is installed. */
const PROMTOOL = process.env.PROMTOOL ?? 'promtool';

const PROMETHEUS = join(import.meta.dirname, '..', '..', 'ops', 'prometheus');

/** What a reader clicks: as GitHub makes anchors of headings. */
const anchorsOf = (markdown: string): string[] =>
  [...markdown.matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  );

test('every alert says how bad it is, since when, what it means, and leads to a section of the runbook', () => {
  const rules = readRules();
  expect(new Set(rules.map(({ alert }) => alert)).size).toBe(rules.length);
  const anchors = anchorsOf(readText('docs/operations.md'));
  expect(new Set(anchors).size).toBe(anchors.length);
  for (const { alert, annotations } of rules) {
    const [file, anchor = ''] = annotations.runbook.split('#');
    expect(file, alert).toBe('docs/operations.md');
    expect(anchors, alert).toContain(anchor);
  }
});

test('every section of the runbook belongs to an alert, or is about what people do themselves', () => {
  const anchors = [...readText('docs/operations.md').matchAll(/^## .+$/gm)].flatMap(([heading]) =>
    anchorsOf(heading),
  );
  const meant = readRules().map(({ annotations }) => annotations.runbook.split('#')[1]);
  expect(anchors.filter((anchor) => !meant.includes(anchor))).toEqual([
    'restoring-postgresql',
    'failing-over',
    'metrics',
  ]);
});

test('every link within the runbook leads somewhere', () => {
  const text = readText('docs/operations.md');
  const links = [...text.matchAll(/\]\(#([^)]+)\)/g)].map(([, anchor]) => anchor);
  expect(links.length).toBeGreaterThan(0);
  for (const link of links) expect(anchorsOf(text)).toContain(link);
});

test('every expression of the alerts and of the dashboard is PromQL', () => {
  const expressions = readExpressions();
  expect(expressions.length).toBeGreaterThan(40);
  for (const { place, expression } of expressions)
    expect(() => readSelectors(expression), place).not.toThrow();
});

test.each(['sum by (job (rate(a[5m]))', 'rate(a[5m]) >', 'histogram_quantile(0.99, a', '1 + 1'])(
  'the check of PromQL refuses %j',
  (expression) => {
    expect(() => readSelectors(expression)).toThrow();
  },
);

test("what an alert's words take from its labels, its expression leaves there", () => {
  for (const { alert, expr, annotations } of readRules()) {
    const used = [...JSON.stringify(annotations).matchAll(/\$labels\.(\w+)/g)].map(([, label]) => label);
    const groups = [...expr.matchAll(/ by \(([^)]*)\)/g)].map(([, labels = '']) => labels.split(', '));
    for (const label of used) for (const group of groups) expect(group, alert).toContain(label);
  }
});

test('Prometheus scrapes the job that alerts and dashboard name, with a key from a file, and loads the alerts', () => {
  const config = z
    .object({
      rule_files: z.array(z.string()),
      scrape_configs: z.tuple([
        z.strictObject({
          job_name: z.literal('market-sync'),
          metrics_path: z.literal('/metrics'),
          authorization: z.strictObject({ type: z.literal('Bearer'), credentials_file: z.string().min(1) }),
          static_configs: z.array(z.strictObject({ targets: z.array(z.string()).min(1) })),
        }),
      ]),
    })
    .parse(readYaml('ops/prometheus/prometheus.yml'));
  expect(config.rule_files).toEqual(['alerts.yml']);
  const jobs = readExpressions()
    .flatMap(({ expression }) => readSelectors(expression))
    .flatMap(({ matchers }) => matchers.filter(({ label }) => label === 'job').map(({ value }) => value));
  expect(new Set(jobs)).toEqual(new Set(['market-sync', '$job']));
});

test('the dashboard has its variables, panels of their own places, and a row for every part', () => {
  const { panels, templating } = readDashboard();
  expect(templating.list.map(({ name, type }) => `${name}: ${type}`)).toEqual([
    'datasource: datasource',
    'job: query',
  ]);
  expect(panels.filter(({ type }) => type === 'row').map(({ title }) => title)).toEqual([
    'Overview',
    'Pipeline',
    'Slot and WAL',
    'Queue',
    'Audit',
    'HTTP',
    'Process',
  ]);
  expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
  const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
    Array.from({ length: w * h }, (_, index) => `${x + (index % w)},${y + Math.floor(index / w)}`),
  );
  expect(new Set(cells).size).toBe(cells.length);
  for (const { type, title, gridPos, targets = [], datasource } of panels) {
    expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24);
    expect(targets.length > 0, title).toBe(type !== 'row');
    expect(datasource !== undefined, title).toBe(type !== 'row');
    expect(new Set(targets.map(({ refId }) => refId)).size, title).toBe(targets.length);
  }
});

test.skipIf(spawnSync(PROMTOOL, ['--version']).error !== undefined)(
  'promtool accepts the alerts and the scrape settings',
  () => {
    execFileSync(PROMTOOL, ['check', 'rules', join(PROMETHEUS, 'alerts.yml')]);
    for (const file of ['prometheus.yml', 'compose.yml']) {
      execFileSync(PROMTOOL, ['check', 'config', '--syntax-only', join(PROMETHEUS, file)]);
    }
  },
);
