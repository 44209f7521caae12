import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { createTestApi, expectProblem, type TestApi } from '../api/setup.ts';

const FOLDER = join(import.meta.dirname, '../../src/api/page');

let api: TestApi;
beforeAll(async () => {
  api = await createTestApi();
});
afterAll(() => api.drop());

test('the page at / and everything it loads come from here with the right types, and none of it is inline', async () => {
  const html = await (await api.app.request('/')).text();
  const modules = readdirSync(FOLDER).filter((name) => name.endsWith('.js'));
  const imported = modules.flatMap((name) =>
    [...readFileSync(join(FOLDER, name), 'utf8').matchAll(/from '\.\/([^']+)'/g)].map(
      (match) => `/page/${match[1]}`,
    ),
  );
  const loaded = [...html.matchAll(/(?:src|href)="(\/page[^"]+)"/g)].map((match) => match[1] ?? '');
  expect(loaded.length).toBeGreaterThan(6);
  for (const path of new Set([...loaded, ...imported])) {
    const response = await api.app.request(path);
    expect([path, response.status]).toEqual([path, 200]);
    const type = { js: 'text/javascript', css: 'text/css', svg: 'image/svg+xml' }[
      path.split('.').at(-1) ?? ''
    ];
    expect(response.headers.get('content-type')).toContain(type);
    expect(response.headers.get('x-content-type-options')).toBe('nosniff');
  }
  expect(html).not.toMatch(/<script(?![^>]* src=)|<style| style=| on\w+="/);
});

test('the page forbids what it does not need: other addresses, inline code, frames, and code made of text', async () => {
  const response = await api.app.request('/');
  const policy = response.headers.get('content-security-policy') ?? '';
  expect(policy).toContain("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:");
  expect(policy).toContain("connect-src 'self'");
  expect(policy).toContain("frame-ancestors 'none'");
  expect(policy).toContain("require-trusted-types-for 'script'; trusted-types 'none'");
  expect(policy).not.toMatch(/unsafe|https?:/);
});

test('no file of the page names another address, or makes elements of text', () => {
  for (const name of readdirSync(FOLDER)) {
    const text = readFileSync(join(FOLDER, name), 'utf8').replaceAll('http://www.w3.org/2000/svg', '');
    expect(text, name).not.toMatch(
      /https?:\/\/|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(/,
    );
  }
});

test('the files of the page are short enough to read', () => {
  for (const name of readdirSync(FOLDER)) {
    expect([name, readFileSync(join(FOLDER, name), 'utf8').split('\n').length > 300]).toEqual([name, false]);
  }
});

test('a browser that has a file of the page is told so, and asks every time', async () => {
  for (const path of ['/', '/page/main.js', '/page/uplot.js']) {
    const first = await api.app.request(path);
    expect(first.headers.get('cache-control')).toBe('no-cache');
    const etag = first.headers.get('etag') ?? '';
    expect(etag).not.toBe('');
    const again = await api.app.request(path, { headers: { 'if-none-match': etag } });
    expect([path, again.status]).toEqual([path, 304]);
    expect(again.headers.get('x-request-id')).toMatch(/./);
    const other = await api.app.request(path, { headers: { 'if-none-match': '"another"' } });
    expect([path, other.status]).toEqual([path, 200]);
  }
});

test('nothing but the files of the page can be had beside them', async () => {
  for (const path of [
    '/page/',
    '/page/nope.js',
    '/page/..%2fpage.ts',
    '/page/%2e%2e%2fapp.ts',
    '/page/main.js/x',
  ]) {
    await expectProblem(await api.app.request(path), 'not_found');
  }
  await expectProblem(await api.app.request('/', { method: 'POST' }), 'method_not_allowed');
});

test('the page says that a key is needed unless it may be that none is', async () => {
  expect(await (await api.app.request('/')).text()).toContain('data-key="optional"');
  const guarded = createApi({ ...api.ctx, apiKey: 'correct-horse-battery', requireKey: true });
  expect(await (await guarded.request('/')).text()).toContain('data-key="required"');
});
