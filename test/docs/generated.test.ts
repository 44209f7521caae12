import { expect, test } from 'vitest';
import { listSettings } from '../../src/config.ts';
import { createTestApi } from '../api/setup.ts';
import { readText } from '../ops/files.ts';
import { readOpenApi } from './openapi.ts';
import { renderPages } from './pages.ts';

const pages = await renderPages();

test.each(Object.entries(pages))('%s is what `npm run docs` makes of the code: run it', (path, text) => {
  expect(readText(path)).toBe(text);
});

test('the API that serves the document is described as docs/api.md has it', async () => {
  const api = await createTestApi({ requireKey: true });
  try {
    expect(await (await api.app.request('/openapi.json')).json()).toEqual(await readOpenApi());
  } finally {
    await api.drop();
  }
});

test('docs/api.md has every call with its role', async () => {
  const { paths } = await readOpenApi();
  for (const [path, operations] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const call = `${method.toUpperCase()} ${path}`;
      expect(pages['docs/api.md']).toContain(`\n### ${call}\n\n${operation.summary}.\n`);
      expect(pages['docs/api.md']).toContain(`| [${call}](#`);
    }
  }
});

test('docs/configuration.md says of every setting what it may be and who needs it', () => {
  for (const { name, meaning, bounds, usedBy } of listSettings()) {
    expect(usedBy.length, name).toBeGreaterThan(0);
    expect(bounds, name).not.toBe('');
    expect(meaning, name).toMatch(/\.$/);
  }
  expect(Object.fromEntries(listSettings().map(({ name, bounds }) => [name, bounds]))).toMatchObject({
    PORT: '0 to 65535',
    LOG_LEVEL: 'debug, info, warn, error, silent',
    API_KEY: 'at least 16 characters',
    PUBLISH_SWEEP_CRON: 'a cron expression of five fields, in numbers',
    MONGODB_DATABASE: 'a MongoDB database name',
  });
});
