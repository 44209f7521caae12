import { expect, test } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { CRASH_POINTS, crashPoint, parseCrashSetting } from '../../src/crash-point.ts';
import { SettingsError } from '../../src/errors.ts';
import { startService } from '../support/service.ts';

const ORDER = 'consumer.reconciled:kill';

test('crashes can be asked for in tests only: anything but NODE_ENV=test refuses, and says what to do', () => {
  for (const NODE_ENV of [undefined, '', 'production', 'development', 'TEST']) {
    const environment = { TEST_CRASH_POINT: ORDER, ...(NODE_ENV === undefined ? {} : { NODE_ENV }) };
    expect(() => loadConfig(environment)).toThrow(SettingsError);
    expect(() => loadConfig(environment)).toThrow(
      'TEST_CRASH_POINT: makes the program crash, for its own tests, and needs NODE_ENV=test. Unset it.',
    );
  }
  expect(loadConfig({ NODE_ENV: 'production' }).crashSetting).toBeUndefined();
  expect(loadConfig({ NODE_ENV: 'production', TEST_CRASH_POINT: '' }).crashSetting).toBeUndefined();
  expect(loadConfig({ NODE_ENV: 'test', TEST_CRASH_POINT: ORDER }).crashSetting).toEqual({
    point: 'consumer.reconciled',
    action: 'kill',
    nth: 1,
  });
});

test('the program itself refuses to crash in production, with exit code 2 and before anything else', async () => {
  const service = startService('pipeline', { TEST_CRASH_POINT: ORDER, NODE_ENV: 'production' });
  expect(await service.exited).toEqual({ code: 2, signal: null });
  expect(service.log.map((line) => line.msg)).toEqual([expect.stringContaining('TEST_CRASH_POINT: makes')]);
});

test('a crash that nobody can make is refused by name', () => {
  for (const text of [
    'kill',
    'consumer.reconciled',
    'consumer.unheard_of:kill',
    '__proto__:kill',
    'consumer.reconciled:explode',
    'consumer.reconciled:kill:0',
    'consumer.reconciled:kill:x',
    'consumer.reconciled:kill:1:1',
    'consumer.reconciled:reply_lost', // No request follows there.
  ]) {
    expect(() => parseCrashSetting(text)).toThrow(SettingsError);
    expect(() => parseCrashSetting(text)).toThrow(`TEST_CRASH_POINT=${text}: must be "on" or`);
  }
  expect(parseCrashSetting('on')).toBe('on');
  expect(parseCrashSetting('publisher.written:reply_lost:3')).toEqual({
    point: 'publisher.written',
    action: 'reply_lost',
    nth: 3,
  });
});

test('no crash point does anything unless a test has asked for it', () => {
  for (const point of Object.keys(CRASH_POINTS)) {
    expect(crashPoint(point as keyof typeof CRASH_POINTS)).toBeUndefined();
  }
});

test('each crash point says what a crash there endangers, and no two the same', () => {
  const dangers = Object.values(CRASH_POINTS).map((facts) => facts.endangers);
  for (const danger of dangers) expect(danger).toMatch(/^\S.{15,}\S$/);
  expect(new Set(dangers).size).toBe(dangers.length);
});
