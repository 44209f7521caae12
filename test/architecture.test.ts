import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { expect, test } from 'vitest';

// The rules of the layout, each with its exceptions and the reason for every one of them. An exception that is no
// longer needed fails too.

const ROOT = join(import.meta.dirname, '..');

type Layer = 'core' | 'domain' | 'store' | 'embedded' | 'doctor' | 'api' | 'pipeline' | 'entry';

/** What each layer may import, besides itself and packages. */
const MAY_IMPORT: Record<Layer, Layer[]> = {
  core: [],
  domain: ['core'],
  store: ['core', 'domain'],
  embedded: ['core'],
  doctor: ['core', 'domain', 'store'],
  api: ['core', 'domain', 'store'],
  pipeline: ['core', 'domain', 'store'],
  entry: ['core', 'domain', 'store', 'embedded', 'doctor', 'api', 'pipeline'],
};

const IMPORT_EXCEPTIONS: Record<string, string> = {
  'src/mongo.ts -> src/domain/listing.ts':
    'a type only, erased at run time: the collection is typed where it is opened, so that nobody can write another shape',
};

/** One file owns each driver, so that its traps are handled in one place. */
const OWNERS: Record<string, RegExp> = {
  'pg-logical-replication': /^pipeline\/replication\.ts$/,
  'pg-boss': /^src\/queue(-schema)?\.ts$/,
  mongodb: /^src\/(mongo|store\/listings|store\/listing-(bulk|bytes|patches|size|versions))\.ts$/,
  bson: /^src\/embedded\/market\//,
  mingo: /^src\/embedded\/market\//,
  hono: /^src\/api\//,
  '@hono/node-server': /^src\/api\/server\.ts$/,
  '@hono/zod-openapi': /^src\/api\//,
  jose: /^src\/api\/oidc\.ts$/,
  'rate-limiter-flexible': /^src\/api\/rate-limit\.ts$/,
  commander: /^src\/commands\/command-line\.ts$/,
  pino: /^src\/log\.ts$/,
  'pino-pretty': /^src\/log\.ts$/,
  'prom-client': /^src\/api\/metrics\.ts$/,
};

/** `pg` itself, beyond its types: connections are made with the settings of `createPool`, but for these. */
const PG_OWNERS: Record<string, string> = {
  'src/postgres.ts': 'makes the pools',
  'src/lost-answer.ts': 'asks past a pool whose connections may be lost',
  'src/read-only.ts': 'makes connections that set nothing for their sessions: a pooler would hand it on',
  'src/embedded/start-server.ts': 'asks the server it has just started, before there is a pool',
  'src/embedded/postgres.ts': 'creates databases, which no pool of a database can do',
  'src/embedded/storage-guard.ts': 'escapes an identifier',
  'pipeline/replication-server.ts': 'IDENTIFY_SYSTEM needs a replication connection',
  'pipeline/replication.ts': 'tells an error of PostgreSQL on the stream from a lost connection',
};

const LINES_MAX = 300;

const LONG_FILES: Record<string, string> = {
  'src/store/listings.ts': 'every write of a listing, whose outcomes are told apart in one place',
  'src/mongo.ts': "the driver's one owner, with the tables of codes that classify its errors",
  'src/embedded/demo-data.ts': 'data',
};

interface Import {
  /** A path from the root for a file of ours, else what the statement says. */
  target: string;
  own: boolean;
  typeOnly: boolean;
}

interface SourceFile {
  path: string;
  text: string;
  imports: Import[];
}

function listFiles(directory: string): string[] {
  return readdirSync(join(ROOT, directory), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => join(entry.parentPath, entry.name).slice(ROOT.length + 1));
}

