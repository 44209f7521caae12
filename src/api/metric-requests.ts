import type { MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import type { ApiEnv } from './context.ts';
import { type Counted, createCounter, createHistogram } from './metrics.ts';

/** Who sends what Node's parser lets through makes no series of it. */
const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);

export interface RequestMeter {
  measure: MiddlewareHandler<ApiEnv>;
  metrics: Counted[];
}

/**
 * Counts the requests of one API. Every label is bounded: the route's pattern and never a path, the methods that there
 * are, and the status.
 */
export function createRequestMeter(): RequestMeter {
  const total = createCounter('market_sync_http_requests_total', {
    help: "Requests that this process answered, by method, route's pattern (none: no such address) and status.",
    labelNames: ['method', 'route', 'status'],
  });
  const duration = createHistogram('market_sync_http_request_duration_seconds', {
    help: 'Time that this process took until it began to answer, by method and route.',
    labelNames: ['method', 'route'],
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
  });
  return {
    metrics: [total, duration],
    measure: async (c, next) => {
      const startedAt = performance.now();
      await next();
      const pattern = routePath(c, -1);
      const route = pattern === '/*' ? 'none' : pattern;
      const method = METHODS.has(c.req.method) ? c.req.method : 'other';
      total.inc({ method, route, status: c.res.status });
      duration.observe({ method, route }, (performance.now() - startedAt) / 1000);
    },
  };
}
