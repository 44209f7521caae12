import { median, spread } from './statistics.ts';

/** A figure that the benchmark measured: of one case, with what it is to reach. */
export interface Result {
  name: string;
  case: string;
  /** The median of `samples`, where there are several. */
  value: number;
  unit: string;
  /** What was to be reached, as `>= 0.92` or `<= 25`; null for a figure that is told beside others. */
  reach: string | null;
  met: boolean | null;
  /** One number a repetition, in the order in which they were measured. */
  samples: number[];
  /** Said of figures that other work on the machine may have moved, and of what was measured instead. */
  note?: string;
}

/** Repetitions that lie further apart than this, middle half by median, were disturbed. */
const NOISY_SPREAD = 0.25;

/** A result of repetitions: its value is their median. A wide spread is said. */
export function toResult(input: {
  name: string;
  case: string;
  unit: string;
  samples: number[];
  reach?: string;
  note?: string | undefined;
}): Result {
  const { name, unit, samples, reach, note } = input;
  const value = median(samples);
  const apart = samples.length > 2 ? spread(samples) : 0;
  const noisy =
    apart > NOISY_SPREAD ? `noisy: the middle half is ${Math.round(apart * 100)} % apart` : undefined;
  const notes = [note, noisy].filter((text) => text !== undefined).join('; ');
  return {
    name,
    case: input.case,
    value,
    unit,
    reach: reach ?? null,
    met: reach === undefined ? null : isMet(value, reach),
    samples,
    ...(notes === '' ? {} : { note: notes }),
  };
}

function isMet(value: number, reach: string): boolean {
  const [operator, number] = reach.split(' ');
  const bound = Number(number);
  if (operator === '>=') return value >= bound;
  if (operator === '<=') return value <= bound;
  throw new Error(`${reach}: not a bound`);
}

/** One line a result, in columns. */
export function formatTable(results: readonly Result[]): string {
  const rows = results.map((result) => [
    result.name,
    result.case,
    `${formatNumber(result.value)} ${result.unit}`,
    result.reach ?? '',
    result.met === null ? '' : result.met ? 'met' : 'not met',
    result.note ?? '',
  ]);
  const table = [['name', 'case', 'value', 'reach', '', 'note'], ...rows];
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(...table.map((row) => row[column]?.length ?? 0)));
  return table
    .map((row) =>
      row
        .map((text, column) => text.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

const formatNumber = (value: number): string =>
  value.toLocaleString('en', { maximumSignificantDigits: Math.abs(value) >= 1000 ? 6 : 3 });
