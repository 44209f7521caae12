import { defineConfig } from 'vitest/config';

const MINUTE_MS = 60_000;

/** Where `.ci/run` wants the results as JSON as well, to count them. */
const report = process.env.MARKET_SYNC_TEST_REPORT;

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    reporters: report === undefined ? ['default'] : ['default', ['json', { outputFile: report }]],
    globalSetup: ['test/support/global-setup.ts'],
    pool: 'forks',
    maxWorkers: 2, // Every worker drives servers of its own; more of them only wait for each other on small machines.
    // Tests that kill processes and wait for servers share two slow cores there. What needed a second try is shown; the
    // random histories, whose failures are findings, get none.
    retry: process.env.CI === undefined ? 0 : 1,
    testTimeout: MINUTE_MS,
    hookTimeout: MINUTE_MS,
    teardownTimeout: MINUTE_MS,
  },
});
