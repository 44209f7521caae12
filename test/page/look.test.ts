import axe from 'axe-core';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { query } from '../../src/postgres.ts';
import { insertBooking } from '../api/setup.ts';
import { until } from '../support/pipeline.ts';
import { openBrowser, openPage, pictureOf, withoutBrowser } from './browser.ts';
import { logIn, type Stage, startStage } from './stage.ts';

const CROPS = [
  'Tomato',
  'Basmati rice',
  'Green coffee',
  'Potato',
  'Chickpea',
  'Red lentil',
  'Maize',
  'Onion',
];
const SIZES = [
  { width: 360, height: 780 },
  { width: 820, height: 1180 },
  { width: 1600, height: 1000 },
];

describe.skipIf(withoutBrowser)('how the page looks', () => {
  let stage: Stage;
  let browser: Browser;
  let bookings: string[];
  beforeAll(async () => {
    browser = await openBrowser();
    stage = await startStage();
    bookings = await furnish(stage);
  }, 120_000);
  afterAll(async () => {
    await browser?.close();
    await stage?.stop();
  });

  /** An overview, a list and a booking with something in every part, and a dialog. */
  const views: { name: string; open: (page: Page) => Promise<void> }[] = [
    {
      name: 'overview',
      open: async (page) => {
        await page.locator('#parked li').first().waitFor();
        await page.locator('#held li').nth(1).waitFor();
        await page.locator('#jobs li').first().waitFor();
        // Some seconds of life, so that the curves have something to show.
        for (let round = 1; round <= 8; round += 1) {
          const known = await page.locator('#changes tr').count();
          await touch(stage, bookings.slice(4, 4 + round));
          await page
            .locator('#changes tr')
            .nth(Math.min(known + round, 50) - 1)
            .waitFor();
          await nextFigures(page);
        }
        await page.locator('#changes .outcome[data-done="true"]').nth(12).waitFor();
      },
    },
    {
      name: 'found',
      open: async (page) => {
        await page.goto(`${stage.url}/#/find/${CROPS[0]}`);
        await page.locator('#found-body tbody tr').first().waitFor();
      },
    },
    {
      name: 'booking',
      open: async (page) => {
        await page.goto(`${stage.url}/#/booking/${bookings[0]}`);
        await page.locator('#trace tbody tr').first().waitFor();
        await page.locator('#history li').nth(2).waitFor();
      },
    },
    {
      name: 'dialog',
      open: async (page) => {
        await page.locator('#booking-actions').getByRole('button', { name: 'Withdraw…' }).click();
        await page.getByRole('dialog').waitFor();
      },
    },
  ];

  for (const { width, height } of SIZES) {
    for (const colorScheme of ['light', 'dark'] as const) {
      test(`nothing is cut off, hard to read or nameless at ${width} px in ${colorScheme} colours`, async () => {
        const { page, complaints, close } = await openPage(browser, {
          viewport: { width, height },
          colorScheme,
        });
        await page.goto(stage.url);
        await page.getByLabel('API key').waitFor();
        await expectReadable(page);
        await page.screenshot({ path: pictureOf(`login-${width}-${colorScheme}`) });
        await logIn(page, { url: stage.url, key: stage.keys.admin });
        for (const { name, open } of views) {
          await open(page);
          await expectReadable(page);
          await page.screenshot({
            path: pictureOf(`${name}-${width}-${colorScheme}`),
            fullPage: name !== 'dialog',
          });
        }
        expect(complaints).toEqual([]);
        await close();
      }, 120_000);
    }
  }

  test('a chosen theme wins over the system and outlasts a reload', async () => {
    const { page, complaints, close } = await openPage(browser, { colorScheme: 'light' });
    await logIn(page, { url: stage.url, key: stage.keys.reader });
    const ground = (): Promise<unknown> => page.evaluate('getComputedStyle(document.body).backgroundColor');
    const light = await ground();
    const toggle = page.getByRole('button', { name: /colours, light or dark/ });
    await toggle.click(); // light
    expect(await ground()).toBe(light);
    await toggle.click(); // dark
    const dark = await ground();
    expect(dark).not.toBe(light);
    await page.reload();
    expect(await ground()).toBe(dark);
    await toggle.click(); // the system's again
    expect(await ground()).toBe(light);
    expect(complaints).toEqual([]);

    await toggle.click();
    await toggle.click(); // dark, and it does not flash light while the rest is on its way
    await page.route('**/main.js', (route) => route.abort());
    await page.reload();
    expect(await ground()).toBe(dark);
    await close();
  });
});

