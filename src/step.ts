import type pg from 'pg';
import type { Logger } from './log.ts';
import type { Rest } from './migration-rests.ts';
import { query } from './postgres.ts';
import { LOCK_TIMEOUT_MS, lockTables, type TableLock, withTableLocks } from './table-locks.ts';

/** A part of what `migrate` or `uninstall` does, as it is printed by `--plan` and as it is executed: the same text. */
export interface Step {
  /** What it does, in one line. */
  title: string;
  /** Which tables it locks, how strongly and how long, in words. */
  locks: string;
  /** In order, each as it is sent: one statement, or several that are sent at once. */
  statements: string[];
  /** One transaction, begun by taking these locks. Without it, each statement commits by itself. */
  transaction?: { tables: TableLock[] };
}

/** Before what takes its time and holds up nobody meanwhile. */
export const NO_TIMEOUT = 'set lock_timeout = 0; set statement_timeout = 0';

/** Every statement of a step as it is sent, with those that begin and end its transaction. */
export function stepStatements(step: Step, lockTimeoutMs = LOCK_TIMEOUT_MS): string[] {
  if (step.transaction === undefined) return step.statements;
  return [...lockTables(step.transaction.tables, lockTimeoutMs), ...step.statements, 'commit'];
}

/** The steps as SQL that psql takes: the words are comments. */
export function renderPlan(heading: string[], steps: Step[]): string {
  const parts = steps.map(
    (step) =>
      `${comment(step.title)}${comment(`Locks: ${step.locks}`)}${stepStatements(step).map(terminate).join('')}`,
  );
  return [heading.map(comment).join(''), ...parts].join('\n');
}

const COMMENT_WIDTH = 116;

function comment(text: string): string {
  const lines = [''];
  for (const word of text.split(/\s+/)) {
    const line = lines.at(-1) ?? '';
    if (line.length + word.length > COMMENT_WIDTH) lines.push(word);
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`;
  }
  return lines.map((line) => `-- ${line}\n`).join('');
}

/** A text that ends in a comment would swallow the semicolon. */
function terminate(sql: string): string {
  const text = sql.trimEnd();
  if (text.endsWith(';')) return `${text}\n`;
  return /--[^\n]*$/.test(text) ? `${text}\n;\n` : `${text};\n`;
}

export interface StepContext {
  client: pg.ClientBase;
  log: Logger;
  /** What lets others go first after each step; without it they follow each other. */
  rest?: Rest;
}

/** Executes a step. Throws what PostgreSQL says; of a step that is a transaction, nothing is left then. */
export async function runStep({ client, log, rest }: StepContext, step: Step): Promise<void> {
  let startedAt = performance.now();
  await execute({ client, log }, step, () => {
    startedAt = performance.now();
  });
  await rest?.(performance.now() - startedAt);
}

/** `onAttempt`: what comes before is waiting. */
async function execute(
  { client, log }: { client: pg.ClientBase; log: Logger },
  step: Step,
  onAttempt: () => void,
): Promise<void> {
  if (step.transaction === undefined) {
    for (const statement of step.statements) await query(client, statement);
    return;
  }
  const { tables } = step.transaction;
  await withTableLocks({ client, log }, { what: step.title, tables }, async (lockTimeoutMs) => {
    onAttempt();
    try {
      for (const statement of stepStatements(step, lockTimeoutMs)) await query(client, statement);
    } catch (error) {
      await query(client, 'rollback').catch(() => undefined); // The connection is gone then, and the transaction with it.
      throw error;
    }
  });
}
