import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApi } from '../../src/api/server.ts';
import { createKey } from '../../src/store/api-keys.ts';
import { createTestApi, insertBooking } from '../api/setup.ts';
import { until } from '../support/pipeline.ts';
import { openBrowser, openPage, withoutBrowser } from './browser.ts';
import { logIn, type Stage, startStage } from './stage.ts';

describe.skipIf(withoutBrowser)('the session of the page', () => {
  let stage: Stage;
  let browser: Browser;
  beforeAll(async () => {
    browser = await openBrowser();
    stage = await startStage();
  });
  afterAll(async () => {
    await browser?.close();
    await stage?.stop();
  });

  const keptKeys = (page: Page): Promise<unknown> => page.evaluate('JSON.stringify({...sessionStorage})');

  test('a wrong key is refused with a reason, the right one opens the console, and logging out forgets it', async () => {
    const { page, complaints, close } = await openPage(browser);
    await page.goto(stage.url);
    await page.getByLabel('API key').fill('ms-nobody_wrong');
    await page.getByRole('button', { name: 'Log in' }).click();
    await page.getByText('This key is not known here').waitFor();
    expect(await page.locator('#console').isVisible()).toBe(false);
    expect(await keptKeys(page)).toBe('{}');
    // The browser itself says on its console that the API answered 401. Nothing else may be there.
    expect(complaints.splice(0)).toEqual([expect.stringMatching(/401.*\/session$/)]);

    await logIn(page, { url: stage.url, key: stage.keys.operator });
    expect(await page.locator('#who').textContent()).toBe('the operatoroperator');
    await page.reload();
    await page.locator('#verdict[data-level="ok"]').waitFor();

    await page.getByRole('button', { name: 'Log out' }).click();
    await page.getByText('You are logged out.').waitFor();
    expect(await keptKeys(page)).toBe('{}');
    await page.reload();
    await page.getByLabel('API key').waitFor();
    expect(await page.locator('#console').isVisible()).toBe(false);
    expect(complaints).toEqual([]);
    await close();
  });

  test('a key that ends while the page is open leads back to the login with a reason', async () => {
    const { pool } = stage.scene.database;
    const made = { name: 'short', role: 'reader' as const, expiresInSeconds: 4, createdBy: 'test' };
    const key = (await createKey(pool, made)) ?? '';
    const { page, close } = await openPage(browser);
    await logIn(page, { url: stage.url, key });
    const reason = page.getByText('The session has ended: the key is no longer valid');
    await until('the login asks again', async () => {
      if (await reason.isVisible()) return true;
      const text = page.getByLabel('Find a booking');
      await text.fill(`${Math.random()}`, { timeout: 500 }).catch(() => undefined);
      await text.press('Enter', { timeout: 500 }).catch(() => undefined);
      return reason.isVisible();
    });
    expect(await keptKeys(page)).toBe('{}');
    await close();
  });

  test('without a key nothing is offered but the login where one is needed', async () => {
    const { page, complaints, close } = await openPage(browser);
    await page.goto(stage.url);
    await page.getByLabel('API key').waitFor();
    expect(await page.getByRole('button', { name: 'Continue without a key' }).isVisible()).toBe(false);
    expect(complaints).toEqual([]);
    await close();
  });

  test('where no key is needed the page offers to go on without one, until there is a key', async () => {
    const open = await createTestApi();
    const served = await startApi(open.ctx, { host: '127.0.0.1', port: 0 });
    const { page, complaints, close } = await openPage(browser);
    const answered = Promise.withResolvers<void>();
    await page.route('**/session', async (route) => {
      await answered.promise;
      await route.continue();
    });
    const asked = page.waitForRequest('**/session');
    await page.goto(served.url);
    await asked;
    // The form is shown once, with the button: what pops in late moves what is about to be pressed.
    expect(await page.getByLabel('API key').isVisible()).toBe(false);
    answered.resolve();
    await page.getByLabel('API key').waitFor();
    expect(await page.getByRole('button', { name: 'Continue without a key' }).isVisible()).toBe(true);
    await page.getByRole('button', { name: 'Continue without a key' }).click();
    await page.locator('#verdict[data-level="bad"]').getByText('No consumer is active').waitFor();
    expect(await page.locator('#who').textContent()).toBe('localadmin');
    await page.reload(); // The choice is kept, as a key would be.
    await page.locator('#verdict[data-level="bad"]').waitFor();
    expect(complaints).toEqual([]);

    await page.getByRole('button', { name: 'Log out' }).click();
    await page.getByRole('button', { name: 'Continue without a key' }).waitFor();
    const made = { name: 'first', role: 'admin' as const, expiresInSeconds: undefined, createdBy: 'test' };
    await createKey(open.database.pool, made);
    await until('the key is needed', async () => (await fetch(`${served.url}/session`)).status === 401);
    await page.reload();
    await page.getByLabel('API key').waitFor();
    await page.waitForLoadState('networkidle');
    expect(await page.getByRole('button', { name: 'Continue without a key' }).isVisible()).toBe(false);
    await close();
    await served.stop();
    await open.drop();
  });

  test('login, search and the way to a booking need no mouse', async () => {
    const { bookingId } = await insertBooking(stage.scene.database.pool, { cropType: 'Keyboard barley' });
    await stage.scene.settle();
    const { page, complaints, close } = await openPage(browser);
    await page.goto(stage.url);
    await page.keyboard.type(stage.keys.reader); // The field has the focus.
    await page.keyboard.press('Enter');
    await page.locator('#verdict[data-level="ok"]').waitFor();

    await page.keyboard.press('Tab');
    const skip = page.getByRole('link', { name: 'Skip to the content' });
    expect(await page.evaluate('document.activeElement.textContent')).toBe('Skip to the content');
    expect((await skip.boundingBox())?.y).toBeGreaterThanOrEqual(0);

    await page.keyboard.press('/');
    await page.keyboard.type('Keyboard barley');
    await page.keyboard.press('Enter');
    await page.getByText('1 for crop “Keyboard barley”.').waitFor();
    await page.keyboard.press('Tab'); // from the heading, which has the focus, to the way back
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: `Booking ${bookingId}` }).waitFor();
    await page.locator('#trace tbody tr').first().waitFor();
    expect(await page.evaluate('document.activeElement.id')).toBe('booking-title');
    await skip.focus();
    await page.keyboard.press('Enter');
    expect(await page.evaluate('document.activeElement.id')).toBe('content');
    expect(await page.getByRole('heading', { name: `Booking ${bookingId}` }).isVisible()).toBe(true);
    expect(complaints).toEqual([]);
    await close();
  });

  test('figures that are no longer live say so, and are live again by themselves', async () => {
    const { page, close } = await openPage(browser);
    await logIn(page, { url: stage.url, key: stage.keys.reader });
    const goOn = await stage.interrupt();
    await page.locator('#live').getByText('Not live').waitFor();
    await page.locator('#verdict[data-level="bad"]').getByText('These figures are').waitFor();
    await goOn();
    await page.locator('#live').getByText('Live', { exact: true }).waitFor({ timeout: 30_000 });
    await page.locator('#verdict[data-level="ok"]').waitFor();
    await close();
  });

  test('a reader is offered nothing that a reader may not do', async () => {
    const { bookingId } = await insertBooking(stage.scene.database.pool);
    await stage.scene.settle();
    const { page, complaints, close } = await openPage(browser);
    await logIn(page, { url: stage.url, key: stage.keys.reader });
    const buttons = (): Promise<string[]> => page.locator('main#content button:visible').allTextContents();
    expect(await buttons()).toEqual(['Hold still']);
    const address = `${stage.url}/#/booking/${bookingId}`;
    await page.goto(address);
    await page.locator('#trace tbody tr').first().waitFor();
    expect(await buttons()).toEqual([]);

    await page.getByRole('button', { name: 'Log out' }).click();
    await logIn(page, { url: address, key: stage.keys.operator });
    await page.locator('#booking-actions button').first().waitFor();
    expect(await buttons()).toEqual(['Publish now', 'Recompute', 'Hold…', 'Withdraw…']);
    expect(complaints).toEqual([]);
    await close();
  });
});
