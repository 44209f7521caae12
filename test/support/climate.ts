import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';

const FILE = join(import.meta.dirname, '..', '..', '..', 'shared', 'data', 'room-climate.csv.gz');

/** One minute of the room: readings by type of sensor. */
export interface Minute {
  time: Date;
  readings: Record<'temperature' | 'humidity' | 'light' | 'co2', number>;
}

/** 10,808 minutes of one real room (UCI "Occupancy Detection", CC BY 4.0), in order; undefined where the file is not. */
export function readClimate(): Minute[] | undefined {
  if (!existsSync(FILE)) return undefined;
  const [header, ...lines] = gunzipSync(readFileSync(FILE)).toString('utf8').trim().split('\n');
  if (header !== 'time,temperature_c,humidity_pct,light_lux,co2_ppm')
    throw new Error(`unknown columns: ${header}`);
  return lines.map((line) => {
    const [time = '', ...values] = line.split(',');
    const [temperature = 0, humidity = 0, light = 0, co2 = 0] = values.map(Number);
    return { time: new Date(time), readings: { temperature, humidity, light, co2 } };
  });
}
