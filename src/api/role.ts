import type { Context, MiddlewareHandler } from 'hono';
import { matchedRoutes } from 'hono/route';
import { ROLES, type Role } from '../store/api-keys.ts';
import type { ApiEnv } from './context.ts';
import { keyRefused, ProblemError } from './problem.ts';

/** A route's first middleware, which says who may call it. */
export interface RoleMiddleware extends MiddlewareHandler<ApiEnv> {
  readonly role: Role;
}

/** Whether `role` may do what needs `needed`: each role may all that the ones before it may. */
export const mayAct = (role: Role, needed: Role): boolean => ROLES.indexOf(role) >= ROLES.indexOf(needed);

/**
 * Lets callers of this role, and of higher ones, pass. The first middleware of every route; the API is not built with a
 * route that lacks it.
 */
export function requireRole(role: Role): RoleMiddleware {
  const check: MiddlewareHandler<ApiEnv> = async (c, next) => {
    const caller = c.get('caller');
    if (caller === undefined) throw keyRefused();
    if (!mayAct(caller.role, role)) {
      throw new ProblemError('role_refused', {
        detail: `This call needs the role ${role}; yours is ${caller.role}.`,
      });
    }
    await next();
  };
  return Object.assign(check, { role });
}

/** The role that a handler declares, if it is `requireRole`'s. */
export function declaredRole(handler: object): Role | undefined {
  const role: unknown = 'role' in handler ? handler.role : undefined;
  return ROLES.find((known) => known === role);
}

/** The role of the route that will answer this call; undefined: it is open, or nothing answers it. */
export function roleOfRoute(c: Context<ApiEnv>): Role | undefined {
  for (const { handler } of matchedRoutes(c)) {
    const role = declaredRole(handler);
    if (role !== undefined) return role;
  }
  return undefined;
}
