import { expect, test } from 'vitest';
import type { ExpectedContent } from '../support/oracle.ts';
import { PossibleSnapshots } from './possible-snapshots.ts';

/** Only the fields that matter here: one of the booking's own, one that freezes, the status. */
const content = (crop_type: string, pest_count: number, status: ExpectedContent['status'] = 'published') =>
  ({ crop_type, pest_count, status }) as ExpectedContent;

const shown = (states: readonly (ExpectedContent | null)[]) =>
  states.map((state) => state && `${state.crop_type} ${state.pest_count} ${state.status}`).sort();

test('a live booking has one possible state once settled', () => {
  const possible = new PossibleSnapshots([null]);
  possible.observe(content('wheat', 1));
  possible.observe(content('wheat', 2));
  expect(shown(possible.settle(content('wheat', 2)))).toEqual(['wheat 2 published']);
});

test('an end may be seen at any moment from then on, and what froze before it is not possible', () => {
  const possible = new PossibleSnapshots([content('wheat', 1)]);
  possible.observe(content('wheat', 2));
  possible.observe(content('wheat', 2, 'completed'));
  possible.observe(content('rice', 3, 'completed'));
  expect(shown(possible.settle(content('rice', 4, 'completed')))).toEqual([
    'rice 2 completed',
    'rice 3 completed',
    'rice 4 completed',
  ]);
});

test('a deleted booking keeps any state it had while it was there', () => {
  const possible = new PossibleSnapshots([content('wheat', 1)]);
  possible.observe(content('wheat', 2));
  possible.observe(null);
  expect(shown(possible.settle(null))).toEqual(['wheat 1 withdrawn', 'wheat 2 withdrawn']);
});

test('a booking created and ended between two settle points may have a snapshot or none, and keeps to it', () => {
  const possible = new PossibleSnapshots([null]);
  possible.observe(content('wheat', 1));
  possible.observe(content('wheat', 1, 'withdrawn'));
  expect(shown(possible.settle(content('wheat', 1, 'withdrawn')))).toEqual([null, 'wheat 1 withdrawn']);
  expect(new PossibleSnapshots([null]).settle(content('wheat', 1, 'withdrawn'))).toEqual([null]);
});

test('a booking back to life is computed afresh', () => {
  const possible = new PossibleSnapshots([content('wheat', 1, 'completed')]);
  expect(shown(possible.settle(content('rice', 7)))).toEqual(['rice 7 published']);
});
