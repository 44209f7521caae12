// Types `npm start` as a newcomer would, in the current directory: waits for the addresses, changes a booking in SQL,
// sees the listing follow in MongoDB, stops with SIGTERM; twice, the second time after a kill -9 of everything.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const require = createRequire(join(process.cwd(), 'package.json'));
const { Client } = require('pg');
const { MongoClient } = require('mongodb');

const until = async (what, condition, deadlineMs = 60_000) => {
  const deadline = Date.now() + deadlineMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await delay(20);
  }
};

async function session(name, end) {
  const startedAt = Date.now();
  const npm = spawn('npm', ['start'], {
    env: { ...process.env, PORT: '0' },
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  });
  let output = '';
  npm.stdout.on('data', (chunk) => {
    output += chunk;
  });
  const exited = new Promise((resolve) => npm.on('exit', (code, signal) => resolve({ code, signal })));
  void exited.then((how) => {
    output += `\nended ${JSON.stringify(how)}`;
  });
  try {
    await until(
      'the addresses',
      () =>
        /ended/.test(output) ||
        (/API docs/.test(output) && /MongoDB {5}/.test(output) && /run\.json/.test(output)),
    );
    if (/\nended/.test(output)) throw new Error(`npm start ended early:\n${output}`);
    const run = JSON.parse(readFileSync('.data/run.json', 'utf8'));
    const mode = (statSync('.data/run.json').mode & 0o777).toString(8);
    if (mode !== '600') throw new Error(`run.json has mode ${mode}`);
    const mongo = await MongoClient.connect(run.mongodb_url);
    const listings = mongo.db(run.mongodb_database).collection('market_listings');
    await until('a first listing', async () => (await listings.countDocuments({ status: 'published' })) > 0);
    const firstListingMs = Date.now() - startedAt;
    const postgres = new Client(run.database_url);
    await postgres.connect();
    const { booking_id: id } = await listings.findOne({ status: 'published' });
    const quantity = 1 + Math.floor(Math.random() * 1e6);
    await postgres.query('update storage_bookings set quantity_kg = $1 where id = $2', [quantity, id]);
    const changedAt = performance.now();
    await until(
      'the change in the listing',
      async () => (await listings.findOne({ booking_id: id })).quantity_kg === quantity,
      10_000,
    );
    const latencyMs = Math.round(performance.now() - changedAt);
    const answer = await fetch(`${run.api_url}/storage-guard/snapshots/${id}`);
    if (answer.status !== 200 || (await answer.json()).snapshot.quantity_kg !== quantity)
      throw new Error('the API does not know the change');
    const rssKb = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${run.pid}/status`, 'utf8'))?.[1] ?? 0);
    await postgres.end();
    await mongo.close();
    console.log(
      `${name}: first listing after ${firstListingMs} ms, a change in MongoDB after ${latencyMs} ms, ${Math.round(rssKb / 1024)} MB resident`,
    );
    await end({ npm, run, exited });
  } catch (error) {
    console.log(output);
    throw error;
  } finally {
    try {
      process.kill(-npm.pid, 'SIGKILL');
    } catch {
      // It has ended.
    }
  }
}

await session('cold start', async ({ npm, run }) => {
  process.kill(run.pid, 'SIGKILL');
  process.kill(-npm.pid, 'SIGKILL');
});
await session('after kill -9', async ({ run, exited }) => {
  const at = Date.now();
  process.kill(run.pid, 'SIGTERM');
  const how = await Promise.race([exited, delay(15_000, 'late')]);
  const ms = Date.now() - at;
  if (how === 'late' || ms > 10_000) throw new Error(`SIGTERM took ${ms} ms`);
  if (how.code !== 0) throw new Error(`npm start ended with ${JSON.stringify(how)}`);
  if (existsSync('.data/run.json')) throw new Error('run.json was left behind');
  console.log(`stopped in ${ms} ms`);
});
await session('warm start', async ({ run, exited }) => {
  process.kill(run.pid, 'SIGINT');
  await exited;
});
