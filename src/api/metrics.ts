import { Counter, Gauge, Histogram, Registry } from 'prom-client';

/** Figures of one name, as they stand: read somewhere else, not counted here. */
export interface Family {
  name: string;
  help: string;
  type: 'gauge' | 'counter' | 'histogram' | 'summary';
  /** `suffix` is what histograms and summaries append to the name. */
  samples: {
    value: number;
    labels?: Record<string, string | number>;
    suffix?: '_bucket' | '_sum' | '_count';
  }[];
}

/** A metric that this process counts by itself, for as long as it lives. */
export type Counted = Counter | Histogram;

// Outside of any registry: one is made for each answer.

export const createCounter = (name: string, options: { help: string; labelNames: string[] }): Counter =>
  new Counter({ name, ...options, registers: [] });

export const createHistogram = (
  name: string,
  options: { help: string; labelNames?: string[]; buckets: number[] },
): Histogram => new Histogram({ name, ...options, registers: [] });

/**
 * Prometheus' text format of all of these. What was read elsewhere is kept no longer than this, so that nothing can be
 * stale or counted twice.
 */
export async function renderMetrics({ families, counted }: { families: Family[]; counted: Counted[] }) {
  const registry = new Registry();
  for (const family of families) registerFamily(registry, family);
  for (const metric of counted) registry.registerMetric(metric);
  return { text: await registry.metrics(), contentType: registry.contentType };
}

/** prom-client itself knows only what it has counted. */
function registerFamily(registry: Registry, { name, help, type, samples }: Family): void {
  const values = samples.map(({ value, labels = {}, suffix = '' }) => ({
    value,
    labels,
    metricName: `${name}${suffix}`,
  }));
  Object.assign(new Gauge({ name, help, registers: [registry] }), {
    get: async () => ({ name, help, type, values }),
  });
}

/** A summary without quantiles: their rate is a mean. */
export const totalsOf = ({ sum, count }: { sum: number; count: number }): Family['samples'] => [
  { suffix: '_sum', value: sum },
  { suffix: '_count', value: count },
];

/** A histogram; `upTo` says for ascending bounds how many were not above. */
export const histogramOf = ({
  upTo,
  count,
  sum,
}: {
  upTo: { bound: number; count: number }[];
  count: number;
  sum: number;
}): Family['samples'] => [
  ...upTo.map((bucket) => ({
    suffix: '_bucket' as const,
    labels: { le: bucket.bound },
    value: bucket.count,
  })),
  { suffix: '_bucket', labels: { le: '+Inf' }, value: count },
  ...totalsOf({ sum, count }),
];
