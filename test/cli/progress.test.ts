import { expect, test } from 'vitest';
import { describeEnd, describeProgress, toProgressLine } from '../../src/commands/progress.ts';
import type { BackfillProgress } from '../../src/store/backfills.ts';

const HALF: BackfillProgress = {
  state: 'running',
  total: 50_000,
  done: 24_990,
  failed: 10,
  rate_per_second: 5_123.4,
  eta_seconds: 5,
  seconds: 5,
  error: null,
  pause_reason: null,
  pipeline_alive: true,
  to_publish: 0,
};

test('a wide terminal shows a bar, counts, rate, time left and what is parked', () => {
  expect(describeProgress(HALF, 120)).toBe(
    '[###############--------------] running   50%  25,000/50,000  5,123/s  5 s left  10 parked',
  );
});

test('a narrow terminal loses what matters least, and the line is never as wide as the terminal', () => {
  for (let columns = 0; columns <= 200; columns += 1) {
    expect(describeProgress(HALF, columns).length).toBeLessThanOrEqual(Math.max(columns - 1, 0));
  }
  expect(describeProgress(HALF, 40)).toBe(' 50%  25,000/50,000  5,123/s  5 s left');
  expect(describeProgress(HALF, 30)).toBe(' 50%  5,123/s  5 s left');
  expect(describeProgress(HALF, 16)).toBe(' 50%  5 s left');
  expect(describeProgress(HALF, 5)).toBe('50%');
});

test('before it begins, and while it is paused, it says so', () => {
  const queued: BackfillProgress = {
    ...HALF,
    state: 'queued',
    total: null,
    done: 0,
    failed: 0,
    rate_per_second: null,
    eta_seconds: null,
  };
  expect(describeProgress(queued, 80)).toMatch(/^\[-+\] queued +0%$/);
  expect(describeProgress({ ...HALF, pause_reason: 'upgrade' }, 120)).toContain('paused');
});

test('more bookings than were counted at the beginning are 100 %, not more', () => {
  const grown = { ...HALF, done: 50_100, failed: 0 };
  expect(describeProgress(grown, 120)).toMatch(/^\[#{29}\] running {2}100% {2}50,100\/50,100/);
});

test('a line of JSON has the figures that scripts ask for', () => {
  expect(JSON.parse(toProgressLine('an-id', HALF))).toEqual({
    id: 'an-id',
    state: 'running',
    total: 50_000,
    done: 24_990,
    failed: 10,
    rate_per_second: 5_123.4,
    eta_seconds: 5,
    paused: false,
    error: null,
  });
});

test('the end says how fast it was, what cannot be processed, and what is still to be published', () => {
  const done: BackfillProgress = { ...HALF, state: 'done', done: 49_990, seconds: 10, to_publish: 3 };
  expect(describeEnd(done)).toBe(
    'done: 49,990 bookings in 10 s (4,999/s)\n' +
      '10 cannot be processed: select * from market_sync.parked\n' +
      '3 snapshots are still to be published, which a running pipeline does',
  );
  expect(describeEnd({ ...HALF, state: 'failed', failed: 0, error: 'no such column' })).toBe(
    'failed after 24,990 bookings in 5 s (4,998/s): no such column',
  );
});
