import type { ExpectedMetadata, ExpectedSensor } from '../support/oracle.ts';
import { INFINITY, type Instant, isoOf } from './instant.ts';
import { compareBytes, finite, objectOf } from './plain-values.ts';
import type { World } from './source-rows.ts';

type Sensor = World['sensors'][number];
type Reading = World['readings'][number];
type SensorNow = { sensor: Sensor; reading: Reading | undefined };

/** Every sensor of the location with its latest reading, in the order of their ids. */
export function latestReadings(world: World, locationId: string | null): SensorNow[] {
  if (locationId === null) return [];
  const sensors = world.sensors.filter((sensor) => sensor.locationId === locationId);
  sensors.sort((a, b) => compareBytes(a.id, b.id));
  return sensors.map((sensor) => {
    let reading: Reading | undefined;
    for (const candidate of world.readings) {
      if (candidate.sensorId !== sensor.id) continue;
      if (reading === undefined || isNewer(candidate, reading)) reading = candidate;
    }
    return { sensor, reading };
  });
}

function isNewer(a: Reading, b: Reading): boolean {
  if (a.time !== b.time) return a.time > b.time;
  return compareBytes(a.id, b.id) > 0;
}

/** Sensors that have a type and a reading, by type. */
function byType(sensors: SensorNow[]): Map<string, { sensor: Sensor; reading: Reading }[]> {
  const types = new Map<string, { sensor: Sensor; reading: Reading }[]>();
  for (const { sensor, reading } of sensors) {
    if (sensor.type === null || reading === undefined) continue;
    types.set(sensor.type, [...(types.get(sensor.type) ?? []), { sensor, reading }]);
  }
  return types;
}

export function sensorsPart(sensors: SensorNow[]): Record<string, ExpectedSensor> {
  return objectOf(
    [...byType(sensors)].map(([type, group]) => {
      const { sensor, reading } = group.reduce((best, next) =>
        isNewer(next.reading, best.reading) ? next : best,
      );
      return [
        type,
        {
          value: finite(reading.value),
          unit: reading.unit,
          reading_time: isoOf(reading.time),
          status: sensor.status,
          alert_triggered: reading.alertTriggered,
        },
      ];
    }),
  );
}

export function summaryPart(sensors: SensorNow[]): Record<string, number | null> {
  return objectOf(
    [...byType(sensors)].flatMap(([type, group]): [string, number | null][] => {
      const values = group.map(({ reading }) => finite(reading.value)).filter((value) => value !== null);
      const some = values.length > 0;
      // Divided before it is summed: the sum of two readings of 1.7e308 is infinite, their mean is not.
      const mean = values.reduce((sum, value) => sum + value / values.length, 0);
      const [min, max] = [Math.min(...values), Math.max(...values)];
      return [
        [`${type}_avg`, some ? Math.min(Math.max(mean, min), max) : null],
        [`${type}_min`, some ? min : null],
        [`${type}_max`, some ? max : null],
        [`${type}_count`, values.length],
      ];
    }),
  );
}

export function sensorHealth(
  sensors: SensorNow[],
  now: Instant,
  staleAfter: Instant,
): ExpectedMetadata['sensor_health'] {
  if (sensors.every(({ reading }) => reading === undefined)) return 'no_data';
  if (sensors.some(({ reading }) => reading?.alertTriggered === true)) return 'alert';
  const silent = sensors.some(({ sensor, reading }) => {
    if (sensor.status !== 'active') return false;
    const lastHeard = reading?.time ?? sensor.createdAt ?? -INFINITY;
    return now >= lastHeard + staleAfter;
  });
  return silent ? 'stale' : 'good';
}
