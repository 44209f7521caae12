import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { type OpenAPIHono, z } from '@hono/zod-openapi';
import { secureHeaders } from 'hono/secure-headers';
import type { ApiEnv } from './context.ts';

const SWAGGER_UI = dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'));
const OWN_FILES = join(import.meta.dirname, 'docs');

/** The only files that the docs page is made of; a path from outside never reaches the file system. */
const FILES = {
  '/docs': { file: join(OWN_FILES, 'page.html'), type: 'text/html; charset=utf-8' },
  '/docs/page.css': { file: join(OWN_FILES, 'page.css'), type: 'text/css; charset=utf-8' },
  '/docs/start.js': { file: join(OWN_FILES, 'start.js'), type: 'text/javascript; charset=utf-8' },
  '/docs/swagger-ui.css': { file: join(SWAGGER_UI, 'swagger-ui.css'), type: 'text/css; charset=utf-8' },
  '/docs/swagger-ui-bundle.js': {
    file: join(SWAGGER_UI, 'swagger-ui-bundle.js'),
    type: 'text/javascript; charset=utf-8',
  },
  '/docs/favicon.png': { file: join(SWAGGER_UI, 'favicon-32x32.png'), type: 'image/png' },
};

/** Nothing from another address, nothing inline; images of the style sheet are data. */
const PAGE_HEADERS = secureHeaders({
  strictTransportSecurity: false,
  xFrameOptions: 'DENY',
  contentSecurityPolicy: {
    defaultSrc: ["'none'"],
    scriptSrc: ["'self'"],
    styleSrc: ["'self'"],
    imgSrc: ["'self'", 'data:'],
    connectSrc: ["'self'"],
    formAction: ["'none'"],
    baseUri: ["'none'"],
    frameAncestors: ["'none'"],
  },
});

/** The OpenAPI document of everything mounted before, and a page that shows it. */
export function mountDocs(app: OpenAPIHono<ApiEnv>, { requireKey }: { requireKey: boolean }): void {
  for (const [path, { file, type }] of Object.entries(FILES)) {
    app.get(path, PAGE_HEADERS, async (c) =>
      c.body(new Uint8Array(await readFile(file)), 200, {
        'content-type': type,
        'cache-control': 'no-cache',
      }),
    );
  }
  app.get('/', (c) => c.redirect('/docs'));
  const document = describeApi(app, requireKey);
  app.get('/openapi.json', (c) => c.json(document));
}

function describeApi(app: OpenAPIHono<ApiEnv>, requireKey: boolean): unknown {
  app.openAPIRegistry.registerComponent('securitySchemes', 'bearer', {
    type: 'http',
    scheme: 'bearer',
    description: 'The key of the setting API_KEY.',
  });
  app.openAPIRegistry.registerComponent('securitySchemes', 'header', {
    type: 'apiKey',
    in: 'header',
    name: 'X-API-Key',
    description: 'The key of the setting API_KEY.',
  });
  const security = [{ bearer: [] }, { header: [] }];
  return app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: {
      title: 'market-sync',
      version: readVersion(),
      description:
        'Keeps Market Connect’s listings in step with Storage Guard’s bookings. Errors are `application/problem+json` (RFC 9457); ' +
        'every answer carries `X-Request-Id`, taken from the call or made.' +
        (requireKey ? '' : ' Without a key, calls are served from this machine only.'),
    },
    security: requireKey ? security : [...security, {}],
    tags: [
      { name: 'Snapshots', description: 'One per booking: what its listing must say.' },
      { name: 'Pipeline', description: 'What the pipeline could not do by itself.' },
      { name: 'Health', description: 'For whoever watches the service.' },
    ],
  });
}

const packageSchema = z.object({ version: z.string() });

function readVersion(): string {
  return packageSchema.parse(createRequire(import.meta.url)('../../package.json')).version;
}
