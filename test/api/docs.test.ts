import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { createTestApi, type TestApi } from './setup.ts';

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.drop());

interface Operation {
  operationId?: string;
  summary?: string;
  responses: Record<string, { description: string; content?: Record<string, unknown> }>;
}
interface OpenApi {
  openapi: string;
  paths: Record<string, Record<string, Operation>>;
  security: unknown[];
}

async function readDocument(app = api.app): Promise<OpenApi> {
  return (await (await app.request('/openapi.json')).json()) as OpenApi;
}

test('the OpenAPI document lists every call, with a summary, an answer and its errors as problems', async () => {
  const document = await readDocument();
  expect(document.openapi).toBe('3.1.0');
  const calls = Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => ({
      call: `${method} ${path}`,
      operation,
    })),
  );
  expect(calls.map(({ call }) => call).sort()).toEqual([
    'get /healthz',
    'get /metrics',
    'get /pipeline/parked',
    'get /readyz',
    'get /storage-guard/snapshots',
    'get /storage-guard/snapshots/{booking_id}',
    'post /pipeline/parked/{booking_id}/retry',
    'post /storage-guard/snapshots/sync-all',
    'post /storage-guard/snapshots/{booking_id}/publish',
    'post /storage-guard/snapshots/{booking_id}/reconcile',
  ]);
  for (const { call, operation } of calls) {
    expect(operation).toMatchObject({ operationId: expect.any(String), summary: expect.any(String) });
    expect(Object.keys(operation.responses)).toContain('200');
    for (const [status, { content }] of Object.entries(operation.responses)) {
      const isError = Number(status) >= 400 && !(call === 'get /readyz' && status === '503');
      const answer = call === 'get /metrics' ? 'text/plain' : 'application/json';
      expect(Object.keys(content ?? {})).toEqual([isError ? 'application/problem+json' : answer]);
    }
  }
  expect(JSON.stringify(document)).not.toContain('own_hash');
});

test('calls without a key are documented only where they are served', async () => {
  expect((await readDocument()).security).toContainEqual({});
  const guarded = createApi({ ...api.ctx, apiKey: 'correct-horse-battery', requireKey: true });
  expect((await readDocument(guarded)).security).not.toContainEqual({});
});

test('the docs page and everything it loads come from here, and none of it is inline', async () => {
  const page = await (await api.app.request('/docs')).text();
  const loaded = [...page.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1] ?? '');
  expect(loaded.length).toBeGreaterThan(4);
  for (const path of loaded) {
    expect(path).toMatch(/^\//);
    expect((await api.app.request(path)).status).toBe(200);
  }
  expect(page).not.toMatch(/<script(?![^>]* src=)|<style| style=| on\w+=/);
  const policy = (await api.app.request('/docs')).headers.get('content-security-policy') ?? '';
  expect(policy).toContain("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:");
  expect(policy).not.toMatch(/unsafe|https?:/);
});

test('/ leads to the docs', async () => {
  const response = await api.app.request('/');
  expect([response.status, response.headers.get('location')]).toEqual([302, '/docs']);
});
