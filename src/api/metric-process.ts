import { type Counted, createHistogram, type Family } from './metrics.ts';

/** How often the event loop is asked. */
const TICK_MS = 100;

const eventLoopDelay = createHistogram('nodejs_eventloop_delay_seconds', {
  help: 'How late timers of this process were: how long its event loop was kept busy, asked ten times a second.',
  buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
});

let watching = false;

/**
 * Begins to watch the event loop, of which a process has one. Counted since then, not since the last scrape: several
 * may scrape, and none takes from what another sees.
 */
export function watchEventLoop(): Counted {
  if (!watching) {
    watching = true;
    let dueAt = performance.now() + TICK_MS;
    setInterval(() => {
      const now = performance.now();
      eventLoopDelay.observe(Math.max(now - dueAt, 0) / 1000);
      dueAt = now + TICK_MS;
    }, TICK_MS).unref();
  }
  return eventLoopDelay;
}

/** What this process uses. */
export function describeProcess(): Family[] {
  const memory = process.memoryUsage();
  const cpu = process.cpuUsage();
  const gauge = (name: string, help: string, value: number): Family => ({
    name,
    help,
    type: 'gauge',
    samples: [{ value }],
  });
  return [
    gauge('process_resident_memory_bytes', 'Memory of this process that is in RAM.', memory.rss),
    gauge(
      'nodejs_heap_size_used_bytes',
      "Memory of this process that is in use on JavaScript's heap.",
      memory.heapUsed,
    ),
    gauge(
      'nodejs_external_memory_bytes',
      "Memory of this process that JavaScript's objects hold outside of the heap.",
      memory.external,
    ),
    gauge(
      'process_start_time_seconds',
      'When this process started, in seconds since 1970.',
      performance.timeOrigin / 1000,
    ),
    {
      name: 'process_cpu_seconds_total',
      help: 'Time that this process has spent on processors.',
      type: 'counter',
      samples: [{ value: (cpu.user + cpu.system) / 1e6 }],
    },
  ];
}
