import fc from 'fast-check';
import { type Cell, TABLE_NAMES, TABLES, type TableName } from './tables.ts';

/** One SQL statement (two for `replace`) of the application. Plain data: it can be printed, replayed and shrunk. */
export type Command =
  | {
      do: 'put';
      table: TableName;
      row: number;
      mode: 'insert' | 'upsert' | 'merge' | 'replace';
      values: Record<string, Cell>;
    }
  | { do: 'set'; table: TableName; row: number | 'all'; values: Record<string, Cell> }
  | { do: 'delete'; table: TableName; row: number }
  | { do: 'delete children'; table: TableName; column: string; parent: TableName; row: number }
  | { do: 'load readings'; tag: number; sensor: number; count: number; startMs: number; stepMs: number }
  | { do: 'load detections'; tag: number; location: number; count: number; startMs: number; stepMs: number }
  | { do: 'rename booking'; row: number; to: number }
  | { do: 'truncate'; table: 'sensor_readings' | 'pest_detections' };

type Step = Command | { do: 'savepoint'; commands: Command[]; kept: boolean };

/** What happens, one after the other. */
export type HistoryEvent =
  | { event: 'transaction'; steps: Step[]; committed: boolean }
  | {
      event: 'two transactions';
      commands: [Command[], Command[]];
      /** Which of the two runs its next command; what is left over runs at the end. */
      turns: (0 | 1)[];
      committed: [boolean, boolean];
      firstToEnd: 0 | 1;
    }
  | { event: 'clock'; ms: number }
  | { event: 'settle' };

export type History = HistoryEvent[];

const cellsOf = (table: TableName, names: string[]) =>
  Object.fromEntries(
    names.flatMap((name) => {
      const column = TABLES[table].columns[name];
      return column === undefined ? [] : [[name, column.cell]];
    }),
  );

const put = (table: TableName): fc.Arbitrary<Command> =>
  fc.record({
    do: fc.constant('put' as const),
    table: fc.constant(table),
    row: fc.nat(TABLES[table].rows - 1),
    mode: fc.constantFrom('insert', 'upsert', 'upsert', 'merge', 'replace'),
    values: fc.record(cellsOf(table, Object.keys(TABLES[table].columns))),
  });

/** One to three columns: a change of everything at once hides what each change does. */
function set(table: TableName): fc.Arbitrary<Command> {
  const { columns, rows } = TABLES[table];
  const names = Object.keys(columns);
  const shared = names.filter((name) => columns[name]?.unique !== true);
  const values = (from: string[]) =>
    fc
      .uniqueArray(fc.constantFrom(...from), { minLength: 1, maxLength: 3 })
      .chain((chosen) => fc.record(cellsOf(table, chosen)));
  const command = { do: fc.constant('set' as const), table: fc.constant(table) };
  return fc.oneof(
    { arbitrary: fc.record({ ...command, row: fc.nat(rows - 1), values: values(names) }), weight: 8 },
    {
      arbitrary: fc.record({ ...command, row: fc.constant('all' as const), values: values(shared) }),
      weight: 1,
    },
  );
}

const remove = (table: TableName): fc.Arbitrary<Command> =>
  fc.record({
    do: fc.constant('delete' as const),
    table: fc.constant(table),
    row: fc.nat(TABLES[table].rows - 1),
  });

const bookingStatus = TABLES.storage_bookings.columns.booking_status?.cell ?? fc.constant({ literal: null });

const endOrRevive: fc.Arbitrary<Command> = fc.record({
  do: fc.constant('set' as const),
  table: fc.constant('storage_bookings' as const),
  row: fc.nat(TABLES.storage_bookings.rows - 1),
  values: fc.record({ booking_status: bookingStatus }),
});

const removeChildren: fc.Arbitrary<Command> = fc
  .constantFrom(
    ...TABLE_NAMES.flatMap((table) =>
      Object.entries(TABLES[table].columns).flatMap(([column, { parent }]) =>
        parent === undefined ? [] : [{ do: 'delete children' as const, table, column, parent }],
      ),
    ),
  )
  .chain((command) => fc.nat(TABLES[command.parent].rows - 1).map((row) => ({ ...command, row })));

