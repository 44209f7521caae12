import { stripVTControlCharacters } from 'node:util';
import { expect, test } from 'vitest';
import { describeStatus } from '../../src/commands/status.ts';
import type { Status } from '../../src/store/status.ts';

const measured = (stage: 'snapshot' | 'listing', minutes: 1 | 15 | 60, count: number) => ({
  stage,
  window_minutes: minutes,
  count,
  p50_ms: count === 0 ? null : 4.2,
  p95_ms: count === 0 ? null : 9,
  p99_ms: count === 0 ? null : 12.6,
  max_ms: count === 0 ? null : 31.7,
});

const WELL: Status = {
  consumer: { state: 'active', holder: 'host-1:4711' },
  paused: null,
  slot: {
    name: 'market_sync',
    state: 'ok',
    active: true,
    active_pid: 99,
    wal_status: 'reserved',
    retained_wal_bytes: 16_800_000,
    safe_wal_bytes: null,
  },
  checkpoint: {
    commit_lsn: '0/1A2B3C4D',
    advanced_at: '2026-11-24T23:00:00.000Z',
    lag_bytes: 512,
    lag_seconds: 0,
    epoch: 1,
    malformed_messages: 0,
  },
  publisher: { claims: 0, last_confirmed_at: '2026-11-24T23:00:00.000Z', behind_seconds: null },
  snapshots: {
    total: 1234,
    on_market: 1000,
    ended: 234,
    to_publish: 0,
    parked: 0,
    held: 0,
    due_for_refresh: 0,
  },
  resync: null,
  versions: { migration: '012_create_views.sql', postgres: '18.4', pg_boss: 46 },
  queue: [
    { state: 'to_publish', count: 0, oldest_at: null, oldest_seconds: null },
    { state: 'parked', count: 0, oldest_at: null, oldest_seconds: null },
  ],
  latency: [
    ...([1, 15, 60] as const).map((minutes) => measured('snapshot', minutes, minutes === 1 ? 0 : 7)),
    ...([1, 15, 60] as const).map((minutes) => measured('listing', minutes, 0)),
  ],
};

const ILL: Status = {
  ...WELL,
  consumer: { state: 'absent', holder: null },
  paused: { at: '2026-11-24T22:00:00.000Z', by: 'ana', reason: 'MongoDB is being upgraded' },
  slot: { ...WELL.slot, state: 'filling', active: false, safe_wal_bytes: 5 * 1024 ** 3 },
  checkpoint: { ...WELL.checkpoint, lag_bytes: 3 * 1024 ** 2, lag_seconds: 4_000 },
  publisher: { claims: 2, last_confirmed_at: null, behind_seconds: 90.04 },
  snapshots: {
    total: 1234,
    on_market: 997,
    ended: 234,
    to_publish: 17,
    parked: 2,
    held: 3,
    due_for_refresh: 1,
  },
  resync: {
    id: 3,
    reason: 'windows were changed',
    phase: 'bookings',
    bookings_done: 500,
    requested_at: '2026-11-24T22:00:00.000Z',
  },
  queue: [
    { state: 'waiting_for_retry', count: 17, oldest_at: '2026-11-24T20:00:00.000Z', oldest_seconds: 10_900 },
    { state: 'parked', count: 2, oldest_at: '2026-11-20T22:00:00.000Z', oldest_seconds: 350_000 },
  ],
};

test('status says in a few lines that all is well', () => {
  expect(describeStatus(WELL, { colour: false })).toBe(
    [
      'consumer    active (host-1:4711)',
      'slot        market_sync, ok, streaming, WAL reserved, 16.0 MB retained',
      'checkpoint  0/1A2B3C4D, 0 s and 512 B behind, epoch 1, 0 malformed messages',
      'publisher   0 in work, last confirmed in the minute of 2026-11-24T23:00Z',
      'snapshots   1234 in all, 1000 on the market, 234 ended, 0 to publish, 0 parked, 0 held, 0 due for refresh',
      'latency     commit to snapshot: p50 4.2 ms, p95 9 ms, p99 12.6 ms, max 31.7 ms (7 in 15 min)',
      '            commit to listing: nothing measured within an hour',
      'resync      none',
      'versions    012_create_views.sql, PostgreSQL 18.4, pg-boss 46',
      '',
    ].join('\n'),
  );
});

test('status says all that is not well, in one screen', () => {
  const text = describeStatus(ILL, { colour: false });
  expect(text.split('\n').length).toBeLessThan(24);
  for (const part of [
    'consumer    absent\n',
    'paused      since 2026-11-24T22:00:00.000Z by ana: MongoDB is being upgraded\n',
    'filling, not streaming, WAL reserved, 16.0 MB retained, 5.0 GB until it is in danger\n',
    '67 min and 3.0 MB behind',
    'publisher   2 in work, last confirmed not within a day, 90 s behind\n',
    '17 to publish, 2 parked, 3 held, 1 due for refresh\n',
    'waiting for retry: 17, the oldest for 3 h\n',
    'parked: 2, the oldest for 4 days\n',
    'resync      windows were changed: bookings, 500 bookings done\n',
  ]) {
    expect(text).toContain(part);
  }
});

test('status says the same with colour and without, and a slot that is gone is red', () => {
  for (const status of [WELL, ILL]) {
    const coloured = describeStatus(status, { colour: true });
    const plain = describeStatus(status, { colour: false });
    expect(coloured).not.toBe(plain);
    expect(stripVTControlCharacters(coloured)).toBe(plain);
    expect(stripVTControlCharacters(plain)).toBe(plain);
  }
  const missing: Status = { ...WELL, slot: { ...WELL.slot, state: 'missing', active: false } };
  expect(describeStatus(missing, { colour: true })).toContain('market_sync, \u001b[31mmissing\u001b[39m\n');
});

test('status of a database on which nothing has run yet says so', () => {
  const text = describeStatus(
    {
      ...WELL,
      consumer: { state: 'absent', holder: null },
      slot: {
        name: null,
        state: 'none',
        active: false,
        active_pid: null,
        wal_status: null,
        retained_wal_bytes: null,
        safe_wal_bytes: null,
      },
      checkpoint: { ...WELL.checkpoint, commit_lsn: null, lag_bytes: null, lag_seconds: null },
      versions: { ...WELL.versions, pg_boss: null },
    },
    { colour: false },
  );
  expect(text).toContain('slot        none yet, none\n');
  expect(text).toContain('checkpoint  none yet, unknown and unknown behind');
  expect(text).toContain('pg-boss not installed\n');
});
