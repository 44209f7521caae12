import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { createRandom, type Random } from '../support/random.ts';

/** What the application's statements took in one phase, in milliseconds. */
interface PhaseReport {
  phase: string;
  statements: number;
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
}

export interface BusyApplication {
  /** What follows is measured under this name. */
  enter(phase: string): void;
  /** Ends the writers; answers what each phase saw, and every error that a statement had. */
  stop(): Promise<{ phases: PhaseReport[]; errors: unknown[] }>;
}

/**
 * The Storage Guard application, which knows nothing of all this and goes on writing: readings, bookings, detections, on
 * connections of its own, at a bounded speed, without a statement or lock timeout of its own.
 */
export async function startBusyApplication(options: {
  url: string;
  connections: number;
  statementsPerSecond: number;
}): Promise<BusyApplication> {
  const latencies = new Map<string, number[]>();
  const errors: unknown[] = [];
  let phase = 'before';
  let stopped = false;
  const write = async (client: pg.Client, random: Random): Promise<void> => {
    const known = await readKnown(client);
    const everyMs = (1_000 * options.connections) / options.statementsPerSecond;
    for (let nextAt = performance.now(); !stopped; nextAt = Math.max(nextAt + everyMs, performance.now())) {
      await delay(Math.max(nextAt - performance.now(), 0));
      const [text, values] = chooseStatement(random, known);
      const [measured, startedAt] = [phase, performance.now()];
      try {
        await client.query(text, values);
      } catch (error) {
        errors.push(error);
      }
      const taken = latencies.get(measured) ?? [];
      latencies.set(measured, taken);
      taken.push(performance.now() - startedAt);
    }
  };
  const clients = await Promise.all(
    Array.from({ length: options.connections }, async () => {
      const client = new pg.Client({ connectionString: options.url, application_name: 'storage guard' });
      await client.connect();
      return client;
    }),
  );
  const writers = clients.map((client, n) => write(client, createRandom(n + 1)));
  return {
    enter: (next) => {
      phase = next;
    },
    stop: async () => {
      stopped = true;
      await Promise.all(writers);
      for (const client of clients) await client.end();
      return { phases: [...latencies].map(([name, taken]) => summarize(name, taken)), errors };
    },
  };
}

interface Known {
  bookings: string[];
  sensors: string[];
  locations: string[];
}

async function readKnown(client: pg.Client): Promise<Known> {
  const ids = async (text: string): Promise<string[]> =>
    (await client.query<{ id: string }>(text)).rows.map((row) => row.id);
  return {
    bookings: await ids(
      `select id from storage_bookings where booking_status = 'active' order by id limit 5000`,
    ),
    sensors: await ids('select id from iot_sensors order by id limit 2000'),
    locations: await ids('select id from storage_locations order by id limit 500'),
  };
}

function chooseStatement(random: Random, { bookings, sensors, locations }: Known): [string, unknown[]] {
  const kind = random.below(100);
  if (kind < 55) {
    return [
      `insert into sensor_readings (sensor_id, reading_value, reading_unit, reading_time) values ($1, $2, '°C', now())`,
      [random.pick(sensors), random.between(0, 400) / 10],
    ];
  }
  if (kind < 75) return ['update iot_sensors set last_reading = now() where id = $1', [random.pick(sensors)]];
  if (kind < 92) {
    return [
      'update storage_bookings set quantity_kg = $2, updated_at = now() where id = $1',
      [random.pick(bookings), random.between(1, 900)],
    ];
  }
  if (kind < 96) {
    return [
      `insert into storage_bookings (farmer_id, location_id, crop_type, quantity_kg, booking_status)
       values (gen_random_uuid(), $1, 'Rice', $2, 'active')`,
      [random.pick(locations), random.between(1, 900)],
    ];
  }
  if (kind < 98)
    return [
      `update storage_bookings set booking_status = 'completed' where id = $1`,
      [random.pick(bookings)],
    ];
  return [
    `insert into pest_detections (location_id, pest_type, severity_level, confidence_score, detected_at)
     values ($1, 'moth', 'high', 0.8, now())`,
    [random.pick(locations)],
  ];
}

function summarize(phase: string, taken: number[]): PhaseReport {
  const sorted = taken.toSorted((a, b) => a - b);
  const at = (share: number): number =>
    Math.round((sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0) * 100) / 100;
  return { phase, statements: sorted.length, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) };
}
