import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseDocument } from 'yaml';
import { z } from 'zod';

const ROOT = join(import.meta.dirname, '..', '..');

export const readText = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

/** YAML 1.2 without errors, warnings or a key twice. */
export function readYaml(path: string): unknown {
  const document = parseDocument(readText(path), { uniqueKeys: true, strict: true });
  const [problem] = [...document.errors, ...document.warnings];
  if (problem !== undefined) throw problem;
  return document.toJS();
}

const ruleSchema = z.strictObject({
  alert: z.string().regex(/^MarketSync[A-Z]\w+$/),
  expr: z.string(),
  for: z.string().regex(/^\d+[smh]$/),
  labels: z.strictObject({ severity: z.enum(['warning', 'critical']) }),
  annotations: z.strictObject({
    summary: z.string().min(1),
    description: z.string().regex(/\.$/),
    runbook: z.string(),
  }),
});

export const readRules = (): z.infer<typeof ruleSchema>[] =>
  z
    .strictObject({
      groups: z.tuple([
        z.strictObject({ name: z.literal('market-sync'), rules: z.array(ruleSchema).min(1) }),
      ]),
    })
    .parse(readYaml('ops/prometheus/alerts.yml')).groups[0].rules;

const datasourceSchema = z.strictObject({
  type: z.literal('prometheus'),
  uid: z.string().regex(/^\$\{datasource\}$/),
});

const panelSchema = z.looseObject({
  id: z.int().positive(),
  type: z.enum(['row', 'stat', 'timeseries']),
  title: z.string().min(1),
  datasource: datasourceSchema.optional(),
  gridPos: z.strictObject({ h: z.int().min(1), w: z.int().min(1), x: z.int().min(0), y: z.int().min(0) }),
  targets: z
    .array(z.looseObject({ refId: z.string(), expr: z.string(), datasource: datasourceSchema }))
    .optional(),
});

/** The dashboard, as Grafana's schema wants it. */
export const readDashboard = () =>
  z
    .looseObject({
      uid: z.literal('market-sync'),
      title: z.string().min(1),
      schemaVersion: z.int().min(39),
      templating: z.object({
        list: z.array(
          z.looseObject({ name: z.string(), type: z.string(), datasource: datasourceSchema.optional() }),
        ),
      }),
      panels: z.array(panelSchema).min(1),
    })
    .parse(JSON.parse(readText('ops/grafana/market-sync.json')));

/** Every expression of the rules and of the dashboard, and where it stands. */
export const readExpressions = (): { place: string; expression: string }[] => [
  ...readRules().map(({ alert, expr }) => ({ place: `alert ${alert}`, expression: expr })),
  ...readDashboard().panels.flatMap(({ title, targets = [] }) =>
    targets.map(({ refId, expr }) => ({ place: `panel ${title} ${refId}`, expression: expr })),
  ),
];
