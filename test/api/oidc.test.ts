import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, exportSPKI, generateKeyPair, type JWTPayload, SignJWT, UnsecuredJWT } from 'jose';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createApi } from '../../src/api/app.ts';
import { createTestApi, expectProblem, type TestApi } from './setup.ts';

const LIST = '/storage-guard/snapshots';
const AUDIENCE = 'market-sync';
type Pair = Awaited<ReturnType<typeof generateKeyPair>>;

let api: TestApi;
let app: TestApi['app'];
let issuer: string;
let provider: Server;
/** What the provider was asked for, in order. */
const asked: string[] = [];
let rsa: Pair;
let ec: Pair;
let stranger: Pair;
/** What it has under these paths; one that is not here answers 500. */
let served: Map<string, unknown>;

beforeAll(async () => {
  [rsa, ec, stranger] = await Promise.all([
    generateKeyPair('RS256', { extractable: true }),
    generateKeyPair('ES256', { extractable: true }),
    generateKeyPair('RS256', { extractable: true }),
  ]);
  provider = createServer((request, response) => {
    asked.push(request.url ?? '');
    const body = served.get(request.url ?? '');
    response.writeHead(body === undefined ? 500 : 200, { 'content-type': 'application/json' });
    response.end(JSON.stringify(body ?? {}));
  });
  await new Promise<void>((resolve) => provider.listen(0, '127.0.0.1', resolve));
  issuer = `http://127.0.0.1:${(provider.address() as AddressInfo).port}/realm`;
  served = new Map<string, unknown>([
    ['/realm/.well-known/openid-configuration', { issuer, jwks_uri: `${issuer}/keys` }],
    [
      '/realm/keys',
      {
        keys: [
          { ...(await exportJWK(rsa.publicKey)), kid: 'rsa', use: 'sig' },
          { ...(await exportJWK(ec.publicKey)), kid: 'ec', use: 'sig' },
        ],
      },
    ],
  ]);
  api = await createTestApi();
  app = build();
});
afterAll(async () => {
  await new Promise((resolve) => provider.close(resolve));
  await api.drop();
});

const build = (change: Partial<NonNullable<TestApi['ctx']['oidc']>> = {}): TestApi['app'] =>
  createApi({
    ...api.ctx,
    requireKey: true,
    oidc: { issuer, audience: AUDIENCE, algorithms: ['RS256', 'ES256'], roleClaim: 'roles', ...change },
  });

interface Made {
  claims?: JWTPayload;
  header?: { alg: string; kid?: string };
  key?: Parameters<SignJWT['sign']>[0];
}

/** A token that is believed, but for what is asked for. */
const makeToken = ({
  claims = {},
  header = { alg: 'RS256', kid: 'rsa' },
  key = rsa.privateKey,
}: Made = {}) => {
  const now = Math.floor(Date.now() / 1000);
  const payload = { iss: issuer, aud: AUDIENCE, sub: 'ann', exp: now + 300, roles: ['reader'], ...claims };
  return new SignJWT(payload).setProtectedHeader(header).sign(key);
};

const ask = (token: string, path = LIST, by = app) =>
  by.request(path, { headers: { authorization: `Bearer ${token}` } });
const session = async (token: string, by = app) =>
  (await (await ask(token, '/session', by)).json()) as Record<string, unknown>;

test('a token of the issuer is a caller by its subject, until it expires', async () => {
  const exp = Math.floor(Date.now() / 1000) + 100;
  expect(await session(await makeToken({ claims: { exp } }))).toEqual({
    success: true,
    name: 'oidc:ann',
    role: 'reader',
    key_required: true,
    expires_at: new Date(exp * 1000).toISOString(),
  });
  const signed = { header: { alg: 'ES256', kid: 'ec' }, key: ec.privateKey };
  expect((await ask(await makeToken(signed))).status).toBe(200);
});

test.each([
  [['reader', 'admin', 'operator'], 'admin'],
  [['market_sync_operator'], 'operator'],
  ['market_sync_admin', 'admin'],
  ['openid reader', 'reader'],
  [['something', 'reader'], 'reader'],
])('of the roles %j the highest counts: %s', async (roles, role) => {
  expect(await session(await makeToken({ claims: { roles } }))).toMatchObject({ role });
});

test.each([
  [undefined],
  [[]],
  [['Admin']],
  ['administrator'],
  [{ admin: true }],
  [['superadmin', 7, null]],
  [null],
])('a token whose roles are %j is known, and may nothing', async (roles) => {
  await expectProblem(await ask(await makeToken({ claims: { roles } })), 'role_refused');
});

test('the claim with the roles may be a path, and nothing inherited is one', async () => {
  const nested = build({ roleClaim: 'realm_access.roles' });
  const claims = { roles: undefined, realm_access: { roles: ['operator'] } };
  expect(await session(await makeToken({ claims }), nested)).toMatchObject({ role: 'operator' });
  const literal = { roles: undefined, 'realm_access.roles': ['admin'] };
  expect(await session(await makeToken({ claims: literal }), nested)).toMatchObject({ role: 'admin' });
  await expectProblem(
    await ask(await makeToken(), LIST, build({ roleClaim: 'constructor.name' })),
    'role_refused',
  );
});

