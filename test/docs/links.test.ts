import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { runProgram } from '../cli/program.ts';
import { readText } from '../ops/files.ts';
import { type CommandLine, isPending, PENDING, parseCommandLine } from './command-lines.ts';
import { listDocuments, readAnchors, readCode, readDocument } from './markdown.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const DOCUMENTS = listDocuments();

test.each(DOCUMENTS)(
  '%s: every link within this project leads to a file, and to a heading of it',
  (document) => {
    for (const [link, target = ''] of readDocument(document).prose.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      const [path = '', anchor] = target.split('#');
      const file = path === '' ? document : join(dirname(document), path);
      expect(existsSync(join(ROOT, file)), link).toBe(true);
      if (anchor !== undefined) expect(readAnchors(file), link).toContain(anchor);
    }
  },
);

test('every document is linked to from the README or from one that is', () => {
  const linked = DOCUMENTS.flatMap((document) =>
    [...readDocument(document).prose.matchAll(/\]\(([^)\s#]+)(?:#[^)]*)?\)/g)].map(([, path = '']) =>
      join(dirname(document), path),
    ),
  );
  for (const document of DOCUMENTS.slice(1)) expect(linked, document).toContain(document);
});

test.each(DOCUMENTS)('%s: every npm script and every file of a command exists', (document) => {
  const { scripts } = JSON.parse(readText('package.json')) as { scripts: Record<string, string> };
  for (const code of readCode(document)) {
    for (const [, name = ''] of code.matchAll(/npm run (?:-s |--silent )?([a-z][\w:-]*)/g)) {
      expect(Object.keys(scripts), code).toContain(name);
    }
    for (const [, file = ''] of code.matchAll(/\b(?:node|vitest run) ((?:test|src)\/[\w./-]+)/g)) {
      expect(existsSync(join(ROOT, file)), code).toBe(true);
    }
  }
});

let commands: Set<string>;
const helps = new Map<string, string>();

/** The program's own word for what it takes, asked once for each command. */
async function helpOf(words: string[]): Promise<string> {
  const key = words.join(' ');
  const known = helps.get(key);
  if (known !== undefined) return known;
  const { stdout } = await runProgram([...words, '--help']);
  // What follows are the settings.
  const help = stdout.split('\nSettings')[0] ?? '';
  helps.set(key, help);
  return help;
}

beforeAll(async () => {
  const help = await helpOf([]);
  commands = new Set([...help.matchAll(/^ {2}([a-z][a-z-]*)\b/gm)].map(([, name = '']) => name));
});

const commandLines = DOCUMENTS.flatMap((document) =>
  readCode(document).flatMap((code) => {
    const line = parseCommandLine(code);
    return line === undefined ? [] : [{ document, line, code }];
  }),
);

test('every command of market-sync that a document speaks of exists, with the options named', async () => {
  expect(commandLines.length).toBeGreaterThan(20);
  for (const { document, line, code } of commandLines) {
    const what = `${document}: ${code}`;
    if (isPending(line)) {
      const planned = PENDING[line.command] ?? PENDING[`${line.command} ${line.options[0]}`];
      for (const option of line.options) {
        if (!(`${line.command} ${option}` in PENDING)) expect(planned, what).toContain(option);
      }
      continue;
    }
    expect(commands, what).toContain(line.command);
    const help = await helpOf([line.command, line.subcommand ?? []].flat());
    for (const option of line.options) expect(help, what).toContain(option.split('=')[0]);
  }
});

test('no command stands as pending that the program has', async () => {
  for (const pending of Object.keys(PENDING)) {
    const [command = '', option] = pending.split(' ');
    const isThere =
      commands.has(command) && (option === undefined || (await helpOf([command])).includes(option));
    expect(isThere, `${pending} has arrived: take it out of PENDING in test/docs/command-lines.ts`).toBe(
      false,
    );
  }
});

test("the README's table of commands has each of them", () => {
  const listed = [...readText('README.md').matchAll(/^\| `([a-z]+)[^|]*(?:\\\|[^|]*)*` \|/gm)].map(
    ([, name]) => name,
  );
  for (const name of commands) if (name !== 'help') expect(listed).toContain(name);
});

test.each<[string, Partial<CommandLine> | undefined]>([
  ['market-sync status --json', { command: 'status', options: ['--json'] }],
  [
    'npm run market-sync -- keys create --name a',
    { command: 'keys', subcommand: 'create', options: ['--name'] },
  ],
  ['A=1 market-sync pipeline  # runs on', { settings: { A: '1' }, command: 'pipeline', options: [] }],
  ['market-sync COMMAND', undefined],
  ['docker build --tag market-sync .', undefined],
])('the reader of command lines understands %j', (text, expected) => {
  if (expected === undefined) expect(parseCommandLine(text)).toBeUndefined();
  else expect(parseCommandLine(text)).toMatchObject(expected);
});
