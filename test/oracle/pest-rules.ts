import type { ExpectedPestEvent } from '../support/oracle.ts';
import { INFINITY, type Instant, isoOf } from './instant.ts';
import { compareBytes, finite } from './plain-values.ts';
import type { World } from './source-rows.ts';

type Detection = World['detections'][number];

const timeOf = (detection: Detection): Instant | null => detection.detectedAt ?? detection.createdAt;

export const isSevere = (detection: Detection): boolean =>
  detection.severity === 'high' || detection.severity === 'critical';

/** Newest first. */
export function pestsInWindow(world: World, locationId: string | null, windowStart: Instant): Detection[] {
  if (locationId === null) return [];
  const inWindow = world.detections.filter((detection) => {
    const time = timeOf(detection);
    return detection.locationId === locationId && time !== null && time > windowStart;
  });
  return inWindow.sort((a, b) => {
    const [timeA, timeB] = [timeOf(a) ?? -INFINITY, timeOf(b) ?? -INFINITY];
    if (timeA !== timeB) return timeA > timeB ? -1 : 1;
    return compareBytes(b.id, a.id);
  });
}

export const pestEvent = (detection: Detection): ExpectedPestEvent => ({
  pest_type: detection.pestType ?? 'unknown',
  severity: detection.severity ?? 'low',
  confidence: detection.confidence === null ? 0 : finite(detection.confidence),
  detected_at: isoOf(detection.detectedAt),
  action_taken: detection.actionTaken ?? 'monitoring',
  resolved: detection.resolvedAt !== null,
});
