/** The middle of a list of numbers; of an even count the mean of the two in the middle. Throws on an empty list. */
export function median(values: readonly number[]): number {
  return percentile(values, 50);
}

/** The `percent`-th percentile, interpolated between neighbours. Throws on an empty list. */
export function percentile(values: readonly number[], percent: number): number {
  if (values.length === 0) throw new Error('a percentile of nothing');
  const sorted = [...values].sort((left, right) => left - right);
  const place = ((sorted.length - 1) * percent) / 100;
  const [low, high] = [sorted[Math.floor(place)] as number, sorted[Math.ceil(place)] as number];
  return low + (high - low) * (place - Math.floor(place));
}

/** How far the middle half of the samples lies apart, as a share of the median: 0 for samples that agree. */
export function spread(values: readonly number[]): number {
  const middle = median(values);
  return middle === 0 ? 0 : (percentile(values, 75) - percentile(values, 25)) / Math.abs(middle);
}

/** Sum of a list. */
export const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
