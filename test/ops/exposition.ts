/** What one process answers at `/metrics`, by the rules of Prometheus' text format 0.0.4, read without prom-client. */

interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

export interface ParsedFamily {
  name: string;
  help: string;
  type: string;
  samples: Sample[];
}

const SUFFIXES: Record<string, string[]> = {
  gauge: [''],
  counter: [''],
  summary: ['_sum', '_count'],
  histogram: ['_bucket', '_sum', '_count'],
};

/**
 * Families by name. Throws at the first thing that is not as it must be: a family without help or type, a sample outside
 * of its family, the same series twice, a counter that is not named so or negative, a histogram whose buckets do not
 * rise to its count.
 */
export function parseExposition(text: string): Map<string, ParsedFamily> {
  if (!text.endsWith('\n')) throw new Error('the last line does not end');
  const families = new Map<string, ParsedFamily>();
  const seen = new Set<string>();
  let family: ParsedFamily | undefined;
  for (const line of text.split('\n').filter((one) => one !== '')) {
    const help = /^# HELP ([a-z_:][a-z0-9_:]*) (\S.*)$/.exec(line);
    const type = /^# TYPE ([a-z_:][a-z0-9_:]*) (\w+)$/.exec(line);
    if (help !== null) {
      const [, name = '', words = ''] = help;
      if (families.has(name)) throw new Error(`two families are named ${name}`);
      if (!words.endsWith('.')) throw new Error(`the help of ${name} is no sentence`);
      family = { name, help: words, type: '', samples: [] };
      families.set(name, family);
    } else if (type !== null) {
      if (family === undefined || type[1] !== family.name || family.type !== '')
        throw new Error(`out of place: ${line}`);
      family.type = type[2] ?? '';
    } else {
      const sample = parseSample(line);
      const suffixes = SUFFIXES[family?.type ?? ''] ?? [];
      if (!suffixes.some((suffix) => sample.name === `${family?.name}${suffix}`))
        throw new Error(`outside of its family: ${line}`);
      const series = `${sample.name} ${JSON.stringify(Object.entries(sample.labels).sort())}`;
      if (seen.has(series)) throw new Error(`twice: ${line}`);
      seen.add(series);
      family?.samples.push(sample);
    }
  }
  for (const one of families.values()) checkFamily(one);
  return families;
}

function parseSample(line: string): Sample {
  const match = /^([a-z_:][a-z0-9_:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
  if (match === null) throw new Error(`not a sample: ${line}`);
  const [, name = '', inner = '', number = ''] = match;
  const labels: Record<string, string> = {};
  const pair = /([a-z_][a-z0-9_]*)="((?:[^"\\]|\\["\\n])*)"(,|$)/y;
  while (pair.lastIndex < inner.length) {
    const found = pair.exec(inner);
    if (found === null) throw new Error(`not labels: ${line}`);
    const [, label = '', value = ''] = found;
    if (label in labels) throw new Error(`a label twice: ${line}`);
    labels[label] = value;
  }
  if (!/^(?:[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?|NaN|[+-]Inf)$/.test(number))
    throw new Error(`not a number: ${line}`);
  return { name, labels, value: Number(number.replace('Inf', 'Infinity')) };
}

function checkFamily({ name, type, samples }: ParsedFamily): void {
  if (!(type in SUFFIXES)) throw new Error(`${name} is of no type: "${type}"`);
  if ((type === 'counter') !== name.endsWith('_total')) throw new Error(`${name} is a ${type} by name only`);
  if (samples.some(({ value }) => !Number.isFinite(value) || (type !== 'gauge' && value < 0)))
    throw new Error(`${name} has impossible values`);
  if (type === 'histogram') for (const series of splitSeries(samples)) checkHistogram(name, series);
}

/** The samples of a histogram or summary, by their labels without `le`. */
function splitSeries(samples: Sample[]): Sample[][] {
  return [
    ...Map.groupBy(samples, ({ labels: { le: _, ...labels } }) =>
      JSON.stringify(Object.entries(labels).sort()),
    ).values(),
  ];
}

function checkHistogram(name: string, series: Sample[]): void {
  const buckets = series.filter((sample) => sample.name === `${name}_bucket`);
  const count = series.find((sample) => sample.name === `${name}_count`)?.value;
  const bounds = buckets.map(({ labels }) => Number(labels.le?.replace('Inf', 'Infinity')));
  if (bounds.some((bound, index) => !(bound > (bounds[index - 1] ?? Number.NEGATIVE_INFINITY))))
    throw new Error(`the bounds of ${name} do not rise: ${bounds}`);
  if (buckets.some(({ value }, index) => value < (buckets[index - 1]?.value ?? 0)))
    throw new Error(`the buckets of ${name} are not cumulative`);
  if (bounds.at(-1) !== Number.POSITIVE_INFINITY || buckets.at(-1)?.value !== count)
    throw new Error(`the last bucket of ${name} is not its count`);
  if (!series.some((sample) => sample.name === `${name}_sum`)) throw new Error(`${name} has no sum`);
}
