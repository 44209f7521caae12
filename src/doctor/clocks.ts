import { type Finding, ok, skipped, warning } from './check.ts';
import type { Limits } from './postgres-context.ts';

/** Of the clocks that are known; this machine's is the one that the others are measured by. */
export function judgeClocks(
  ahead: { postgresMs: number | undefined; marketMs: number | undefined },
  limits: Pick<Limits, 'clockSkewMs'>,
): Finding {
  const clocks = [
    { name: 'this machine', ms: 0 },
    { name: 'PostgreSQL', ms: ahead.postgresMs },
    { name: 'MongoDB', ms: ahead.marketMs },
  ].flatMap(({ name, ms }) => (ms === undefined ? [] : [{ name, ms }]));
  if (clocks.length < 2) return skipped('there is no other clock to compare');
  const sorted = clocks.toSorted((a, b) => a.ms - b.ms);
  const [slowest, fastest] = [sorted[0], sorted.at(-1)];
  if (slowest === undefined || fastest === undefined) return skipped('there is no other clock to compare');
  const skewMs = fastest.ms - slowest.ms;
  const seconds = (skewMs / 1_000).toFixed(1);
  if (skewMs <= limits.clockSkewMs)
    return ok(`${clocks.map(({ name }) => name).join(', ')}: within ${seconds} s`);
  return warning(
    `${fastest.name} is ${seconds} s ahead of ${slowest.name}; only PostgreSQL's clock decides`,
    'timedatectl set-ntp true',
  );
}