const STATEMENT = /^(?:import|export)\s(type\s)?(?:[^'"();=]*?\sfrom\s+)?['"]([^'"]+)['"]/gm;
const EXPRESSION = /\b(?:import|require)\(\s*['"`]([^'"`]+)['"`]/g;

function readSource(path: string): SourceFile {
  const text = readFileSync(join(ROOT, path), 'utf8');
  const toImport = (target: string, typeOnly: boolean): Import => {
    const own = target.startsWith('.');
    return { target: own ? join(dirname(path), target) : target, own, typeOnly };
  };
  return {
    path,
    text,
    imports: [
      ...[...text.matchAll(STATEMENT)].map(([, type, target = '']) => toImport(target, type !== undefined)),
      ...[...text.matchAll(EXPRESSION)].map(([, target = '']) => toImport(target, false)),
    ],
  };
}

const sources = [...listFiles('src'), ...listFiles('pipeline')].map(readSource);

function layerOf(path: string): Layer | undefined {
  const [top, second = '', third] = path.split('/');
  if (top === 'pipeline') return 'pipeline';
  if (top !== 'src') return undefined;
  if (path === 'src/main.ts' || second === 'commands') return 'entry';
  if (third === undefined) return 'core';
  return second in MAY_IMPORT ? (second as Layer) : undefined;
}

/** The package of an import: `@scope/name` of `@scope/name/inner`. */
function packageOf({ target, own }: Import): string | undefined {
  if (own) return undefined;
  return target
    .split('/')
    .slice(0, target.startsWith('@') ? 2 : 1)
    .join('/');
}

test('this test sees the imports there are', () => {
  expect(sources.length).toBeGreaterThan(80);
  expect(sources.find(({ path }) => path === 'src/commands/command-line.ts')?.imports).toContainEqual({
    target: 'src/commands/start.ts',
    own: true,
    typeOnly: false,
  });
  // Every line that looks like the end of an import is one that was read.
  for (const { path, text, imports } of sources) {
    const lines = text.match(/^(import|export|\}).*\sfrom\s'[^']+';$|^import '[^']+';$/gm) ?? [];
    expect(imports.length, path).toBeGreaterThanOrEqual(lines.length);
  }
});

test('every file belongs to a layer', () => {
  expect(sources.filter(({ path }) => layerOf(path) === undefined).map(({ path }) => path)).toEqual([]);
});

test('imports run one way: core, domain, store, then api and pipeline, then the entry points', () => {
  const against = sources.flatMap(({ path, imports }) =>
    imports
      .filter(({ own, target }) => own && target !== 'package.json')
      .filter(({ target }) => {
        const [from, to] = [layerOf(path), layerOf(target)];
        if (from === undefined || to === undefined) return true;
        return from !== to && !MAY_IMPORT[from].includes(to);
      })
      .map(({ target, typeOnly }) => `${path} -> ${target}${typeOnly ? '' : ' (more than a type)'}`),
  );
  expect(against).toEqual(Object.keys(IMPORT_EXCEPTIONS));
});

test('src never imports pipeline, but for the commands that start it', () => {
  const importers = sources.filter(
    ({ path, imports }) =>
      path.startsWith('src/') && imports.some(({ target }) => target.startsWith('pipeline/')),
  );
  expect(importers.map(({ path }) => dirname(path))).toEqual(importers.map(() => 'src/commands'));
});

test('no file imports itself by way of others', () => {
  const graph = new Map(
    sources.map(({ path, imports }) => [
      path,
      imports.filter(({ typeOnly }) => !typeOnly).map(({ target }) => target),
    ]),
  );
  const finished = new Set<string>();
  const visit = (path: string, trail: string[]): void => {
    if (finished.has(path)) return;
    expect(trail, `a cycle of imports through ${path}`).not.toContain(path);
    for (const target of graph.get(path) ?? []) visit(target, [...trail, path]);
    finished.add(path);
  };
  for (const path of graph.keys()) visit(path, []);
});

test.each(Object.entries(OWNERS))('the driver %s has one owner', (name, owner) => {
  const importers = sources.filter(({ imports }) => imports.some((entry) => packageOf(entry) === name));
  expect(importers.length).toBeGreaterThan(0);
  expect(importers.map(({ path }) => path).filter((path) => !owner.test(path))).toEqual([]);
});

test('connections to PostgreSQL are made where their settings are', () => {
  const importers = sources.filter(({ imports }) =>
    imports.some(({ target, typeOnly }) => target === 'pg' && !typeOnly),
  );
  expect(importers.map(({ path }) => path).toSorted()).toEqual(Object.keys(PG_OWNERS).toSorted());
});

test(`a file longer than ${LINES_MAX} lines has a reason, and a reason has a long file`, () => {
  const long = sources.filter(({ text }) => text.trimEnd().split('\n').length > LINES_MAX);
  expect(long.map(({ path }) => path).toSorted()).toEqual(Object.keys(LONG_FILES).toSorted());
});

test('no file is named for a drawer', () => {
  const banned = /^(utils?|helpers?|common|misc|shared|types|index)(\.|$)/;
  const paths = [...sources.map(({ path }) => path), ...listFiles('test')];
  const drawers = paths.filter((path) => path.split('/').some((part) => banned.test(part)));
  expect(drawers.map((path) => basename(path))).toEqual([]);
});

test('exports have names', () => {
  expect(sources.filter(({ text }) => /^export default\b/m.test(text)).map(({ path }) => path)).toEqual([]);
});

/** The name of a test, or of a `test.each(…)`, and nothing else that takes a text and a function. */
const TEST_NAME =
  /(?:\btest(?:\.\w+)?|\))\(\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|`((?:[^`\\]|\\.)*)`),\s*(?:\{[^}]*\},\s*)?(?:async\s*)?(?:\(|\w+\s*=>)/g;

test('a test that fails is found by its name: no two have the same', () => {
  const places = new Map<string, string[]>();
  for (const path of listFiles('test').filter((file) => file.endsWith('.test.ts'))) {
    for (const [, single, double, template] of readFileSync(join(ROOT, path), 'utf8').matchAll(TEST_NAME)) {
      const name = single ?? double ?? template ?? '';
      places.set(name, [...(places.get(name) ?? []), path]);
    }
  }
  expect(places.size).toBeGreaterThan(150);
  expect([...places].filter(([, files]) => files.length > 1)).toEqual([]);
});
