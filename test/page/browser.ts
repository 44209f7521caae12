import { existsSync, mkdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome'];
const ROOT = join(import.meta.dirname, '../..');

const REMEDY =
  'There is no Chromium for the tests of the page. Install it (Debian: apt install chromium, as root: .ci/chromium), ' +
  'or set CHROMIUM_PATH to one.';

function findChromium(): string | undefined {
  const asked = process.env.CHROMIUM_PATH;
  if (asked !== undefined) return asked;
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '');
  return folders.flatMap((folder) => NAMES.map((name) => join(folder, name))).find(existsSync);
}

const executablePath = findChromium();

/** Nobody need have a browser to work on the rest; where the tests decide, a missing one is a failure. */
export const withoutBrowser = executablePath === undefined && process.env.CI === undefined;
if (withoutBrowser) console.warn(`\n!!! SKIPPED: ${REMEDY}\n`);

export async function openBrowser(): Promise<Browser> {
  if (executablePath === undefined) throw new Error(REMEDY);
  return chromium.launch({
    executablePath,
    args: [
      '--no-sandbox', // it needs rights that neither root nor most containers have; only our own pages are opened
      '--disable-gpu',
      '--disable-quic',
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    ],
  });
}

export interface WatchedPage {
  page: Page;
  /** What no page may do: an error or warning on the console, an exception, a request that leaves this machine. */
  complaints: string[];
  close(): Promise<void>;
}

/** A page in a context of its own, whose misdeeds are written down. */
export async function openPage(browser: Browser, options: BrowserContextOptions = {}): Promise<WatchedPage> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (['error', 'warning', 'assert'].includes(message.type())) {
      complaints.push(`console: ${message.text()} ${message.location().url}`);
    }
  });
  page.on('pageerror', (error) => complaints.push(`exception: ${error.stack ?? error.message}`));
  page.on('request', (request) => {
    const { protocol, hostname } = new URL(request.url());
    if (protocol !== 'data:' && hostname !== '127.0.0.1') complaints.push(`request: ${request.url()}`);
  });
  return { page, complaints, close: () => context.close() };
}

/** Where pictures go: never into the tracked tree. */
export function pictureOf(name: string): string {
  const folder =
    process.env.MARKET_SYNC_SCREENSHOTS ?? join(ROOT, 'node_modules/.cache/market-sync-screenshots');
  mkdirSync(folder, { recursive: true });
  return join(folder, `${name}.png`);
}
