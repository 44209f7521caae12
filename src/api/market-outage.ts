import type { RouteContext } from './context.ts';
import { type ProblemError, unavailable } from './problem.ts';

/** Asked before anything is claimed: an outage is then known in less than a second, and leaves the snapshots as they are. */
export async function requireMarket(ctx: RouteContext): Promise<void> {
  const market = await ctx.probeMarket();
  if (!market.ok) throw marketUnavailable(new Error(`MongoDB ${market.detail}`));
}

export const marketUnavailable = (cause: unknown): ProblemError =>
  unavailable('market_unavailable', {
    detail:
      'MongoDB cannot be had at the moment. Nothing is lost: what is not published yet will be when it is back.',
    cause,
  });
