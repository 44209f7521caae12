import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Wakeup } from '../../pipeline/wakeup.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  expect(vi.getTimerCount(), 'no timer is left behind').toBe(0);
  vi.useRealTimers();
});

/** Whether the promise has settled, once everything that is due now has run. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  void promise.then(() => {
    settled = true;
  });
  await vi.advanceTimersByTimeAsync(0);
  return settled;
}

test('a notification ends the wait at once', async () => {
  const wakeup = new Wakeup();
  const wait = wakeup.wait(1_000);
  expect(await isSettled(wait)).toBe(false);
  wakeup.notify();
  expect(await isSettled(wait)).toBe(true);
});

test('a notification that nobody waited for ends the next wait, and only the next', async () => {
  const wakeup = new Wakeup();
  wakeup.notify();
  wakeup.notify();
  expect(await isSettled(wakeup.wait(1_000))).toBe(true);
  const second = wakeup.wait(1_000);
  expect(await isSettled(second)).toBe(false);
  wakeup.notify();
  await second;
});

test('a notification that ended a wait is used up', async () => {
  const wakeup = new Wakeup();
  const first = wakeup.wait(1_000);
  wakeup.notify();
  await first;
  const second = wakeup.wait(1_000);
  expect(await isSettled(second)).toBe(false);
  await vi.advanceTimersByTimeAsync(1_000);
  await second;
});

test('without a notification the wait ends when its time is up, not before', async () => {
  const wakeup = new Wakeup();
  const wait = wakeup.wait(1_000);
  await vi.advanceTimersByTimeAsync(999);
  expect(await isSettled(wait)).toBe(false);
  await vi.advanceTimersByTimeAsync(1);
  expect(await isSettled(wait)).toBe(true);
  // A notification after that belongs to the next wait.
  wakeup.notify();
  expect(await isSettled(wakeup.wait(1_000))).toBe(true);
});
