/**
 * - `ok`: as it must be.
 * - `warning`: works, but will not work well, or not for long; or changes of some kind go unseen.
 * - `failure`: does not work.
 * - `skipped`: it could not be told, or there is nothing to look at yet; `found` says why.
 */
export type CheckStatus = 'ok' | 'warning' | 'failure' | 'skipped';

export interface Finding {
  status: CheckStatus;
  /** What there is, in words. No row values, no secrets. */
  found: string;
  /** Statements or a shell command to copy. Statements end lines with a semicolon between them. */
  remedy?: string;
}

/** One thing to look at. */
export interface CheckDefinition<Context> {
  /** What it is called, in output, JSON and docs. */
  name: string;
  /** What is a warning or a failure, and what follows from it; for docs/dba.md. */
  means: string;
  /** A failure that the pipeline cannot mend by itself: `start` stops for it. */
  stops?: true;
  look: (ctx: Context) => Promise<Finding> | Finding;
}

/** A finding with its place in the report. */
export interface Check extends Finding {
  name: string;
  group: string;
}

export const ok = (found: string): Finding => ({ status: 'ok', found });
export const warning = (found: string, remedy: string): Finding => ({ status: 'warning', found, remedy });
export const failure = (found: string, remedy: string): Finding => ({ status: 'failure', found, remedy });
export const skipped = (found: string): Finding => ({ status: 'skipped', found });

/** Of a server that cannot be asked. */
export const skipAll = <Context>(
  group: string,
  checks: readonly CheckDefinition<Context>[],
  found: string,
): Check[] => checks.map(({ name }) => ({ group, name, ...skipped(found) }));

/** Statements one a line, to copy them all. */
export const statements = (lines: readonly string[]): string => lines.map((line) => `${line};`).join('\n');

const NAMES_MAX = 8;

/** Names in a sentence; of many, the first. */
export function listNames(names: readonly string[]): string {
  const more = names.length - NAMES_MAX;
  return more > 0 ? `${names.slice(0, NAMES_MAX).join(', ')} and ${more} more` : names.join(', ');
}

export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

export function formatSeconds(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds * 10) / 10} s`;
  return seconds < 7_200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3_600)} h`;
}
