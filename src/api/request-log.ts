import type { MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import type { Logger } from '../log.ts';
import type { ApiEnv } from './context.ts';

/** Asked every few seconds by whoever watches the service. */
const QUIET_ROUTES = new Set(['/healthz', '/readyz']);

/** One line a request, of reads that went well for whoever looks closely only: the route's pattern, never what was in its place, nor a query. */
export function logRequests(log: Logger): MiddlewareHandler<ApiEnv> {
  return async (c, next) => {
    const startedAt = performance.now();
    await next();
    const route = routePath(c, -1);
    const line = {
      request_id: c.get('requestId'),
      method: c.req.method,
      route: route === '/*' ? 'none' : route,
      status: c.res.status,
      ms: Math.round((performance.now() - startedAt) * 10) / 10,
    };
    const isUneventful = c.req.method === 'GET' && c.res.status < 400;
    if (isUneventful || QUIET_ROUTES.has(route)) log.debug(line, 'request answered');
    else log.info(line, 'request answered');
  };
}
