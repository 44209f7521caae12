import { styleText } from 'node:util';
import type { Check, CheckStatus } from '../doctor/check.ts';
import type { Report } from '../doctor/examine.ts';

const TONES: Record<CheckStatus, 'green' | 'yellow' | 'red' | 'gray'> = {
  ok: 'green',
  warning: 'yellow',
  failure: 'red',
  skipped: 'gray',
};

/** A group is a heading, a check a line, its remedy the lines under it; each readable without its colour. */
export function describeReport(report: Report, { colour }: { colour: boolean }): string {
  // `styleText` would look at the environment, too; what decides here is the caller.
  const tone = (status: CheckStatus, text: string): string =>
    colour ? styleText(TONES[status], text, { validateStream: false }) : text;
  const width = Math.max(...report.checks.map(({ name }) => name.length));
  const lines: string[] = [];
  let group = '';
  for (const check of report.checks) {
    if (check.group !== group) lines.push(check.group);
    group = check.group;
    const { status, name, found, remedy } = check;
    lines.push(`  ${tone(status, status.padEnd(7))}  ${name.padEnd(width)}  ${found}`);
    for (const line of remedy?.split('\n') ?? []) lines.push(`      ${line}`);
  }
  return `${[...lines, tone(worstOf(report), summarise(report))].join('\n')}\n`;
}

const worstOf = ({ exit_code }: Report): CheckStatus =>
  exit_code === 0 ? 'ok' : exit_code === 1 ? 'warning' : 'failure';

function summarise({ checks, duration_ms }: Report): string {
  const count = (status: CheckStatus): number => checks.filter((check) => check.status === status).length;
  const plural = (number: number, noun: string): string => `${number} ${noun}${number === 1 ? '' : 's'}`;
  return `${plural(count('failure'), 'failure')}, ${plural(count('warning'), 'warning')}, ${count('ok')} ok, ${count('skipped')} skipped (${duration_ms} ms)`;
}

/** What somebody should do something about. */
export const findTroubles = ({ checks }: Report): Check[] =>
  checks.filter(({ status }) => status === 'warning' || status === 'failure');
