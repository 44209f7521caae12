import { OpenAPIHono } from '@hono/zod-openapi';
import { requestId } from 'hono/request-id';
import { secureHeaders } from 'hono/secure-headers';
import { checkKey, refuseForeignPages } from './access.ts';
import { answerError } from './answer-error.ts';
import type { ApiContext, ApiEnv, RouteContext } from './context.ts';
import { mountDocs } from './docs.ts';
import { mountGetSnapshot } from './get-snapshot.ts';
import { createDatabaseProbe, createMarketProbe, mountHealth } from './health.ts';
import { mountListParked } from './list-parked.ts';
import { mountListSnapshots } from './list-snapshots.ts';
import { mountMetrics } from './metrics.ts';
import { ProblemError } from './problem.ts';
import { mountPublishSnapshot } from './publish-snapshot.ts';
import { mountReconcileSnapshot } from './reconcile-snapshot.ts';
import { refuseInvalid } from './request-input.ts';
import { logRequests } from './request-log.ts';
import { mountRetryParked } from './retry-parked.ts';
import { mountSyncAll } from './sync-all.ts';

/**
 * The HTTP API, without a server around it: `app.request()` in tests, `startApi` otherwise.
 *
 * A request passes, in this order: its id, the log, headers that keep browsers strict, the check of where it comes
 * from, the key, and only then its route. Every error anywhere is a problem (RFC 9457). `stopping` ends long work early.
 */
export function createApi(
  ctx: ApiContext,
  { stopping = new AbortController().signal }: { stopping?: AbortSignal } = {},
): OpenAPIHono<ApiEnv> {
  const app = new OpenAPIHono<ApiEnv>({ defaultHook: refuseInvalid });
  app.onError((error, c) => answerError(ctx.log, error, c));
  app.notFound(() => {
    throw new ProblemError('not_found', { detail: 'Nothing is at this address. /docs says what is.' });
  });
  app.use(
    requestId(),
    logRequests(ctx.log),
    secureHeaders({
      overwrite: false, // the docs page has its own policy
      strictTransportSecurity: false,
      xFrameOptions: 'DENY',
      contentSecurityPolicy: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] },
    }),
    async (c, next) => {
      c.header('cache-control', 'no-store');
      await next();
    },
    refuseForeignPages(ctx),
    checkKey(ctx),
  );

  const parts: RouteContext = {
    ...ctx,
    probeDatabase: createDatabaseProbe(ctx),
    probeMarket: createMarketProbe(ctx),
    stopping,
  };
  // sync-all before the routes that would take its name for a booking's id.
  for (const mount of [
    mountSyncAll,
    mountListSnapshots,
    mountGetSnapshot,
    mountPublishSnapshot,
    mountReconcileSnapshot,
    mountListParked,
    mountRetryParked,
    mountHealth,
    mountMetrics,
    mountDocs,
  ]) {
    const before = app.routes.length;
    mount(app, parts);
    refuseOtherMethods(app, before);
  }
  return app;
}

/** Answers 405 for methods that the paths mounted since do not take, and OPTIONS with those that they do. */
function refuseOtherMethods(app: OpenAPIHono<ApiEnv>, routesBefore: number): void {
  const methods = new Map<string, Set<string>>();
  for (const { path, method } of app.routes.slice(routesBefore)) {
    const known = methods.get(path) ?? new Set();
    known.add(method);
    if (method === 'GET') known.add('HEAD');
    methods.set(path, known);
  }
  for (const [path, known] of methods) {
    const allow = [...known, 'OPTIONS'].join(', ');
    app.all(path, (c) => {
      if (c.req.method === 'OPTIONS') return c.body(null, 204, { allow });
      throw new ProblemError('method_not_allowed', {
        detail: `This address takes ${allow}.`,
        headers: { allow },
      });
    });
  }
}
