import { between, type Random } from './random.ts';

/** Where the readings of one kind of sensor stay, and beyond which value they raise their alert. */
export type Climate = Readonly<{ unit: string; low: number; high: number; alertAbove: number }>;

export const COLD: Readonly<Record<string, Climate>> = {
  temperature: { unit: '°C', low: 2, high: 7, alertAbove: 7.5 },
  humidity: { unit: '%', low: 85, high: 95, alertAbove: 97 },
  co2: { unit: 'ppm', low: 600, high: 2_400, alertAbove: 2_800 },
  gas: { unit: 'ppm', low: 0.2, high: 6, alertAbove: 7 },
};

export const DRY: Readonly<Record<string, Climate>> = {
  temperature: { unit: '°C', low: 17, high: 26, alertAbove: 28 },
  humidity: { unit: '%', low: 45, high: 62, alertAbove: 66 },
  moisture: { unit: '%', low: 10.5, high: 13.4, alertAbove: 14 },
  co2: { unit: 'ppm', low: 420, high: 900, alertAbove: 1_000 },
};

/** The climate a sensor of this type shows in a storage of this type; `undefined` for types the demo does not drive. */
export function climateOf(storageType: string | null, sensorType: string | null): Climate | undefined {
  return (storageType === 'cold_storage' ? COLD : DRY)[sensorType ?? ''];
}

/** The next value of a sensor: near the last one, drawn back to the middle, now and then past the alert. */
export function walk(random: Random, climate: Climate, value: number): number {
  const { high, low } = climate;
  const range = high - low;
  const next = value + 0.05 * ((high + low) / 2 - value) + between(random, -0.15, 0.15) * range;
  return Math.min(Math.max(next, low - 0.02 * range), high + 0.3 * range);
}

/** A value as a reading's columns hold it. */
export function measure(climate: Climate, value: number) {
  const alert = value > climate.alertAbove;
  return {
    reading_value: Number(value.toFixed(2)),
    reading_unit: climate.unit,
    alert_triggered: alert,
    alert_reason: alert ? `above ${climate.alertAbove} ${climate.unit}` : null,
  };
}
