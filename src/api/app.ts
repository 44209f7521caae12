import { OpenAPIHono } from '@hono/zod-openapi';
import { requestId } from 'hono/request-id';
import { secureHeaders } from 'hono/secure-headers';
import { createAccess, isOpen, refuseForeignPages } from './access.ts';
import { answerError } from './answer-error.ts';
import { mountAudits } from './audits.ts';
import { mountBookingHistory } from './booking-history.ts';
import type { ApiContext, ApiEnv, RouteContext } from './context.ts';
import { mountDocs } from './docs.ts';
import { answerUnchanged } from './etag.ts';
import { mountEvents } from './events.ts';
import { mountGetSnapshot } from './get-snapshot.ts';
import { createDatabaseProbe, createMarketProbe, mountHealth } from './health.ts';
import { answerOnce } from './idempotency.ts';
import { mountJobs } from './jobs.ts';
import { mountListAudit } from './list-audit.ts';
import { mountListHeld } from './list-held.ts';
import { mountListParked } from './list-parked.ts';
import { mountListSnapshots } from './list-snapshots.ts';
import { createRequestMeter } from './metric-requests.ts';
import { mountMetrics } from './metric-route.ts';
import { mountOverrideSnapshot } from './override-snapshot.ts';
import { mountPage } from './page.ts';
import { mountPipelineControl } from './pipeline-control.ts';
import { mountPipelineStatus } from './pipeline-status.ts';
import { ProblemError } from './problem.ts';
import { mountPublishSnapshot } from './publish-snapshot.ts';
import { limitRate } from './rate-limit.ts';
import { mountReconcileSnapshot } from './reconcile-snapshot.ts';
import { refuseInvalid, requireUrl } from './request-input.ts';
import { logRequests } from './request-log.ts';
import { mountRetryParked } from './retry-parked.ts';
import { declaredRole } from './role.ts';
import { mountSession } from './session-route.ts';
import { mountSyncAll } from './sync-all.ts';
import { mountTakeOffMarket } from './take-off-market.ts';
import { mountTraceSnapshot } from './trace-snapshot.ts';

/**
 * The HTTP API, without a server around it: `app.request()` in tests, `startApi` otherwise.
 *
 * A request passes, in this order: its id, the log, headers that keep browsers strict, the checks of its address and
 * of where it comes from, whose key it carries, how often that one calls, whether the answer is known already, and only
 * then its route, whose first middleware says which role may call it. Every error anywhere is a problem (RFC 9457). `stopping` ends long
 * work early.
 *
 * Throws when a route says nothing of who may call it.
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
  const access = createAccess(ctx);
  const requestMeter = createRequestMeter();
  app.use(
    requestId(),
    logRequests(ctx.log),
    requestMeter.measure,
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
    requireUrl,
    access.requireKeyOrNot,
    refuseForeignPages(),
    access.authenticate,
    limitRate(ctx.rateLimits),
    answerUnchanged,
    answerOnce(ctx),
  );

  const parts: RouteContext = {
    ...ctx,
    probeDatabase: createDatabaseProbe(ctx),
    probeMarket: createMarketProbe(ctx),
    stopping,
    requestMeter,
  };
  // sync-all and backfill before the routes that would take their names for a booking's id.
  for (const mount of [
    mountSyncAll,
    mountJobs,
    mountListSnapshots,
    mountGetSnapshot,
    mountPublishSnapshot,
    mountReconcileSnapshot,
    mountTakeOffMarket,
    mountOverrideSnapshot,
    mountBookingHistory,
    mountTraceSnapshot,
    mountListParked,
    mountRetryParked,
    mountListHeld,
    mountListAudit,
    mountPipelineStatus,
    mountPipelineControl,
    mountAudits,
    mountEvents,
    mountHealth,
    mountMetrics,
    mountSession,
    mountPage,
    mountDocs,
  ]) {
    const before = app.routes.length;
    mount(app, parts);
    requireRoles(app, before);
    refuseOtherMethods(app, before);
  }
  return app;
}

/** Deny by default: every route mounted since begins with a role, unless it is of what anybody may have. */
export function requireRoles(app: OpenAPIHono<ApiEnv>, routesBefore: number): void {
  const known = new Set<string>();
  for (const { path, method, handler } of app.routes.slice(routesBefore)) {
    const call = `${method} ${path}`;
    if (known.has(call)) continue;
    known.add(call);
    if (declaredRole(handler) === undefined && !isOpen(path)) {
      throw new Error(`${call} does not say who may call it: requireRole() must be its first middleware`);
    }
  }
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
