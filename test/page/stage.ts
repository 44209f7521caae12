import type { Page } from 'playwright-core';
import { type RunningApi, startApi } from '../../src/api/server.ts';
import { createKey, type Role } from '../../src/store/api-keys.ts';
import { apiContext } from '../api/setup.ts';
import { createScene, type Scene } from '../support/scene.ts';

export interface Stage {
  url: string;
  scene: Scene;
  /** A key of each role; their names are the roles'. */
  keys: Record<Role, string>;
  /** Stops the API; what is answered starts it again at the same address. */
  interrupt(): Promise<() => Promise<void>>;
  stop(): Promise<void>;
}

/** The real API over a real pipeline, with a key for each role. */
export async function startStage(): Promise<Stage> {
  const scene = await createScene();
  let api: RunningApi | undefined;
  try {
    const keys = {
      reader: await makeKey(scene, 'reader'),
      operator: await makeKey(scene, 'operator'),
      admin: await makeKey(scene, 'admin'),
    };
    await scene.start();
    const { pool } = scene.database;
    const context = apiContext({ pool, market: scene.market.market, requireKey: true });
    const serve = (port: number) => startApi(context, { host: '127.0.0.1', port });
    let running = await serve(0);
    const { url } = running;
    api = running;
    return {
      url,
      scene,
      keys,
      interrupt: async () => {
        await running.stop();
        return async () => {
          running = await serve(Number(new URL(url).port));
        };
      },
      stop: async () => {
        await running.stop();
        await scene.stop();
      },
    };
  } catch (error) {
    await api?.stop();
    await scene.stop();
    throw error;
  }
}

async function makeKey(scene: Scene, role: Role): Promise<string> {
  const made = { name: `the ${role}`, role, expiresInSeconds: undefined, createdBy: 'test' };
  const key = await createKey(scene.database.pool, made);
  if (key === undefined) throw new Error(`there is a key "the ${role}" already`);
  return key;
}

/** Logs in as somebody would, and waits for the first figures. */
export async function logIn(page: Page, { url, key }: { url: string; key: string }): Promise<void> {
  await page.goto(url);
  await page.getByLabel('API key').fill(key);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.locator('#verdict[data-level]:not([data-level="idle"])').waitFor();
}
