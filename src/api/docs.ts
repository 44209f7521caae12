import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { type OpenAPIHono, z } from '@hono/zod-openapi';
import type { ApiContext, ApiEnv } from './context.ts';
import { completeDocument, type Document } from './openapi.ts';
import { pageHeaders } from './page-headers.ts';

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

/** Swagger UI makes elements of text itself. */
const PAGE_HEADERS = pageHeaders({ trustedTypes: false });

/** The OpenAPI document of everything mounted before, and a page that shows it. */
export function mountDocs(app: OpenAPIHono<ApiEnv>, ctx: ApiContext): void {
  for (const [path, { file, type }] of Object.entries(FILES)) {
    app.get(path, PAGE_HEADERS, async (c) =>
      c.body(new Uint8Array(await readFile(file)), 200, {
        'content-type': type,
        'cache-control': 'no-cache',
      }),
    );
  }
  const document = describeApi(app, ctx);
  app.get('/openapi.json', (c) => c.json(document));
}

function describeApi(app: OpenAPIHono<ApiEnv>, { requireKey, oidc }: ApiContext): unknown {
  const schemes: Record<
    string,
    Parameters<typeof app.openAPIRegistry.registerComponent<'securitySchemes'>>[2]
  > = {
    bearer: {
      type: 'http',
      scheme: 'bearer',
      description: 'A key of `market-sync keys create`, or that of the setting API_KEY.',
    },
    header: { type: 'apiKey', in: 'header', name: 'X-API-Key', description: 'The same key.' },
  };
  if (oidc !== undefined) {
    schemes.oidc = {
      type: 'openIdConnect',
      openIdConnectUrl: `${oidc.issuer.replace(/\/$/, '')}/.well-known/openid-configuration`,
      description: `A token for ${oidc.audience} as bearer, with a role in its claim ${oidc.roleClaim}.`,
    };
  }
  for (const [name, scheme] of Object.entries(schemes)) {
    app.openAPIRegistry.registerComponent('securitySchemes', name, scheme);
  }
  const document = app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: {
      title: 'market-sync',
      version: readVersion(),
      license: { name: 'MIT', url: 'https://opensource.org/license/mit' },
      description:
        'Keeps Market Connect’s listings in step with Storage Guard’s bookings. Errors are `application/problem+json` (RFC 9457); ' +
        'every answer carries `X-Request-Id`, taken from the call or made. Each operation needs a role (`x-role`): a `reader` reads, ' +
        'an `operator` acts on bookings too, an `admin` on everything. Calls that change something take an `Idempotency-Key`; reads in ' +
        'JSON carry an `ETag`.' +
        (requireKey
          ? ''
          : ' Without a key, calls are served from this machine only, until the first key is made.'),
    },
    servers: [{ url: '/' }],
    tags: [
      { name: 'Snapshots', description: 'One per booking: what its listing must say.' },
      { name: 'Pipeline', description: 'How the pipeline does, and what people do with it.' },
      { name: 'Session', description: 'Who calls.' },
      { name: 'Health', description: 'For whoever watches the service.' },
    ],
  });
  return completeDocument(app, structuredClone(document) as unknown as Document, {
    schemes: Object.keys(schemes),
    keyRequired: requireKey,
  });
}

const packageSchema = z.object({ version: z.string() });

function readVersion(): string {
  return packageSchema.parse(createRequire(import.meta.url)('../../package.json')).version;
}