const bulk = {
  tag: fc.nat(99),
  count: fc.constantFrom(50, 120, 500),
  startMs: fc.constantFrom(0, -3_600_000, -7 * 86_400_000),
  stepMs: fc.constantFrom(0, 1, 60_000, -60_000),
};

const bulkCommand: fc.Arbitrary<Command> = fc.oneof(
  fc.record({ do: fc.constant('load readings' as const), sensor: fc.nat(5), ...bulk }),
  fc.record({
    do: fc.constant('load detections' as const),
    location: fc.nat(3),
    ...bulk,
    count: fc.constantFrom(20, 50),
  }),
);

const rename: fc.Arbitrary<Command> = fc.record({
  do: fc.constant('rename booking' as const),
  row: fc.nat(TABLES.storage_bookings.rows - 1),
  to: fc.nat(TABLES.storage_bookings.rows - 1),
});

const truncate: fc.Arbitrary<Command> = fc
  .constantFrom('sensor_readings' as const, 'pest_detections' as const)
  .map((table) => ({ do: 'truncate' as const, table }));

/** Commands that lock single rows only: two open transactions seldom stand in each other's way. */
const rowCommand: fc.Arbitrary<Command> = fc.oneof(
  ...TABLE_NAMES.flatMap((table) => {
    const { weight } = TABLES[table];
    return [
      { arbitrary: put(table), weight: 4 * weight },
      { arbitrary: set(table), weight: 4 * weight },
      { arbitrary: remove(table), weight },
    ];
  }),
  { arbitrary: endOrRevive, weight: 16 },
);

const command: fc.Arbitrary<Command> = fc.oneof(
  { arbitrary: rowCommand, weight: 30 },
  { arbitrary: removeChildren, weight: 2 },
  { arbitrary: bulkCommand, weight: 2 },
  { arbitrary: rename, weight: 1 },
  { arbitrary: truncate, weight: 1 },
);

const usually = fc.constantFrom(true, true, true, true, false);

const singleCommand: fc.Arbitrary<HistoryEvent> = command.map((only) => ({
  event: 'transaction',
  steps: [only],
  committed: true,
}));

const transaction: fc.Arbitrary<HistoryEvent> = fc.record({
  event: fc.constant('transaction' as const),
  steps: fc.array(
    fc.oneof(
      { arbitrary: command, weight: 4 },
      {
        arbitrary: fc.record({
          do: fc.constant('savepoint' as const),
          commands: fc.array(command, { minLength: 1, maxLength: 3 }),
          kept: fc.boolean(),
        }),
        weight: 1,
      },
    ),
    { minLength: 1, maxLength: 5 },
  ),
  committed: usually,
});

const twoTransactions: fc.Arbitrary<HistoryEvent> = fc.record({
  event: fc.constant('two transactions' as const),
  commands: fc.tuple(
    fc.array(rowCommand, { minLength: 1, maxLength: 3 }),
    fc.array(rowCommand, { minLength: 1, maxLength: 3 }),
  ),
  turns: fc.array(fc.constantFrom(0 as const, 1 as const), { maxLength: 6 }),
  committed: fc.tuple(usually, usually),
  firstToEnd: fc.constantFrom(0 as const, 1 as const),
});

/** Among them the exact way to a border of `OFFSETS_MS`, and steps over a day's end (histories start at noon UTC). */
const clockStep: fc.Arbitrary<HistoryEvent> = fc
  .constantFrom(
    1,
    1_000,
    60_000,
    3_540_000,
    3_600_000,
    43_199_999,
    43_200_000,
    86_400_000,
    7 * 86_400_000 - 60_000,
    7 * 86_400_000,
    8 * 86_400_000,
  )
  .map((ms) => ({ event: 'clock', ms }));

/** Random histories over all tables. Which rows exist at the start: `GENESIS` in `statements.ts`. */
export const historyArbitrary = (eventsMax = 24): fc.Arbitrary<History> =>
  fc.array(
    fc.oneof(
      { arbitrary: singleCommand, weight: 7 },
      { arbitrary: transaction, weight: 4 },
      { arbitrary: twoTransactions, weight: 2 },
      { arbitrary: clockStep, weight: 3 },
      { arbitrary: fc.constant<HistoryEvent>({ event: 'settle' }), weight: 3 },
    ),
    { minLength: 2, maxLength: eventsMax, size: 'max' },
  );
