import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, extname, join } from 'node:path';
import type { OpenAPIHono } from '@hono/zod-openapi';
import { etag, RETAINED_304_HEADERS } from 'hono/etag';
import type { ApiEnv } from './context.ts';
import { pageHeaders } from './page-headers.ts';
import { ProblemError } from './problem.ts';

const OWN_FILES = join(import.meta.dirname, 'page');
const UPLOT = dirname(createRequire(import.meta.url).resolve('uplot/package.json'));

const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
};

/** The only files that the page is made of, by name; a path from outside never reaches the file system. */
const FILES: ReadonlyMap<string, string> = new Map([
  ...readdirSync(OWN_FILES).map((name): [string, string] => [name, join(OWN_FILES, name)]),
  ['uplot.js', join(UPLOT, 'dist/uPlot.esm.js')],
  ['uplot.css', join(UPLOT, 'dist/uPlot.min.css')],
]);

const PAGE_HEADERS = pageHeaders({ trustedTypes: true });

/** A 304 has the id of its request as well. */
const unlessUnchanged = () => etag({ retainedHeaders: [...RETAINED_304_HEADERS, 'x-request-id'] });

/** The operations page at `/`, with the files it loads. It says nothing of this installation before the login. */
export function mountPage(app: OpenAPIHono<ApiEnv>, { requireKey }: { requireKey: boolean }): void {
  app.get('/', PAGE_HEADERS, unlessUnchanged(), async (c) => {
    const html = await readFile(join(OWN_FILES, 'page.html'), 'utf8');
    // Known before any call, so that the login offers to go on without a key exactly where that works.
    return c.body(requireKey ? html : html.replace('data-key="required"', 'data-key="optional"'), 200, {
      'content-type': 'text/html; charset=utf-8',
      'cache-control': 'no-cache',
    });
  });
  app.get('/page/:file', PAGE_HEADERS, unlessUnchanged(), async (c) => {
    const name = c.req.param('file');
    const file = FILES.get(name);
    if (file === undefined) {
      throw new ProblemError('not_found', { detail: 'The page has no file of this name.' });
    }
    return c.body(new Uint8Array(await readFile(file)), 200, {
      'content-type': TYPES[extname(name)] ?? 'application/octet-stream',
      'cache-control': 'no-cache',
    });
  });
}
