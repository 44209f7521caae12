import type pg from 'pg';

/**
 * Rebuilds one snapshot as the polling system does: the booking, then a query per part and per sensor, put together in
 * the program, then the update. As well as that can be done: every query has its index, on one warm connection.
 */
export async function rebuildByPolling(client: pg.PoolClient, bookingId: string): Promise<void> {
  const one = async (text: string, value: unknown): Promise<Record<string, unknown> | undefined> =>
    (await client.query<Record<string, unknown>>(text, [value])).rows[0];
  const all = async (text: string, value: unknown): Promise<Record<string, unknown>[]> =>
    (await client.query<Record<string, unknown>>(text, [value])).rows;

  const booking = await one('select * from storage_bookings where id = $1', bookingId);
  if (booking === undefined) return;
  const inspection =
    booking.ai_inspection_id === null
      ? undefined
      : await one('select * from crop_inspections where id = $1', booking.ai_inspection_id);
  const sensors: Record<string, unknown> = {};
  const summary: Record<string, unknown> = {};
  for (const sensor of await all('select * from iot_sensors where location_id = $1', booking.location_id)) {
    const reading = await one(
      'select * from sensor_readings where sensor_id = $1 order by reading_time desc limit 1',
      sensor.id,
    );
    if (reading === undefined) continue;
    const type = String(sensor.sensor_type);
    sensors[type] = {
      value: reading.reading_value,
      unit: reading.reading_unit,
      reading_time: reading.reading_time,
      status: sensor.status,
      alert_triggered: reading.alert_triggered,
    };
    for (const part of ['avg', 'min', 'max']) summary[`${type}_${part}`] = reading.reading_value;
    summary[`${type}_count`] = 1;
  }
  const pests = await all(
    `select * from pest_detections where location_id = $1 and detected_at > now() - interval '7 days' order by detected_at desc`,
    booking.location_id,
  );
  const certificates = await all(
    `select * from compliance_certificates where vendor_id = $1 and status = 'valid' and expiry_date >= current_date`,
    booking.vendor_id,
  );
  const own = await one(
    `select * from storage_certificates where booking_id = $1 and certificate_status not in ('revoked', 'expired')`,
    bookingId,
  );
  if (own !== undefined) certificates.push(own);
  const types = [
    ...new Set(certificates.map((entry) => String(entry.certificate_type ?? 'storage_certificate'))),
  ].sort();
  const pestEvents = pests.map((pest) => ({
    pest_type: pest.pest_type,
    severity: pest.severity_level,
    confidence: pest.confidence_score,
    detected_at: pest.detected_at,
    action_taken: pest.action_taken,
    resolved: pest.resolved_at !== null,
  }));
  const alerts = pestEvents.some(({ severity }) => severity === 'high' || severity === 'critical');
  await client.query(
    `update market_inventory_snapshots set crop_type = $2, grade = $3, quantity_kg = $4, start_date = $5, end_date = $6,
       duration_days = $7, inspection_id = $8, inspection_status = $9, quality_score = $10, freshness = $11,
       visual_defects = $12, shelf_life_days = $13, sensors = $14, sensor_summary = $15, pest_events = $16,
       has_pest_alerts = $17, pest_count = $18, certificates = $19, is_certified = $20, certification_types = $21,
       metadata = $22, updated_at = now()
     where booking_id = $1`,
    [
      bookingId,
      booking.crop_type,
      booking.grade,
      booking.quantity_kg,
      booking.start_date,
      booking.end_date,
      booking.duration_days,
      booking.ai_inspection_id,
      inspection === undefined ? 'pending' : 'completed',
      inspection?.freshness_score ?? 0,
      inspection?.freshness ?? 'unknown',
      inspection?.visual_defects ?? '',
      inspection?.shelf_life_days ?? null,
      JSON.stringify(sensors),
      JSON.stringify(summary),
      JSON.stringify(pestEvents),
      alerts,
      pestEvents.length,
      JSON.stringify(certificates),
      certificates.length > 0,
      types,
      JSON.stringify({
        is_certified: certificates.length > 0,
        certification_types: types,
        pest_alert_active: alerts,
      }),
    ],
  );
}
