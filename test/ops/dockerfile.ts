import { chmodSync, cpSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { join, relative } from 'node:path';
import { readText } from './files.ts';

const ROOT = join(import.meta.dirname, '..', '..');

interface Stage {
  image: string;
  name: string | undefined;
  workdir: string;
  environment: Record<string, string>;
  user: string | undefined;
  copies: { from: string | undefined; sources: string[]; target: string }[];
  runs: string[];
  entrypoint: string[];
  command: string[];
  healthcheck: string[];
}

/** The stages of the Dockerfile. Throws for an instruction, or a form of one, that nothing here follows. */
export function readStages(): Stage[] {
  const stages: Stage[] = [];
  const text = readText('Dockerfile')
    .replaceAll(/^\s*#.*$/gm, '')
    .replaceAll(/\\\n/g, ' ');
  for (const line of text.split('\n').filter((content) => content.trim() !== '')) {
    const [, instruction = '', rest = ''] = /^(\w+)\s+(.*)$/.exec(line) ?? [];
    if (instruction === 'FROM') {
      const [, image = '', name] = /^(\S+)(?: AS (\w+))?$/.exec(rest) ?? [];
      const empty = { workdir: '/', environment: {}, copies: [], runs: [] };
      stages.push({
        ...empty,
        image,
        name,
        user: undefined,
        entrypoint: [],
        command: [],
        healthcheck: [],
      });
      continue;
    }
    const stage = stages.at(-1);
    if (stage === undefined) throw new Error(`before FROM: ${line}`);
    follow(stage, instruction, rest);
  }
  return stages;
}

function follow(stage: Stage, instruction: string, rest: string): void {
  switch (instruction) {
    case 'WORKDIR':
      stage.workdir = rest;
      return;
    case 'ENV': {
      const [, name = '', value = ''] = /^(\w+)=(\S*)$/.exec(rest) ?? [];
      stage.environment[name] = value;
      return;
    }
    case 'COPY': {
      const [, from, paths = ''] = /^(?:--from=(\w+) )?(.*)$/.exec(rest) ?? [];
      const sources = paths.split(/\s+/);
      const target = sources.pop() ?? '';
      stage.copies.push({ from, sources, target });
      return;
    }
    case 'RUN':
      stage.runs.push(rest);
      return;
    case 'USER':
      stage.user = rest;
      return;
    case 'EXPOSE':
      return;
    case 'ENTRYPOINT':
      stage.entrypoint = execForm(rest);
      return;
    case 'CMD':
      stage.command = execForm(rest);
      return;
    case 'HEALTHCHECK':
      stage.healthcheck = execForm(rest.replace(/^(--\S+\s+)*CMD\s+/, ''));
      return;
    default:
      throw new Error(`not followed: ${instruction} ${rest}`);
  }
}

/** A shell between Docker and the program would keep its signals. */
function execForm(text: string): string[] {
  if (!text.startsWith('[')) throw new Error(`not in exec form: ${text}`);
  return JSON.parse(text) as string[];
}

/** Whether .dockerignore keeps this path out of the build: the last pattern that matches it, or a directory above it, decides. */
export function isIgnored(path: string): boolean {
  const parts = path.split('/');
  const above = parts.map((_, index) => parts.slice(0, index + 1).join('/'));
  let ignored = false;
  for (const line of readText('.dockerignore').split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const [keeps, pattern] = line.startsWith('!') ? [true, line.slice(1)] : [false, line];
    if (above.some((candidate) => toExpression(pattern).test(candidate))) ignored = !keeps;
  }
  return ignored;
}

/** Docker's `*` takes names that begin with a dot as well. */
const toExpression = (pattern: string): RegExp =>
  new RegExp(`^${pattern.replaceAll(/[.+^${}()|[\]\\]/g, '\\$&').replaceAll('*', '[^/]*')}$`);

/** Copies from the checkout as `docker build` would, for everybody to read. Throws for a source that is not there. */
export function copyFromCheckout({ source, target }: { source: string; target: string }): void {
  const path = join(ROOT, source);
  const into = target.endsWith('/') ? join(target, source) : target;
  if (isIgnored(source) || statSync(path, { throwIfNoEntry: false }) === undefined) {
    throw new Error(`COPY ${source}: no such file in what is sent to the build`);
  }
  cpSync(path, into, { recursive: true, filter: (from) => !isIgnored(relative(ROOT, from)) });
  openToAll(into);
}

function openToAll(path: string): void {
  const isDirectory = statSync(path).isDirectory();
  chmodSync(path, isDirectory ? 0o755 : 0o644);
  if (isDirectory) for (const entry of readdirSync(path)) openToAll(join(path, entry));
}

/** A directory that every user may enter. */
export function makeOpenDirectory(path: string): string {
  mkdirSync(path, { recursive: true });
  chmodSync(path, 0o755);
  return path;
}