const minutes = (count: number): number => Math.floor(Date.now() / 1000) + count * 60;
const wrong: [string, () => Promise<string>][] = [
  ['of another issuer', () => makeToken({ claims: { iss: 'https://evil.example' } })],
  ['without an issuer', () => makeToken({ claims: { iss: undefined as never } })],
  ['for another audience', () => makeToken({ claims: { aud: 'another' } })],
  ['without an audience', () => makeToken({ claims: { aud: undefined as never } })],
  ['that has expired', () => makeToken({ claims: { exp: minutes(-1) } })],
  ['that never expires', () => makeToken({ claims: { exp: undefined as never } })],
  ['that is not valid yet', () => makeToken({ claims: { nbf: minutes(2) } })],
  ['without a subject', () => makeToken({ claims: { sub: undefined as never } })],
  ['with a subject that is none', () => makeToken({ claims: { sub: 'a\nb' } })],
  ['signed by a stranger', () => makeToken({ key: stranger.privateKey })],
  ['of an unknown key', () => makeToken({ header: { alg: 'RS256', kid: 'gone' }, key: stranger.privateKey })],
  [
    'that is not signed',
    async () =>
      new UnsecuredJWT({ roles: ['admin'], sub: 'ann', exp: minutes(5) })
        .setIssuer(issuer)
        .setAudience(AUDIENCE)
        .encode(),
  ],
  [
    'signed with the public key as if it were a secret',
    async () =>
      makeToken({
        header: { alg: 'HS256', kid: 'rsa' },
        key: new TextEncoder().encode(await exportSPKI(rsa.publicKey)),
      }),
  ],
  [
    'whose payload was exchanged',
    async () => {
      const [head, , signature] = (await makeToken()).split('.');
      const [, payload] = (await makeToken({ claims: { roles: ['admin'] } })).split('.');
      return `${head}.${payload}.${signature}`;
    },
  ],
  ['of no content', async () => 'a.b.c'],
];
test.each(wrong)('a token %s is refused', async (_, make) => {
  await expectProblem(await ask(await make()), 'key_refused');
});

test('an algorithm that the settings do not name is refused although its key is the issuer’s', async () => {
  const only = build({ algorithms: ['ES256'] });
  await expectProblem(await ask(await makeToken(), LIST, only), 'key_refused');
  const signed = { header: { alg: 'PS256', kid: 'rsa' }, key: await asPs256(rsa) };
  await expectProblem(await ask(await makeToken(signed)), 'key_refused');
});

async function asPs256(pair: Pair) {
  const jwk = { ...(await exportJWK(pair.privateKey)), alg: 'PS256' };
  return (await import('jose')).importJWK(jwk, 'PS256');
}

test('clocks may differ by half a minute', async () => {
  const seconds = (count: number) => Math.floor(Date.now() / 1000) + count;
  expect((await ask(await makeToken({ claims: { exp: seconds(-20), nbf: seconds(20) } }))).status).toBe(200);
});

test('the issuer is asked once for many calls, and not for every forged key id', async () => {
  const fresh = build();
  const before = asked.length;
  const token = await makeToken();
  const answers = await Promise.all(Array.from({ length: 20 }, () => ask(token, LIST, fresh)));
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
  for (let at = 0; at < 5; at += 1) {
    await ask(await makeToken({ header: { alg: 'RS256', kid: `forged ${at}` } }), LIST, fresh);
  }
  expect(asked.slice(before)).toEqual(['/realm/.well-known/openid-configuration', '/realm/keys']);
});

test.each([
  ['cannot be reached', () => 'http://127.0.0.1:1/realm'],
  ['has no description', () => `${issuer}/other`],
])('while the issuer %s the answer is 503, not that the token is wrong', async (_, where) => {
  const response = await ask(await makeToken(), LIST, build({ issuer: where() }));
  expect(response.headers.get('retry-after')).toBe('2');
  await expectProblem(response, 'identity_unavailable');
});

test('an issuer that calls itself something else, or sends its keys elsewhere, is not believed', async () => {
  for (const [name, found] of [
    ['liar', { issuer: 'https://other.example', jwks_uri: `${issuer}/keys` }],
    ['file', { issuer: `${issuer}/file`, jwks_uri: 'file:///etc/passwd' }],
  ] as const) {
    served.set(`/realm/${name}/.well-known/openid-configuration`, found);
    const response = await ask(await makeToken(), LIST, build({ issuer: `${issuer}/${name}` }));
    await expectProblem(response, 'identity_unavailable');
  }
});

test('while the keys cannot be had the answer is 503', async () => {
  served.set('/realm/keyless/.well-known/openid-configuration', {
    issuer: `${issuer}/keyless`,
    jwks_uri: `${issuer}/nowhere`,
  });
  const token = await makeToken({ claims: { iss: `${issuer}/keyless` } });
  await expectProblem(await ask(token, LIST, build({ issuer: `${issuer}/keyless` })), 'identity_unavailable');
});

test('an address that sends many wrong tokens is told so, and a right one still passes from there', async () => {
  const limited = createApi({
    ...api.ctx,
    requireKey: true,
    oidc: { issuer, audience: AUDIENCE, algorithms: ['RS256'], roleClaim: 'roles' },
    rateLimits: { ...api.ctx.rateLimits, failuresPerMinute: 2 },
  });
  const forged = await makeToken({ key: stranger.privateKey });
  for (let at = 0; at < 2; at += 1) await expectProblem(await ask(forged, LIST, limited), 'key_refused');
  await expectProblem(await ask(forged, LIST, limited), 'rate_limited');
  expect((await ask(await makeToken(), LIST, limited)).status).toBe(200);
});

test('where no issuer is set a token is a wrong key', async () => {
  await expectProblem(
    await ask(await makeToken(), LIST, createApi({ ...api.ctx, requireKey: true })),
    'key_refused',
  );
});
