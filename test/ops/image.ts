import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { copyFromCheckout, makeOpenDirectory, readStages } from './dockerfile.ts';

/** Not root, and the owner of nothing: `node` in the image, `nobody` here. */
const NOBODY = 65_534;

/** How long a command may take; installing is the longest. */
const COMMAND_TIMEOUT_MS = 50_000;

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface Running {
  child: ChildProcess;
  ended: Promise<Ended>;
  stdout(): string;
}

/** What the Dockerfile makes, without Docker: its last stage as a directory. */
export interface Image {
  /** The last stage's root. */
  root: string;
  /** Starts the entry point with these arguments and settings alone, not as root, in the image's directory. */
  start(args: readonly string[], settings: Record<string, string>): Running;
  run(args: readonly string[], settings?: Record<string, string>): Promise<Ended>;
  /** Runs the health check of the image as Docker does beside a command with these settings. */
  checkHealth(settings: Record<string, string>): Promise<number | null>;
  remove(): Promise<void>;
}

/** Follows the Dockerfile: copies what it copies, runs what it runs. Throws what failed. */
export async function buildImage(): Promise<Image> {
  const home = await mkdtemp(join(tmpdir(), 'market-sync-image-'));
  await chmod(home, 0o755);
  const stages = readStages();
  const rootOf = (stage: (typeof stages)[number]): string => join(home, stage.name ?? 'final');
  for (const stage of stages) {
    const workdir = makeOpenDirectory(join(rootOf(stage), stage.workdir));
    for (const { from, sources, target } of stage.copies) {
      const other = stages.find(({ name }) => from !== undefined && name === from);
      if (from !== undefined && other === undefined) throw new Error(`COPY --from=${from}: no such stage`);
      for (const source of sources) {
        // A target that ends in a slash is a directory, as with Docker.
        if (other === undefined) copyFromCheckout({ source, target: `${workdir}/${target}` });
        else
          await cp(join(rootOf(other), source), join(workdir, target), {
            recursive: true,
            verbatimSymlinks: true,
          });
      }
    }
    for (const command of stage.runs) {
      // What is in npm's cache from the installation of the tests themselves is not asked for again.
      const ended = await collect(
        spawn(command.replace('npm install', 'npm install --prefer-offline'), { cwd: workdir, shell: true }),
      ).ended;
      if (ended.code !== 0) throw new Error(`${command}:\n${ended.stdout}${ended.stderr}`);
    }
  }
  const last = stages.at(-1);
  if (last === undefined) throw new Error('the Dockerfile is empty');
  const root = rootOf(last);
  const node = await provideNode(home);

  const spawnIn = (command: readonly string[], settings: Record<string, string>): Running => {
    const [program, ...args] = command;
    if (program !== 'node') throw new Error(`not node: ${program}`);
    const translated = args.map((argument) =>
      argument.startsWith(`${last.workdir}/`) ? join(root, argument) : argument,
    );
    const isRoot = process.getuid?.() === 0;
    return collect(
      spawn(node, translated, {
        cwd: join(root, last.workdir),
        env: { PATH: '/usr/bin:/bin', ...last.environment, ...settings },
        stdio: ['ignore', 'pipe', 'pipe'],
        ...(isRoot ? { uid: NOBODY, gid: NOBODY } : {}),
      }),
    );
  };
  const start: Image['start'] = (args, settings) =>
    spawnIn([...last.entrypoint, ...(args.length === 0 ? last.command : args)], settings);
  return {
    root,
    start,
    run: (args, settings = {}) => start(args, settings).ended,
    checkHealth: async (settings) => (await spawnIn(last.healthcheck, settings).ended).code,
    remove: () => rm(home, { recursive: true, force: true }),
  };
}

/** This Node.js where any user may execute it: a checkout may lie under a directory that only its owner may enter. */
async function provideNode(home: string): Promise<string> {
  const node = join(home, 'node');
  await cp(process.execPath, node);
  await chmod(node, 0o755);
  return node;
}

function collect(child: ChildProcess): Running {
  let [stdout, stderr] = ['', ''];
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
  });
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk;
  });
  const overdue = setTimeout(() => child.kill('SIGKILL'), COMMAND_TIMEOUT_MS);
  const ended = once(child, 'close').then(([code, signal]) => {
    clearTimeout(overdue);
    return { code: code as number | null, signal: signal as NodeJS.Signals | null, stdout, stderr };
  });
  return { child, ended, stdout: () => stdout };
}
