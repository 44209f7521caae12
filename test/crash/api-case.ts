import { expect } from 'vitest';
import type { CrashPoint } from '../../src/crash-point.ts';
import { until } from '../support/pipeline.ts';
import { type Actor, type LostRequest, untilStopped, within } from './actor.ts';
import { change, createFarm } from './farm.ts';
import { type Action, expectRight } from './pipeline-case.ts';
import { type Stage, urlOf } from './stage.ts';
import { startWatcher } from './watcher.ts';

export interface ApiCase {
  point: CrashPoint;
  action: Action;
  call: string;
  request: LostRequest | undefined;
}

const CALL_TIMEOUT_MS = 30_000;

/** Crashes the API under a manual call beside a pipeline that works; the caller asks again until it is answered. */
export async function runApiCase(stage: Stage, { point, action, call, request }: ApiCase): Promise<void> {
  await stage.pipeline();
  const api = await stage.startApi();
  const farm = await createFarm(stage, 3);
  const watcher = startWatcher(stage.scene.market.market, farm);
  try {
    const path = `/storage-guard/snapshots/${farm.bookingIds[0]}/${call}`;
    const crash = await api.arm(`${point}:${action}`);
    const lost = action === 'reply_lost' && request !== undefined ? api.loseReply(request) : undefined;
    const answered = post(api, path);
    let server = api;
    switch (action) {
      case 'kill':
        expect((await within('the process is killed', api.service.exited)).signal).toBe('SIGKILL');
        expect(await answered).toBe('no answer');
        server = await stage.startApi();
        break;
      case 'hang':
        await within('the crash point is reached', crash.reached);
        await untilStopped(api.service);
        server = await stage.startApi();
        break;
      case 'error':
        await within('the crash point is reached', crash.reached);
        expect(await answered).toBe(503);
        break;
      case 'reply_lost':
        await within('the crash point is reached', crash.reached);
        crash.proceed();
        await within('the reply is lost', lost ?? Promise.reject(new Error('no request')));
        expect(await answered).toBe(503);
        break;
    }
    await change(stage, farm);
    await until('a call is answered', async () => (await post(server, path)) === 200);
    if (action === 'hang') {
      await change(stage, farm);
      api.service.signal('SIGCONT');
      // By then it has taken longer than a caller is kept waiting.
      expect([200, 503]).toContain(await answered);
    }
    await change(stage, farm);
    for (const actor of new Set([api, server])) await actor.stop();
    await stage.scene.settle();
  } finally {
    await watcher.stop();
  }
  await expectRight(stage, farm);
}

async function post(api: Actor, path: string): Promise<number | 'no answer'> {
  try {
    const signal = AbortSignal.timeout(CALL_TIMEOUT_MS);
    const response = await fetch(urlOf(api) + path, { method: 'POST', signal });
    await response.arrayBuffer();
    return response.status;
  } catch {
    return 'no answer';
  }
}
