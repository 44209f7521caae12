import fc from 'fast-check';
import { type Command, type HistoryEvent, historyArbitrary } from '../oracle/commands.ts';
import { idOf } from '../oracle/statements.ts';
import { TABLES, type TableName } from '../oracle/tables.ts';
import type { Random } from '../support/random.ts';

/** What the application does in one transaction, or in two that take turns. */
export type Work = Extract<HistoryEvent, { event: 'transaction' | 'two transactions' }>;

/** Twelve hex digits that tell one world's rows from another's. */
export type Nonce = string;

/** The bookings that a world may have. */
export const bookingIdsOf = (nonce: Nonce): string[] =>
  Array.from({ length: TABLES.storage_bookings.rows }, (_, row) => idOf('storage_bookings', row, nonce));

/** Commands that reach beyond their own world are kept this rarely. */
const KEEP_UPDATE_OF_ALL = 0.05;

/** Transactions drawn at once: drawing has a cost of its own. */
const HISTORIES_AT_ONCE = 20;

/** Where `appends.ts` has its lists, and what they hang on: nobody else may write there. */
const LISTS: ReadonlySet<TableName> = new Set([
  'crop_inspections',
  'pest_detections',
  'storage_bookings',
  'storage_locations',
]);

/** It changes every row of its table. */
const isOfAll = (command: Command): command is Extract<Command, { do: 'set' | 'truncate' }> =>
  command.do === 'truncate' || (command.do === 'set' && command.row === 'all');

/** An endless supply of work, decided by the random stream: that of the random histories, without clock and settling. */
export function* drawWork(random: Random): Generator<Work, never> {
  for (;;) {
    const histories = fc.sample(historyArbitrary(), {
      seed: random.below(2 ** 31),
      numRuns: HISTORIES_AT_ONCE,
    });
    for (const event of histories.flat()) {
      if (event.event === 'clock' || event.event === 'settle') continue;
      const commands =
        event.event === 'transaction'
          ? event.steps.flatMap((step) => (step.do === 'savepoint' ? step.commands : [step]))
          : event.commands.flat();
      const reachesAll = commands.filter(isOfAll);
      if (reachesAll.some(({ table }) => LISTS.has(table))) continue;
      // It leads to a recompute of everything, which would mend what was lost before it.
      if (commands.some((command) => command.do === 'truncate')) continue;
      if (reachesAll.length > 0 && !random.chance(KEEP_UPDATE_OF_ALL)) continue;
      yield event;
    }
  }
}
