import { expect, test } from 'vitest';
import { Running } from '../../src/commands/run.ts';
import { testLog } from '../support/pipeline.ts';

/** A part that writes down when it is stopped. */
const partOf = (stopped: string[], name: string) => [name, async () => void stopped.push(name)] as const;

test('parts are stopped in the opposite order, also after one that fails to', async () => {
  const running = new Running(testLog());
  const stopped: string[] = [];
  running.add(...partOf(stopped, 'first'));
  running.add('broken', () => Promise.reject(new Error('cannot stop')));
  running.add(...partOf(stopped, 'last'));
  await running.stop(Promise.resolve());
  expect(stopped).toEqual(['last', 'first']);
});

test('a stop waits for a start that is about to finish: the part that stands on another stops before it', async () => {
  const running = new Running(testLog());
  const stopped: string[] = [];
  const step = Promise.withResolvers<void>();
  const start = async () => {
    running.add(...partOf(stopped, 'connections'));
    await step.promise;
    running.add(...partOf(stopped, 'pipeline'));
  };
  const stop = running.stop(start());
  setTimeout(step.resolve, 50); // The start's own work takes a moment.
  await stop;
  expect(stopped).toEqual(['pipeline', 'connections']);
});

test('what a slow start adds after the stop is stopped too, and the start goes no further', async () => {
  const running = new Running(testLog());
  const stopped: string[] = [];
  const stoppedFirst = Promise.withResolvers<void>();
  let wentOn = false;
  const start = async () => {
    running.add('connections', async () => stoppedFirst.resolve());
    await stoppedFirst.promise; // Longer than a stop waits for it.
    running.add(...partOf(stopped, 'pipeline'));
    wentOn = true;
  };
  const started = start();
  await running.stop(started);
  expect(stopped).toEqual(['pipeline']);
  await expect(started).rejects.toThrow('stopped while starting: pipeline');
  expect(wentOn).toBe(false);
});
