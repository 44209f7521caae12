-- Reconcile: from dirty keys to snapshots that say what the source rows say now.
--
-- The only writer of what a snapshot contains. It recomputes from committed state and never applies a change (D3), so
-- that redelivery and reordering cost a recompute and nothing else. All recomputes take one lock first and read after
-- it, in a new statement (D3b): the one that writes last has read last. READ COMMITTED is required for that.

-- ISO 8601 in UTC, as JavaScript prints it; null for what JSON cannot hold.
create function market_sync.iso(t timestamptz) returns text language sql stable parallel safe
return case when isfinite(t) then to_char(t at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') end;
create function market_sync.iso(d date) returns text language sql stable parallel safe
return case when isfinite(d) then to_char(d, 'YYYY-MM-DD') end;
-- -0 becomes 0, and what JSON cannot hold becomes null.
create function market_sync.finite(x double precision) returns double precision language sql immutable parallel safe
return case when x in ('NaN', 'Infinity', '-Infinity') then null else x + 0 end;
-- A time as a buyer sees it, for hashing: milliseconds, null when infinite.
create function market_sync.shown(t timestamptz) returns timestamptz language sql stable parallel safe
return case when isfinite(t) then date_trunc('milliseconds', t) end;
comment on function market_sync.shown(timestamptz) is 'A time to the millisecond, as listings show it; null when infinite.';
comment on function market_sync.iso(timestamptz) is 'A time as ISO 8601 in UTC with milliseconds; null when infinite.';
comment on function market_sync.iso(date) is 'A date as YYYY-MM-DD; null when infinite.';
comment on function market_sync.finite(double precision) is 'The number, or null when JSON cannot hold it.';

create function market_sync.snapshot_metadata(
  is_certified boolean, certification_types text[], pest_alert_active boolean, sensor_health text, updated_at timestamptz)
returns jsonb language sql stable parallel safe
return jsonb_build_object(
  'is_certified', is_certified, 'certification_types', certification_types, 'pest_alert_active', pest_alert_active,
  'sensor_health', sensor_health, 'last_updated', market_sync.iso(updated_at), 'buyer_contacts', '[]'::jsonb,
  'special_notes', '');
comment on function market_sync.snapshot_metadata is 'The metadata object of a snapshot.';

-- Held to the end of the transaction by whoever recomputes snapshots, changes a revision or the epoch.
create function market_sync.lock_reconcile() returns void language plpgsql as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'reconcile needs READ COMMITTED, found %', current_setting('transaction_isolation')
      using errcode = 'feature_not_supported', hint = 'Begin the transaction with: begin isolation level read committed';
  end if;
  -- I2: a revision that was published and then lost in a crash would come again with other content, and MongoDB would
  -- keep the first; and the slot is acknowledged after the checkpoint. So this transaction waits for the disk, whatever
  -- the default of the role or the database is. Stronger settings stay.
  if current_setting('synchronous_commit') = 'off' then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  perform pg_advisory_xact_lock(5501, 1);
end
$$;
comment on function market_sync.lock_reconcile() is
  'Takes the lock of all recomputes until the end of the transaction: what is read after it is never older than what was written before it.';

-- Recomputes the given bookings as of p_now (PostgreSQL's clock when null) and writes what really changed.
--
-- One row per booking that has a snapshot afterwards. A booking at its end is frozen: the recompute that sees the end
-- is the last, later ones follow its own row only; one that has no snapshot by then gets none.
create function market_sync.recompute(p_booking_ids uuid[], p_now timestamptz)
returns table (booking_id uuid, changed boolean, revision bigint)
language plpgsql
set search_path from current
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_today date;
  v_far timestamptz;
  v_pest_window interval;
  v_stale_after interval;
  v_pest_since timestamptz;
  v_stale_before timestamptz;
  v_epoch int;
  v_revision_floor bigint;
begin
  perform market_sync.lock_reconcile();

  v_now := coalesce(p_now, clock_timestamp());
  v_today := (v_now at time zone 'UTC')::date;
  -- Times beyond this never come due; adding an interval to an absurd one would overflow.
  v_far := v_now + interval '876000 hours';
  select pest_window, sensor_stale_after into strict v_pest_window, v_stale_after from market_sync.settings;
  v_pest_since := v_now - v_pest_window;
  v_stale_before := v_now - v_stale_after;
  select epoch, revision_floor into strict v_epoch, v_revision_floor from market_sync.checkpoint;

  -- A snapshot that somebody else inserted (the system before this one, still running) has no state yet.
  insert into market_sync.snapshot_state (booking_id)
  select s.booking_id from market_inventory_snapshots s
  where s.booking_id = any (p_booking_ids)
    and not exists (select from market_sync.snapshot_state state where state.booking_id = s.booking_id)
  on conflict do nothing;

  return query
  with target as materialized (
    select
      key.booking_id, b.farmer_id, b.vendor_id, b.location_id, b.crop_type, b.grade, b.quantity_kg, b.start_date,
      b.end_date, b.duration_days, b.ai_inspection_id as inspection_id,
      s.booking_id is not null as has_snapshot,
      s.epoch as old_epoch, s.own_hash as old_own_hash, s.parts_hash as old_parts_hash,
      s.ended_at as old_ended_at, s.status as old_status,
      s.inspection_id as old_inspection_id, s.inspection_status as old_inspection_status, s.start_date as old_start_date,
      s.end_date as old_end_date,
      case
        when b.id is null or b.booking_status = 'cancelled' then 'withdrawn'
        when b.booking_status = 'completed' then 'completed'
        else 'ready_to_publish'
      end as new_status,
      -- full: all parts are recomputed; own: ended before, follows its own row; gone: its row is deleted
      case
        when b.id is null then 'gone'
        when b.booking_status in ('completed', 'cancelled') and s.ended_at is not null then 'own'
        else 'full'
      end as scope
    from (select distinct unnest(p_booking_ids) as booking_id) key
    left join storage_bookings b on b.id = key.booking_id
    left join market_inventory_snapshots s on s.booking_id = key.booking_id
    where s.booking_id is not null
      or (b.id is not null and (b.booking_status is null or b.booking_status not in ('completed', 'cancelled')))
  ),

  -- Sensors and pests once per location, certificates once per vendor, whatever number of bookings share them.
  location as materialized (
    select distinct location_id from target where scope = 'full' and location_id is not null
  ),
  reading as materialized (
    select
      location.location_id, sensor.id as sensor_id, sensor.sensor_type, sensor.status,
      latest.id is not null as heard,
      market_sync.finite(latest.reading_value) as value,
      latest.reading_unit as unit, latest.reading_time, coalesce(latest.alert_triggered, false) as alert,
      latest.id is not null and sensor.sensor_type is not null and row_number() over (
        partition by location.location_id, sensor.sensor_type
        order by latest.reading_time desc nulls last, latest.id desc nulls last
      ) = 1 as speaks,
      row_number() over (partition by location.location_id, sensor.sensor_type order by market_sync.finite(latest.reading_value)) as rank,
      sensor.status is not distinct from 'active' as active,
      coalesce(latest.reading_time, sensor.created_at) as last_heard_at
    from location
    join iot_sensors sensor on sensor.location_id = location.location_id
    left join lateral (
      select r.id, r.reading_value, r.reading_unit, r.reading_time, r.alert_triggered
      from sensor_readings r
      where r.sensor_id = sensor.id
      order by r.reading_time desc, r.id desc
      limit 1
    ) latest on true
  ),
  -- Hashes are of raw columns (building JSON is what costs), combined by xor: a rank makes equal rows distinct.
  -- The seed is not 0, with which a null and the number 0 have the same hash.
  -- They cover exactly what a buyer sees, so that nothing else counts as a change (D5).
  sensor_part as materialized (
    select
      location_id,
      bit_xor(case
        when speaks then
          hash_record_extended(
            row('speaks'::text, sensor_type, value, unit, market_sync.shown(reading_time), status, alert), 1)
        when value is not null and sensor_type is not null then
          hash_record_extended(row('heard'::text, sensor_type, value, rank), 1)
        else 0
      end) as hash,
      case
        when not bool_or(heard) then 'no_data'
        when bool_or(alert) then 'alert'
        when bool_or(active and (last_heard_at is null or last_heard_at <= v_stale_before)) then 'stale'
        else 'good'
      end as health,
      min(last_heard_at + v_stale_after) filter (
        where active and last_heard_at > v_stale_before and last_heard_at < v_far
      ) as next_refresh_at
    from reading
    group by location_id
  ),
  pest as materialized (
    select
      location.location_id, p.id, coalesce(p.pest_type, 'unknown') as pest_type,
      coalesce(p.severity_level, 'low') as severity,
      case when p.confidence_score is null then 0 else market_sync.finite(p.confidence_score) end as confidence,
      p.detected_at, coalesce(p.action_taken, 'monitoring') as action_taken, p.resolved_at is not null as resolved,
      coalesce(p.detected_at, p.created_at) as seen_at,
      row_number() over (
        partition by location.location_id order by coalesce(p.detected_at, p.created_at) desc, p.id desc) as rank
    from location
    join pest_detections p on p.location_id = location.location_id
    where coalesce(p.detected_at, p.created_at) > v_pest_since
  ),
  pest_part as materialized (
    select
      location_id,
      bit_xor(hash_record_extended(
        row(rank, pest_type, severity, confidence, market_sync.shown(detected_at), action_taken, resolved), 1)) as hash,
      count(*)::int as pest_count,
      bool_or(severity in ('high', 'critical')) as has_alerts,
      bool_or(severity in ('high', 'critical') and not resolved) as alert_active,
      min(seen_at + v_pest_window) filter (where seen_at < v_far) as next_refresh_at
    from pest
    group by location_id
  ),
  certificate as materialized (
    select
      vendor.vendor_id, c.id, c.certificate_type::text as type, c.issuing_authority, c.certificate_number,
      c.issue_date, c.expiry_date, c.status, c.document_url, c.score
    from (select distinct vendor_id from target where scope = 'full' and vendor_id is not null) vendor
    join compliance_certificates c on c.vendor_id = vendor.vendor_id
    where c.status = 'valid' and (c.expiry_date is null or c.expiry_date >= v_today)
  ),
  certificate_part as materialized (
    select
      vendor_id,
      bit_xor(hash_record_extended(row(id, type, issuing_authority, certificate_number, issue_date, expiry_date,
        status, document_url, score), 1)) as hash,
      (min(expiry_date) filter (where expiry_date < v_far::date) + 1)::timestamp at time zone 'UTC' as next_refresh_at
    from certificate
    group by vendor_id
  ),

  -- What the booking's snapshot must say, still as raw columns, and whether that differs from what it says.
  displayed as materialized (
    select
      t.*,
      case when i.id is not null then 'completed' else 'pending' end as inspection_status,
      case
        when i.freshness_score is null then 0
        when i.freshness_score in ('NaN', 'Infinity', '-Infinity') then null
        else round(least(greatest(i.freshness_score, -999.99), 999.99), 2)
      end as quality_score,
      coalesce(i.freshness, 'unknown') as freshness, coalesce(i.visual_defects, '') as visual_defects, i.shelf_life_days,
      coalesce(sensor_part.hash, 0) as sensor_hash, coalesce(sensor_part.health, 'no_data') as sensor_health,
      pest_part.hash as pest_hash, coalesce(pest_part.pest_count, 0) as pest_count,
      coalesce(pest_part.has_alerts, false) as has_pest_alerts,
      coalesce(pest_part.alert_active, false) as pest_alert_active,
      certificate_part.hash as certificate_hash,
      own_certificate.id as own_certificate_id, own_certificate.certificate_number, own_certificate.issued_date,
      own_certificate.certificate_status, own_certificate.digital_signature, own_certificate.issued_by,
      case when t.new_status = 'ready_to_publish' then
        least(sensor_part.next_refresh_at, pest_part.next_refresh_at, certificate_part.next_refresh_at)
      end as next_refresh_at
    from target t
    left join crop_inspections i on t.scope = 'full' and i.id = t.inspection_id
    left join sensor_part on t.scope = 'full' and sensor_part.location_id = t.location_id
    left join pest_part on t.scope = 'full' and pest_part.location_id = t.location_id
    left join certificate_part on t.scope = 'full' and certificate_part.vendor_id = t.vendor_id
    left join lateral (
      select sc.id, sc.certificate_number, sc.issued_date, sc.certificate_status, sc.digital_signature, sc.issued_by
      from storage_certificates sc
      where t.scope = 'full' and sc.booking_id = t.booking_id
        and (sc.certificate_status is null or sc.certificate_status not in ('revoked', 'expired'))
      limit 1
    ) own_certificate on true
  ),
  part as (
    select
      d.*,
      hash_record_extended(row(farmer_id, vendor_id, location_id, crop_type, grade, quantity_kg,
        market_sync.shown(start_date), market_sync.shown(end_date), duration_days, new_status), 1) as own_hash,
      hash_record_extended(row(quality_score, freshness, visual_defects, shelf_life_days, sensor_hash, sensor_health,
        pest_hash, certificate_hash, own_certificate_id, certificate_number, market_sync.shown(issued_date),
        certificate_status, digital_signature, issued_by), 1) as parts_hash
    from displayed d
  ),
  verdict as materialized (
    select
      part.*,
      not has_snapshot or old_epoch <> v_epoch or case scope
        when 'full' then own_hash is distinct from old_own_hash or parts_hash is distinct from old_parts_hash
        when 'own' then own_hash is distinct from old_own_hash
        else old_ended_at is null or old_status <> 'withdrawn'
      end as changed,
      -- Columns of the snapshot that are not in the listing: kept in step, but no change of it.
      has_snapshot and scope <> 'gone' and (
        (old_inspection_id, old_start_date, old_end_date) is distinct from (inspection_id, start_date, end_date)
        or (scope = 'full' and old_inspection_status is distinct from inspection_status)
      ) as unseen_changed
    from part
  ),

  -- JSON is built for what changed only.
  changed_location as materialized (
    select distinct location_id from verdict where changed and scope = 'full' and location_id is not null
  ),
  sensors_json as (
    select location_id, jsonb_object_agg(sensor_type, jsonb_build_object(
      'value', value, 'unit', unit, 'reading_time', market_sync.iso(reading_time), 'status', status,
      'alert_triggered', alert)) as body
    from reading
    where speaks and location_id in (select location_id from changed_location)
    group by location_id
  ),
  summary_json as (
    select location_id, jsonb_object_agg(entry.key, entry.value) as body
    from (
      -- numeric: the sum of doubles near their limit overflows; through text, because the cast drops digits
      select location_id, sensor_type,
        trim_scale(avg(value::text::numeric)) as average,
        min(value) as least_value, max(value) as greatest_value, count(value) as value_count
      from reading
      where heard and sensor_type is not null and location_id in (select location_id from changed_location)
      group by location_id, sensor_type
    ) type
    cross join lateral (values
      (sensor_type || '_avg', to_jsonb(average)),
      (sensor_type || '_min', to_jsonb(least_value)),
      (sensor_type || '_max', to_jsonb(greatest_value)),
      (sensor_type || '_count', to_jsonb(value_count))
    ) entry (key, value)
    group by location_id
  ),
  pests_json as (
    select location_id, jsonb_agg(jsonb_build_object(
      'pest_type', pest_type, 'severity', severity, 'confidence', confidence,
      'detected_at', market_sync.iso(detected_at), 'action_taken', action_taken, 'resolved', resolved)
      order by seen_at desc, id desc) as body
    from pest
    where location_id in (select location_id from changed_location)
    group by location_id
  ),
  certificates_json as (
    select booking_id, jsonb_agg(body order by type collate "C", id) as body,
      array_agg(distinct type collate "C") filter (where type is not null) as types
    from (
      select v.booking_id, c.type, c.id, jsonb_build_object(
        'id', c.id, 'type', c.type, 'issuer', c.issuing_authority, 'certificate_number', c.certificate_number,
        'issue_date', market_sync.iso(c.issue_date), 'expiry_date', market_sync.iso(c.expiry_date),
        'status', c.status, 'document_url', c.document_url, 'score', c.score) as body
      from verdict v
      join certificate c on c.vendor_id = v.vendor_id
      where v.changed and v.scope = 'full'
      union all
      select v.booking_id, 'storage_certificate', v.own_certificate_id, jsonb_build_object(
        'id', v.own_certificate_id, 'type', 'storage_certificate', 'certificate_number', v.certificate_number,
        'issued_date', market_sync.iso(v.issued_date), 'status', v.certificate_status,
        'digital_signature', v.digital_signature, 'issued_by', v.issued_by)
      from verdict v
      where v.changed and v.own_certificate_id is not null
    ) entry
    group by booking_id
  ),
  content as (
    select
      v.*,
      coalesce(sensors_json.body, '{}') as sensors, coalesce(summary_json.body, '{}') as sensor_summary,
      coalesce(pests_json.body, '[]') as pest_events, coalesce(certificates_json.body, '[]') as certificates,
      certificates_json.body is not null as is_certified,
      coalesce(certificates_json.types, '{}') as certification_types
    from verdict v
    left join sensors_json on sensors_json.location_id = v.location_id
    left join summary_json on summary_json.location_id = v.location_id
    left join pests_json on pests_json.location_id = v.location_id
    left join certificates_json on certificates_json.booking_id = v.booking_id
    where v.changed
  ),

  -- Rows are locked in one order by all who write them, state before snapshot, so that nobody deadlocks.
  locked as materialized (
    select state.booking_id
    from verdict v
    join market_sync.snapshot_state state on state.booking_id = v.booking_id
    where v.has_snapshot and (v.changed or v.unseen_changed
      or state.next_refresh_at is distinct from v.next_refresh_at or state.failed_stage = 'reconcile')
    order by state.booking_id
    for update of state
  ),
  updated as (
    update market_inventory_snapshots s set
      epoch = v_epoch,
      revision = s.revision + 1,
      status = c.new_status,
      ended_at = case when c.new_status <> 'ready_to_publish' then coalesce(s.ended_at, v_now) end,
      updated_at = v_now,
      own_hash = case when c.scope <> 'gone' then c.own_hash end,
      parts_hash = case when c.scope = 'full' then c.parts_hash else s.parts_hash end,
      farmer_id = case when c.scope <> 'gone' then c.farmer_id else s.farmer_id end,
      vendor_id = case when c.scope <> 'gone' then c.vendor_id else s.vendor_id end,
      location_id = case when c.scope <> 'gone' then c.location_id else s.location_id end,
      crop_type = case when c.scope <> 'gone' then c.crop_type else s.crop_type end,
      grade = case when c.scope <> 'gone' then c.grade else s.grade end,
      quantity_kg = case when c.scope <> 'gone' then c.quantity_kg else s.quantity_kg end,
      start_date = case when c.scope <> 'gone' then c.start_date else s.start_date end,
      end_date = case when c.scope <> 'gone' then c.end_date else s.end_date end,
      duration_days = case when c.scope <> 'gone' then c.duration_days else s.duration_days end,
      inspection_id = case when c.scope <> 'gone' then c.inspection_id else s.inspection_id end,
      inspection_status = case when c.scope = 'full' then c.inspection_status else s.inspection_status end,
      quality_score = case when c.scope = 'full' then c.quality_score else s.quality_score end,
      freshness = case when c.scope = 'full' then c.freshness else s.freshness end,
      visual_defects = case when c.scope = 'full' then c.visual_defects else s.visual_defects end,
      shelf_life_days = case when c.scope = 'full' then c.shelf_life_days else s.shelf_life_days end,
      sensors = case when c.scope = 'full' then c.sensors else s.sensors end,
      sensor_summary = case when c.scope = 'full' then c.sensor_summary else s.sensor_summary end,
      pest_events = case when c.scope = 'full' then c.pest_events else s.pest_events end,
      has_pest_alerts = case when c.scope = 'full' then c.has_pest_alerts else s.has_pest_alerts end,
      pest_count = case when c.scope = 'full' then c.pest_count else s.pest_count end,
      certificates = case when c.scope = 'full' then c.certificates else s.certificates end,
      is_certified = case when c.scope = 'full' then c.is_certified else s.is_certified end,
      certification_types = case when c.scope = 'full' then c.certification_types else s.certification_types end,
      metadata = case
        when c.scope = 'full' then market_sync.snapshot_metadata(
          c.is_certified, c.certification_types, c.pest_alert_active, c.sensor_health, v_now)
        else coalesce(s.metadata, '{}') || jsonb_build_object('last_updated', market_sync.iso(v_now))
      end
    from content c, locked
    where s.booking_id = c.booking_id and locked.booking_id = c.booking_id
    returning s.booking_id, s.revision
  ),
  kept_in_step as (
    update market_inventory_snapshots s
    set inspection_id = v.inspection_id, start_date = v.start_date, end_date = v.end_date,
      inspection_status = case when v.scope = 'full' then v.inspection_status else s.inspection_status end
    from verdict v, locked
    where s.booking_id = v.booking_id and locked.booking_id = v.booking_id and v.unseen_changed and not v.changed
  ),
  inserted as (
    insert into market_inventory_snapshots (
      booking_id, epoch, revision, status, own_hash, parts_hash, created_at, updated_at,
      farmer_id, vendor_id, location_id, crop_type, grade, quantity_kg, start_date, end_date, duration_days, inspection_id,
      inspection_status, quality_score, freshness, visual_defects, shelf_life_days,
      sensors, sensor_summary, pest_events, has_pest_alerts, pest_count, certificates, is_certified, certification_types,
      metadata)
    select
      c.booking_id, v_epoch, v_revision_floor + 1, c.new_status, c.own_hash, c.parts_hash, v_now, v_now,
      c.farmer_id, c.vendor_id, c.location_id, c.crop_type, c.grade, c.quantity_kg, c.start_date, c.end_date,
      c.duration_days, c.inspection_id,
      c.inspection_status, c.quality_score, c.freshness, c.visual_defects,
      c.shelf_life_days,
      c.sensors, c.sensor_summary, c.pest_events, c.has_pest_alerts, c.pest_count, c.certificates, c.is_certified,
      c.certification_types,
      market_sync.snapshot_metadata(c.is_certified, c.certification_types, c.pest_alert_active, c.sensor_health, v_now)
    from content c
    where not c.has_snapshot
    returning booking_id, revision
  ),
  written as (
    select * from updated union all select * from inserted
  ),
  -- A change gives a parked snapshot one more attempt; nothing else about a failure is forgotten before it succeeds.
  state as (
    insert into market_sync.snapshot_state (booking_id, epoch, revision, next_refresh_at, next_attempt_at)
    select written.booking_id, v_epoch, written.revision, v.next_refresh_at, clock_timestamp()
    from written
    join verdict v on v.booking_id = written.booking_id
    on conflict (booking_id) do update set
      epoch = excluded.epoch, revision = excluded.revision, next_refresh_at = excluded.next_refresh_at,
      -- What changed is not cleaned up: its listing may be gone already, and is written again at once.
      claimed_by = nullif(snapshot_state.claimed_by, 'cleanup'),
      lease_until = case when snapshot_state.claimed_by is distinct from 'cleanup' then snapshot_state.lease_until end,
      parked_at = null, next_attempt_at = case
        when snapshot_state.attempts > 0 and snapshot_state.parked_at is null then snapshot_state.next_attempt_at
        else excluded.next_attempt_at end
  ),
  -- The content is the same, but the clock's next change of it is another; or it could not be computed for a while, and
  -- what was parked for that goes on.
  kept as (
    update market_sync.snapshot_state state
    set next_refresh_at = v.next_refresh_at,
      attempts = case when failed_stage = 'reconcile' then 0 else attempts end,
      last_error = case when failed_stage = 'reconcile' then null else last_error end,
      next_attempt_at = case when failed_stage = 'reconcile' then '-infinity' else next_attempt_at end,
      parked_at = case when failed_stage = 'reconcile' then null else parked_at end,
      failed_stage = nullif(failed_stage, 'reconcile')
    from verdict v, locked
    where not v.changed and state.booking_id = v.booking_id and locked.booking_id = v.booking_id
      and (state.next_refresh_at is distinct from v.next_refresh_at or failed_stage = 'reconcile')
  ),
  -- Wakes the publishers when this transaction commits.
  notified as materialized (
    select pg_notify('market_sync_publish', '') from written limit 1
  )
  select v.booking_id, v.changed, written.revision
  from verdict v
  left join written on written.booking_id = v.booking_id
  where (select count(*) from notified) >= 0;

  -- Parked before it ever had a snapshot, and by now there is nothing to make one of.
  delete from market_sync.snapshot_state state
  where state.booking_id = any (p_booking_ids) and state.revision = 0
    and not exists (select from market_inventory_snapshots s where s.booking_id = state.booking_id);
end
$$;
comment on function market_sync.recompute(uuid[], timestamptz) is
  'Recomputes these bookings'' snapshots and writes what really changed. Called through market_sync.reconcile().';

-- As recompute, but a booking whose data cannot be processed is parked with its error and holds up nobody else (I7).
create function market_sync.reconcile(p_booking_ids uuid[], p_now timestamptz default null)
returns table (booking_id uuid, changed boolean, revision bigint)
language plpgsql
set search_path from current
as $$
declare
  v_booking_id uuid;
begin
  begin
    return query select * from market_sync.recompute(p_booking_ids, p_now);
  exception when data_exception or integrity_constraint_violation or program_limit_exceeded then
    if cardinality(p_booking_ids) = 1 then
      perform market_sync.record_failure(p_booking_ids[1], sqlstate || ' ' || sqlerrm, interval '0', 1);
      return;
    end if;
    foreach v_booking_id in array p_booking_ids loop
      return query select * from market_sync.reconcile(array[v_booking_id], p_now);
    end loop;
  end;
end
$$;
comment on function market_sync.reconcile(uuid[], timestamptz) is
  'Recomputes these bookings'' snapshots from committed state and writes what really changed. One that cannot be processed is parked.';

-- Dirty keys to bookings. What fans out (a location, a vendor, an inspection) touches live bookings only; a booking's
-- own change touches it whatever its state.
create function market_sync.resolve_keys(
  p_bookings uuid[], p_locations uuid[], p_sensors uuid[], p_vendors uuid[], p_inspections uuid[])
returns uuid[]
language sql stable
set search_path from current
as $$
  select coalesce(array_agg(id), '{}') from (
    select unnest(p_bookings) as id
    union
    select b.id from storage_bookings b
    where b.location_id in (
        select unnest(p_locations) union select n.location_id from iot_sensors n where n.id = any (p_sensors))
      and (b.booking_status is null or b.booking_status not in ('completed', 'cancelled'))
    union
    select b.id from storage_bookings b
    where b.vendor_id = any (p_vendors)
      and (b.booking_status is null or b.booking_status not in ('completed', 'cancelled'))
    union
    select b.id from storage_bookings b
    where b.ai_inspection_id = any (p_inspections)
      and (b.booking_status is null or b.booking_status not in ('completed', 'cancelled'))
  ) dirty
$$;
comment on function market_sync.resolve_keys(uuid[], uuid[], uuid[], uuid[], uuid[]) is
  'The bookings whose snapshots these dirty keys touch.';

-- True when every transaction of p_xids is visible to a statement that starts now.
--
-- A commit arrives on the replication stream once its WAL is flushed, and only then does PostgreSQL take it off the
-- list of running transactions (D3a): what is read in between is the old state. The stream carries 32 bits of a
-- transaction id; the rest is taken from the nearest current one.
create function market_sync.all_visible(p_xids bigint[]) returns boolean language sql volatile as $$
  select coalesce(bool_and(pg_visible_in_snapshot(
    (case
      when nearest - newest > 2147483648 then nearest - 4294967296
      when newest - nearest > 2147483648 then nearest + 4294967296
      else nearest
    end)::text::xid8, snapshot)), true)
  from (select pg_current_snapshot() as snapshot,
      pg_snapshot_xmax(pg_current_snapshot())::text::bigint as newest) now
  cross join unnest(p_xids) as xid
  cross join lateral (select (newest / 4294967296) * 4294967296 + xid as nearest) id
$$;
comment on function market_sync.all_visible(bigint[]) is
  'Whether every one of these transactions (32-bit ids from the replication stream) is visible by now.';

-- One batch of the consumer: proves that what it covers is visible, recomputes, and moves the checkpoint, all in one
-- transaction. Answers
--   outcome 'done':        snapshots and checkpoint are written
--   outcome 'not_visible': nothing was written, call again in a moment
--   outcome 'too_many':    nothing was written; bookings lists what to recompute in chunks before calling again
-- Raises MS001 when another consumer has taken over (I6).
create function market_sync.reconcile_batch(
  p_generation bigint, p_commit_lsn pg_lsn, p_xids bigint[],
  p_bookings uuid[], p_locations uuid[], p_sensors uuid[], p_vendors uuid[], p_inspections uuid[],
  p_bookings_max int, p_lease interval, p_now timestamptz default null, p_resync text default null,
  out outcome text, out bookings uuid[], out changed_count int, out booking_count int)
language plpgsql
set search_path from current
as $$
begin
  changed_count := 0;
  booking_count := 0;
  perform market_sync.lock_reconcile();
  if not market_sync.all_visible(p_xids) then
    outcome := 'not_visible';
    return;
  end if;
  bookings := market_sync.resolve_keys(p_bookings, p_locations, p_sensors, p_vendors, p_inspections);
  booking_count := cardinality(bookings);
  if booking_count > p_bookings_max then
    outcome := 'too_many';
    return;
  end if;
  if booking_count > 0 then
    select count(*) filter (where r.changed) into changed_count from market_sync.reconcile(bookings, p_now) r;
  end if;
  bookings := null;
  if p_resync is not null then
    perform market_sync.request_resync(p_resync);
  end if;
  update market_sync.checkpoint
  set commit_lsn = greatest(commit_lsn, p_commit_lsn), lease_until = clock_timestamp() + p_lease, updated_at = clock_timestamp()
  where generation = p_generation;
  if not found then
    raise exception 'another consumer has taken over' using errcode = 'MS001';
  end if;
  outcome := 'done';
end
$$;
comment on function market_sync.reconcile_batch is
  'One batch of the consumer: visibility proved, snapshots recomputed, checkpoint moved, in one transaction.';

-- Asks for a recompute of everything. One request that has not begun yet serves all who ask.
create function market_sync.request_resync(p_reason text) returns bigint
language plpgsql
set search_path from current
as $$
declare
  v_id bigint;
begin
  perform market_sync.lock_reconcile();
  select id into v_id from market_sync.resync where started_at is null and finished_at is null order by id limit 1;
  if v_id is null then
    insert into market_sync.resync (reason) values (p_reason) returning id into v_id;
  end if;
  perform pg_notify('market_sync_resync', '');
  return v_id;
end
$$;
comment on function market_sync.request_resync(text) is 'Asks the pipeline to recompute every snapshot; says why.';
