export const SPAN_SECONDS = 600;

/**
 * The last ten minutes, a point a second, as uPlot takes them: `times` and one array for each curve. What is
 * counted becomes a rate.
 */
export function createSeries() {
  const times = [];
  const curves = { lag: [], changes: [], published: [], latency: [] };
  const seen = { changes: 0, published: 0 };
  let before;

  // Of a burst not every change is an event, and an hour's total falls when its oldest minute leaves it: the larger counts.
  const rateOf = (name, readings, at) => {
    if (before === undefined) return null;
    const grown = (readings.totals[name] ?? 0) - (before.totals[name] ?? 0);
    return Math.max(grown, seen[name]) / (at - before.at);
  };

  return {
    times,
    curves,
    saw(name) {
      seen[name] += 1;
    },
    /** One point. Two readings within half a second, as after a reconnection, are one. */
    add(readings, at) {
      if (before !== undefined && at - before.at < 0.5) return;
      const point = {
        lag: readings.lagSeconds ?? null,
        changes: rateOf('changes', readings, at),
        published: rateOf('published', readings, at),
        latency: readings.latency.p99Ms === undefined ? null : readings.latency.p99Ms / 1_000,
      };
      // A line across a gap would claim figures that nobody saw.
      if (before !== undefined && at - before.at > 5) push((before.at + at) / 2, {});
      push(at, point);
      before = { at, totals: readings.totals };
      seen.changes = 0;
      seen.published = 0;
      while (times.length > 0 && times[0] < at - SPAN_SECONDS) {
        times.shift();
        for (const values of Object.values(curves)) values.shift();
      }
    },
  };

  function push(at, point) {
    times.push(at);
    for (const [name, values] of Object.entries(curves)) values.push(point[name] ?? null);
  }
}
