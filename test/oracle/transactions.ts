import type { HistoryEvent } from './commands.ts';
import type { Session } from './session.ts';

/** Runs the steps of one transaction, savepoints included, and ends it. `session` has begun. */
export async function runTransaction(
  session: Session,
  event: Extract<HistoryEvent, { event: 'transaction' }>,
): Promise<void> {
  for (const step of event.steps) {
    if (step.do !== 'savepoint') {
      await session.command(step);
      continue;
    }
    await session.run({ text: 'savepoint here', values: [] });
    for (const command of step.commands) await session.command(command);
    await session.run({ text: step.kept ? 'release here' : 'rollback to here', values: [] });
  }
  await session.end(event.committed);
}

/** Runs two transactions whose commands take turns. Whatever happens, neither session keeps a lock afterwards. */
export async function runTwoTransactions(
  sessions: readonly [Session, Session],
  event: Extract<HistoryEvent, { event: 'two transactions' }>,
  afterEnd: () => Promise<void> = async () => undefined,
): Promise<void> {
  try {
    const next = [0, 0];
    // Turns that are left out come at the end, and those of a transaction that is through do nothing.
    for (const turn of [...event.turns, 0, 0, 0, 1, 1, 1] as const) {
      const command = event.commands[turn][next[turn] ?? 0];
      next[turn] = (next[turn] ?? 0) + 1;
      if (command !== undefined) await sessions[turn].command(command);
    }
    for (const turn of event.firstToEnd === 0 ? ([0, 1] as const) : ([1, 0] as const)) {
      await sessions[turn].end(event.committed[turn]);
      await afterEnd();
    }
  } finally {
    for (const session of sessions) session.abandon();
  }
}