/** No sideways scrolling of the page, and nothing serious that axe-core can find. */
async function expectReadable(page: Page): Promise<void> {
  expect(await page.evaluate('document.documentElement.scrollWidth - innerWidth')).toBeLessThanOrEqual(0);
  await page.evaluate(axe.source);
  const found = (await page.evaluate(
    `axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations.map(
       ({ id, impact, nodes }) => ({ id, impact, where: nodes.map(({ target, failureSummary }) => target + ' ' + failureSummary) })))`,
  )) as { id: string; impact: string; where: string[] }[];
  expect(found.filter(({ impact }) => impact === 'serious' || impact === 'critical')).toEqual([]);
}

/** Two dozen bookings: some held, withdrawn, parked, overridden; a job. */
async function furnish(stage: Stage): Promise<string[]> {
  const { pool } = stage.scene.database;
  const bookings: string[] = [];
  for (let number = 0; number < 24; number += 1) {
    const { bookingId } = await insertBooking(pool, { cropType: CROPS[number % CROPS.length] ?? '' });
    bookings.push(bookingId);
  }
  await stage.scene.settle();
  const [overridden = '', held = '', withdrawn = '', parked = ''] = bookings;
  const snapshot = (id: string, action: string): string => `/storage-guard/snapshots/${id}/${action}`;
  const reason = 'Buyer’s complaint 4711: waiting for a second inspection of hall 3';
  await call(stage, 'POST', snapshot(held, 'hold'), { reason });
  await call(stage, 'POST', snapshot(withdrawn, 'withdraw'), { reason: 'Spoiled, the vendor agrees' });
  await call(stage, 'POST', snapshot(overridden, 'hold'), { reason: 'The grade is doubted' });
  await call(stage, 'PUT', snapshot(overridden, 'override'), {
    grade: 'A',
    reason: 'Second look by the inspector',
  });
  await call(stage, 'POST', snapshot(overridden, 'release'), {});
  await call(stage, 'POST', '/storage-guard/snapshots/backfill');
  await until('the job is done', async () => {
    const rows = await query(pool, `select from market_sync.task where state in ('queued', 'running')`);
    return rows.length === 0;
  });
  await stage.scene.settle();
  await query(
    pool,
    `update market_sync.snapshot_state set attempts = 5, parked_at = clock_timestamp(), failed_stage = 'publish',
       first_failed_at = clock_timestamp(), last_failed_at = clock_timestamp(), published_revision = 0, published_epoch = 0,
       last_error = 'the listing has 17000000 bytes, more than the 16711680 that fit: shorten visual_defects'
     where booking_id = $1`,
    [parked],
  );
  return bookings;
}

/** Until the next status has come: the page says of which second it is. */
async function nextFigures(page: Page): Promise<void> {
  const time = page.locator('#live .note');
  const before = await time.textContent();
  await until('the next figures come', async () => (await time.textContent()) !== before);
}

const touch = (stage: Stage, bookings: string[]): Promise<unknown> =>
  query(
    stage.scene.database.pool,
    'update storage_bookings set quantity_kg = quantity_kg + 1 where id = any ($1::uuid[])',
    [bookings],
  );

async function call(stage: Stage, method: string, path: string, body?: object): Promise<void> {
  const response = await fetch(`${stage.url}${path}`, {
    method,
    headers: { authorization: `Bearer ${stage.keys.admin}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
}
