/**
 * What happens now and then in the demo besides readings. `everyTicks` counts inserts of readings (2.5 a second unless
 * told otherwise), `firstTick` lets a newcomer see each kind early. Every kind has a limit, so that a demo left running
 * does not grow.
 */
export const DEMO_EVENTS: readonly { name: string; firstTick: number; everyTicks: number; sql: string }[] = [
  {
    name: 'booking confirmed',
    firstTick: 20,
    everyTicks: 100,
    sql: `update storage_bookings
      set booking_status = 'confirmed', vendor_confirmed = true, vendor_confirmed_at = now(), updated_at = now()
      where id = (select id from storage_bookings where booking_status = 'pending' order by created_at, id limit 1)`,
  },
  {
    name: 'crop inspected',
    firstTick: 45,
    everyTicks: 150,
    sql: `with booking as (
        select id, farmer_id, crop_type from storage_bookings
        where ai_inspection_id is null and booking_status in ('pending', 'confirmed', 'active')
        order by created_at, id limit 1
      ), inspection as (
        insert into crop_inspections
          (farmer_id, crop_detected, grade, freshness, freshness_score, visual_defects, shelf_life_days)
        select farmer_id, crop_type, 'B', 'good', round((70 + 25 * random())::numeric, 1), '', 20 + (100 * random())::int
        from booking returning id
      )
      update storage_bookings b set ai_inspection_id = inspection.id, updated_at = now()
      from booking, inspection where b.id = booking.id`,
  },
  {
    name: 'pest detected',
    firstTick: 70,
    everyTicks: 1_500,
    sql: `insert into pest_detections
        (location_id, pest_type, detection_method, severity_level, confidence_score, location_details, detected_at)
      select id, (array['rice weevil', 'red flour beetle', 'onion thrips', 'grey mould'])[1 + floor(random() * 4)::int], 'camera',
        (array['low', 'medium', 'high', 'critical'])[1 + floor(random() * 4)::int], round((0.5 + random() / 2)::numeric, 2),
        'bay ' || (1 + floor(random() * 12)::int), now()
      from storage_locations
      where (select count(*) from pest_detections where detected_at > now() - interval '7 days') < 60
      order by random() limit 1`,
  },
  {
    name: 'pest dealt with',
    firstTick: 110,
    everyTicks: 1_200,
    sql: `update pest_detections set resolved_at = now(), action_taken = 'fumigated'
      where id = (select id from pest_detections where resolved_at is null order by detected_at, id limit 1)`,
  },
  {
    name: 'booking moved on',
    firstTick: 160,
    everyTicks: 900,
    sql: `update storage_bookings
      set booking_status = case booking_status when 'confirmed' then 'active' else 'completed' end, updated_at = now()
      where id = (
        select id from storage_bookings where booking_status in ('confirmed', 'active') order by updated_at, id limit 1)`,
  },
  {
    name: 'booking made',
    firstTick: 200,
    everyTicks: 600,
    sql: `insert into storage_bookings (farmer_id, location_id, vendor_id, crop_type, quantity_kg, grade, duration_days,
        start_date, end_date, price_per_day, total_price)
      select farmer_id, location_id, vendor_id, crop_type, 100 * (5 + floor(random() * 200)::int), grade, duration_days,
        now() + interval '5 days', now() + interval '5 days' + make_interval(days => coalesce(duration_days, 30)), price_per_day, total_price
      from storage_bookings where (select count(*) from storage_bookings) < 200 order by random() limit 1`,
  },
  {
    name: 'old readings removed',
    firstTick: 2_500,
    everyTicks: 2_500,
    sql: `delete from sensor_readings where reading_time < now() - interval '1 day'`,
  },
];
