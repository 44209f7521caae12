import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

/**
 * Runs a command against FerretDB 1.24, a MongoDB-compatible server that a Go toolchain can build anywhere:
 *
 *     node test/support/ferretdb.ts -- npx vitest run test/market
 *
 * The command finds its URL in TEST_MONGODB_URL. Exits with the command's code, or with 0 and one line on standard
 * output when FerretDB cannot be had here. The binary is kept in ~/.cache/market-sync.
 */

const VERSION = 'v1.24.2';
const MODULE = 'github.com/FerretDB/FerretDB';
const START_TIMEOUT_MS = 20_000;

/**
 * FerretDB as a library, which has no telemetry. `go install` of the module itself is refused by the module proxy (it
 * lists no versions), and the command built as a dependency panics at its start: its version file is not in the module.
 */
const PROGRAM = `package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"${MODULE}/ferretdb"
)

func main() {
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: "127.0.0.1:0"},
		Handler:   "sqlite",
		SQLiteURL: os.Args[1],
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() { fmt.Println(server.MongoDBURI()) }()
	_ = server.Run(ctx)
}
`;

/** Throws an error that says which step failed. */
async function provideBinary(): Promise<string> {
  const directory = join(homedir() || tmpdir(), '.cache', 'market-sync', `ferretdb-${VERSION.slice(1)}`);
  const binary = join(directory, 'ferretdb');
  if (await exists(binary)) return binary;
  await mkdir(directory, { recursive: true });
  const build = await mkdtemp(join(directory, 'build-'));
  try {
    await writeFile(join(build, 'main.go'), PROGRAM);
    await go(build, ['mod', 'init', 'market-sync-ferretdb']);
    await go(build, ['get', `${MODULE}/ferretdb@${VERSION}`]);
    await go(build, ['build', '-o', 'ferretdb', '.']);
    // At once, so that two runs side by side never see half a binary.
    await rename(join(build, 'ferretdb'), binary);
  } finally {
    await rm(build, { recursive: true, force: true });
  }
  return binary;
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

async function go(cwd: string, args: string[]): Promise<void> {
  const child = spawn('go', args, { cwd, stdio: ['ignore', 'ignore', 'pipe'] });
  let complaint = '';
  child.stderr.on('data', (chunk: Buffer) => {
    complaint = `${complaint}${chunk}`.slice(-300);
  });
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`go ${args[0]} failed: ${complaint.trim().split('\n').at(-1)}`);
}

async function startServer(binary: string): Promise<{ url: string; stop(): Promise<void> }> {
  const directory = await mkdtemp(join(tmpdir(), 'market-sync-ferretdb-'));
  const child = spawn(binary, [`file:${directory}/`], {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = once(child, 'exit');
  const stop = async () => {
    child.kill('SIGTERM');
    await exited;
    await rm(directory, { recursive: true, force: true });
  };
  const url = await Promise.race([
    once(createInterface({ input: child.stdout }), 'line', { signal: AbortSignal.timeout(START_TIMEOUT_MS) }),
    exited,
  ]).catch(() => []);
  if (typeof url[0] === 'string' && url[0].startsWith('mongodb://')) return { url: url[0], stop };
  await stop();
  throw new Error('the server did not start');
}

async function main(): Promise<number> {
  const [separator, command, ...args] = process.argv.slice(2);
  if (separator !== '--' || command === undefined) {
    console.error('usage: node test/support/ferretdb.ts -- COMMAND…');
    return 2;
  }
  let server: Awaited<ReturnType<typeof startServer>>;
  try {
    server = await startServer(await provideBinary());
  } catch (error) {
    console.log(`FerretDB not available: ${(error as Error).message}`);
    return 0;
  }
  // An interrupt reaches the command too; this process stays until the server is stopped.
  const stay = () => undefined;
  process.on('SIGINT', stay).on('SIGTERM', stay);
  try {
    const child = spawn(command, args, {
      stdio: 'inherit',
      env: { ...process.env, TEST_MONGODB_URL: server.url },
    });
    const [code] = await once(child, 'exit');
    return typeof code === 'number' ? code : 1;
  } catch (error) {
    console.error(`${command}: ${(error as Error).message}`);
    return 127;
  } finally {
    await server.stop();
  }
}

process.exitCode = await main();
