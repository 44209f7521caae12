import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { insertBooking } from '../api/setup.ts';
import { until } from '../support/pipeline.ts';
import { openBrowser, openPage, type WatchedPage, withoutBrowser } from './browser.ts';
import { logIn, type Stage, startStage } from './stage.ts';

describe.skipIf(withoutBrowser)('what is done on the page', () => {
  let stage: Stage;
  let browser: Browser;
  let watched: WatchedPage;
  let page: Page;
  beforeAll(async () => {
    browser = await openBrowser();
    stage = await startStage();
  });
  afterAll(async () => {
    await browser?.close();
    await stage?.stop();
  });
  beforeEach(() => {
    return async () => {
      await watched.close();
      expect(watched.complaints).toEqual([]);
    };
  });

  const openAs = async (role: keyof Stage['keys'], address = '/'): Promise<void> => {
    watched = await openPage(browser);
    page = watched.page;
    await logIn(page, { url: `${stage.url}${address}`, key: stage.keys[role] });
  };
  const book = async (cropType: string): Promise<string> => {
    const { bookingId } = await insertBooking(stage.scene.database.pool, { cropType });
    await stage.scene.settle();
    return bookingId;
  };
  const audit = (bookingId: string): Promise<Record<string, unknown>[]> =>
    query(
      stage.scene.database.pool,
      `select action, actor, via, reason, idempotency_key is not null as once
       from market_sync.manual_action where $1 = any (booking_ids) order by id`,
      [bookingId],
    );
  const answerDialog = async (name: string, reason: string): Promise<void> => {
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Reason').fill(reason);
    await dialog.getByRole('button', { name }).click();
    await dialog.waitFor({ state: 'hidden' });
  };

  test('a change made in SQL appears without a reload, and so does its listing', async () => {
    await openAs('reader');
    await page.evaluate('window.loadedOnce = true');
    const { bookingId } = await insertBooking(stage.scene.database.pool, { cropType: 'Live lentil' });
    const row = page.locator('#changes tr', { has: page.locator(`a[title="${bookingId}"]`) });
    await row.filter({ hasText: 'Live lentil' }).filter({ hasText: '✓' }).first().waitFor();
    await query(stage.scene.database.pool, 'update storage_bookings set quantity_kg = 777 where id = $1', [
      bookingId,
    ]);
    await row.nth(1).waitFor();
    expect(await page.evaluate('window.loadedOnce')).toBe(true);

    await row.first().getByRole('link').click();
    const quantity = page.locator('#trace tr', { hasText: 'Quantity' });
    await quantity.getByText('777 kg').nth(2).waitFor();
    await query(stage.scene.database.pool, 'update storage_bookings set quantity_kg = 778 where id = $1', [
      bookingId,
    ]);
    await quantity.getByText('778 kg').nth(2).waitFor(); // An open booking follows, too.
  });

  test('an operator holds a listing and releases it, each with its reason in the audit log', async () => {
    const bookingId = await book('Held wheat');
    await openAs('operator');
    await page.getByLabel('Find a booking').fill(bookingId);
    await page.getByRole('button', { name: 'Find' }).click();
    await page.getByRole('button', { name: 'Hold… Held wheat' }).click();
    // Nothing happens without a reason, and leaving gives the focus back.
    await page.getByRole('dialog').getByRole('button', { name: 'Hold' }).click();
    expect(await page.getByRole('dialog').isVisible()).toBe(true);
    await page.keyboard.press('Escape');
    expect(await page.evaluate('document.activeElement.textContent')).toBe('Hold…');
    expect(await audit(bookingId)).toEqual([]);

    await page.getByRole('button', { name: 'Hold… Held wheat' }).click();
    await answerDialog('Hold', 'second inspection');
    await page.getByText('Held by the operator').waitFor();
    await until(
      'buyers do not see it',
      async () => (await stage.scene.listing(bookingId))?.status === 'held',
    );

    await page.getByRole('link', { name: 'Overview' }).click();
    const card = page.locator('#held li', { hasText: 'second inspection' });
    await card.getByRole('button', { name: 'Release…' }).click();
    await answerDialog('Release', 'all is well');
    await card.waitFor({ state: 'detached' });
    await until('buyers see it', async () => (await stage.scene.listing(bookingId))?.status === 'published');
    const common = { actor: 'the operator', via: 'http', once: true };
    expect(await audit(bookingId)).toEqual([
      { action: 'hold', reason: 'second inspection', ...common },
      { action: 'release', reason: 'all is well', ...common },
    ]);

    await page.goto(`${stage.url}/#/booking/${bookingId}`);
    const entry = (text: string) => page.locator('#history li[data-kind="action"]', { hasText: text });
    await entry('second inspection').waitFor();
    // What somebody did and the revision it made are one entry, with what buyers saw.
    expect(await entry('second inspection').textContent()).toMatch(/^Heldby handheld“.*revision 2$/);
    expect(await entry('all is well').textContent()).toMatch(/^Releasedby handon the market“.*revision 3$/);
    const revisions = page.locator('#history li[data-kind="revision"]');
    expect(await revisions.allTextContents()).toEqual([
      expect.stringMatching(/^Revision 1on the marketFirst computed\d\d:\d\d:\d\d$/),
    ]);

    // One whose action is not known stands alone; what is not of today has its date.
    await query(
      stage.scene.database.pool,
      `update market_sync.revision set at = at - interval '2 days' where booking_id = $1 and revision = 2`,
      [bookingId],
    );
    await page.reload();
    await page.getByText('Changed by hand').waitFor();
    expect((await revisions.allTextContents()).at(-1)).toMatch(
      /^Revision 2heldChanged by hand\w+ \d+, \d{4}, /,
    );
  });

  test('a withdrawn listing is frozen until it is released, and says so on its page', async () => {
    const bookingId = await book('Withdrawn maize');
    await openAs('operator', `/#/booking/${bookingId}`);
    await page.getByRole('button', { name: 'Withdraw…' }).click();
    await answerDialog('Withdraw', 'spoiled');
    await page.getByText('Withdrawn by the operator').waitFor();
    expect(await page.locator('#booking-actions button').allTextContents()).toEqual([
      'Release…',
      'Recompute',
    ]);
    await until(
      'its listing is withdrawn',
      async () => (await stage.scene.listing(bookingId))?.status === 'withdrawn',
    );
  });

  test('a parked booking shows its error, and is tried again with one press', async () => {
    const bookingId = await book('Parked pea');
    const { pool } = stage.scene.database;
    await query(
      pool,
      `update market_sync.snapshot_state set attempts = 5, parked_at = clock_timestamp(), failed_stage = 'publish',
         first_failed_at = clock_timestamp(), last_failed_at = clock_timestamp(), last_error = 'the listing is <b>too</b> large',
         published_revision = 0, published_epoch = 0
       where booking_id = $1`,
      [bookingId],
    );
    await openAs('operator');
    const card = page.locator('#parked li', { hasText: bookingId.slice(0, 8) });
    await card.getByText('the listing is <b>too</b> large').waitFor(); // as text, not as markup
    await page.locator('#verdict[data-level="warn"]').getByText('1 parked').waitFor();
    await card.getByRole('button', { name: 'Retry' }).click();
    await card.waitFor({ state: 'detached' });
    // Who of the API and the pipeline is first publishes it.
    await page
      .locator('.notice')
      .getByText(/the listing is published at revision|the pipeline goes on/)
      .waitFor();
    await page.locator('#verdict[data-level="ok"]').waitFor();
    expect(await page.evaluate('document.activeElement.id')).toBe('parked-title');
    const [entry] = await audit(bookingId);
    expect(entry).toMatchObject({ action: 'retry_parked', actor: 'the operator', once: true });
  });

  test('what the API refuses is told with its reason and the request id, and nothing typed is lost', async () => {
    const bookingId = await book('Refused rye');
    await openAs('operator', `/#/booking/${bookingId}`);
    await page.getByRole('button', { name: 'Hold…' }).click();
    await query(
      stage.scene.database.pool,
      `update storage_bookings set booking_status = 'completed' where id = $1`,
      [bookingId],
    );
    await page.getByLabel('Reason').fill('too late');
    await page.getByRole('dialog').getByRole('button', { name: 'Hold' }).click();
    const problem = page.getByRole('dialog').getByRole('alert');
    await problem.getByText('has ended').waitFor();
    expect(await problem.textContent()).toMatch(/conflict · request [0-9a-f-]{36}/);
    expect(await page.getByLabel('Reason').inputValue()).toBe('too late');
    // Of a refused call the browser itself tells its console.
    expect(watched.complaints.splice(0)).toEqual([expect.stringMatching(/409/)]);
  });

  test('search finds a booking by its id, and others by location, farmer and crop', async () => {
    const booked = await insertBooking(stage.scene.database.pool, { cropType: 'Found fennel' });
    await stage.scene.settle();
    await openAs('reader');
    const find = async (text: string): Promise<void> => {
      await page.getByLabel('Find a booking').fill(text);
      await page.getByLabel('Find a booking').press('Enter');
    };
    await find(booked.bookingId.toUpperCase());
    await page.getByRole('heading', { name: `Booking ${booked.bookingId}` }).waitFor();
    await page.getByText('✓ the listing says what the snapshot says').waitFor();
    expect(await page.locator('#trace [data-differs]').count()).toBe(0);
    const sensor = page.locator('#trace tr', { hasText: 'Sensor: temperature' });
    expect(await sensor.getByText('4.2 °C').count()).toBe(3);
    for (const text of ['Found fennel', booked.farmerId, booked.locationId]) {
      await find(text);
      await page.locator('#found-body a[title]').waitFor();
      expect(await page.locator('#found-body a[title]').getAttribute('title')).toBe(booked.bookingId);
    }
    await page.getByRole('link', { name: 'Back to the overview' }).click();
    await page.locator('#overview').waitFor();
    expect(await page.getByLabel('Find a booking').inputValue()).toBe('');
    await find('Unheard-of unicorn');
    await page.getByText('Nothing for crop').waitFor();
    await find('00000000-0000-4000-8000-000000000000');
    await page.getByText('Nothing for booking, location or farmer').waitFor();
    // Only now was a booking asked for that is none, of which the browser itself tells its console.
    expect(watched.complaints.splice(0)).toEqual([expect.stringMatching(/404.*\/trace$/)]);
  });

  test('an admin pauses with a reason and resumes, and everybody who looks is told', async () => {
    await openAs('admin');
    await page.getByRole('button', { name: 'Pause…' }).click();
    await answerDialog('Pause', 'moving the database');
    await page.locator('#verdict[data-level="warn"]').getByText('“moving the database”').waitFor();
    expect(await page.locator('#announcer').textContent()).toContain('Paused');
    await page.getByRole('button', { name: 'Resume' }).click();
    await page.locator('#verdict[data-level="ok"]').waitFor();
    const rows = await query(stage.scene.database.pool, 'select market_sync.is_paused() as paused');
    expect(rows).toEqual([{ paused: false }]);
  });

  test('what a farmer wrote stays text: markup in data is shown, and nothing of it runs', async () => {
    const markup = '<img src=x onerror="window.ran=1">';
    const bookingId = await book(markup);
    await openAs('operator', `/#/booking/${bookingId}`);
    await page.locator('#trace').getByText(markup).first().waitFor();
    await page.getByRole('button', { name: 'Hold…' }).click();
    await answerDialog('Hold', markup);
    await page.locator('#booking-notes').getByText(markup).waitFor();
    expect(await page.evaluate('window.ran')).toBeUndefined();
  });

  test('an action whose answer is lost is asked for again and done once, also where browsers make no UUIDs', async () => {
    const bookingId = await book('Lost lupin');
    await openAs('operator', `/#/booking/${bookingId}`);
    await page.evaluate('delete Crypto.prototype.randomUUID'); // as over http from another machine
    let lost = 0;
    await page.route('**/hold', async (route) => {
      if (lost > 0) return route.continue();
      lost += 1;
      await route.fetch();
      return route.abort('connectionreset');
    });
    await page.getByRole('button', { name: 'Hold…' }).click();
    await answerDialog('Hold', 'asked once');
    await page.getByText('Held by the operator').waitFor();
    expect(lost).toBe(1);
    expect(await audit(bookingId)).toEqual([
      { action: 'hold', actor: 'the operator', via: 'http', reason: 'asked once', once: true },
    ]);
    expect(watched.complaints.splice(0)).toEqual([expect.stringContaining('ERR_CONNECTION_RESET')]);
  });

  test('an address made by somebody else leads to no other call than that for a booking', async () => {
    await openAs('admin');
    const asked: string[] = [];
    page.on('request', (request) => asked.push(new URL(request.url()).pathname));
    await page.goto(`${stage.url}/#/booking/..%2F..%2Fpipeline%2Fjobs%3F`);
    await page.getByText('Nothing for crop').waitFor();
    await page.goto(`${stage.url}/#/booking/%`);
    await page.getByText('Nothing for crop “%”').waitFor();
    expect(asked.filter((path) => path.endsWith('/trace'))).toEqual([]);
  });

  test('moving rows can be held still, and go on with what came meanwhile', async () => {
    await openAs('reader');
    const first = await book('First fig');
    await page.locator(`#changes a[title="${first}"]`).first().waitFor();
    await page.getByRole('button', { name: 'Hold still' }).click();
    const second = await book('Second fig');
    await page.getByRole('button', { name: /Go on \(\d+ new\)/ }).waitFor();
    expect(await page.locator(`#changes a[title="${second}"]`).count()).toBe(0);
    await page.getByRole('button', { name: /Go on/ }).click();
    await page.locator(`#changes a[title="${second}"]`).first().waitFor();
  });
});
