-- What changes is claimed where it is recomputed, for the publisher of the same process, which is handed what its listings need
-- with the answer. A change then writes each of its rows twice and not three times, and nobody looks for what is due. From the
-- dirty key to the mark a listing cost PostgreSQL 212 µs before and 152 after in batches of 25, 122 and 90 in batches of 200
-- (medians of interleaved runs, 10,000 bookings at 400 locations, a reading at each).

-- What became of one booking in a recompute: its snapshot, and where that is claimed, what its listing needs.
create type market_sync.reconciled as (
  booking_id uuid,
  changed boolean,
  revision bigint,
  claimed boolean,
  epoch int,
  market_listing_id text,
  base_revision bigint,
  location_id uuid,
  metadata jsonb,
  sensors jsonb,
  sensor_summary jsonb
);
comment on type market_sync.reconciled is
  'A booking that has a snapshot after a recompute. claimed: for whom the recompute was asked to claim. base_revision: the listing has this revision, and needs nothing but its sensors; null: all of the snapshot. sensors, sensor_summary: with one of the bookings of each location, which stands for all that have a base_revision.';

drop function market_sync.recompute(uuid[], timestamptz, timestamptz);

-- Recomputes the given bookings as of p_now (PostgreSQL's clock when null) and writes what really changed.
--
-- One row per booking that has a snapshot afterwards. A booking at its end is frozen: the recompute that sees the end
-- is the last, later ones follow its own row only; one that has no snapshot by then gets none. So is one that a person
-- has withdrawn. An override speaks instead of the source until it ends; a hold changes nothing but the status.
--
-- p_committed_at: when the oldest change that is worked off was committed; null when nothing was (clock, hand, resync).
-- p_publisher: claims for it, with a lease, what changed and could be claimed; null claims nothing. Claimed in the same update,
-- a snapshot has two versions less to write: a claim of its own was a third of what a change cost PostgreSQL under load.
create function market_sync.recompute(
  p_booking_ids uuid[], p_now timestamptz, p_committed_at timestamptz, p_publisher text, p_claim_lease interval)
returns setof market_sync.reconciled
language plpgsql
set search_path from current
set plan_cache_mode = force_generic_plan
set jit = off
-- By index, whatever the size of a table on the day of the plan: read whole, a table of 5,000 rows costs more than a batch.
set enable_seqscan = off
-- I5: it locks one table after the other. Were it to wait longer for one that an application has locked, while that waits for
-- another, PostgreSQL would end whoever came later, which is the application. Less than deadlock_timeout; whoever calls tries again.
set lock_timeout = '400ms'
-- What is hashed are raw columns, what is written is text: the session of whoever asks must not decide how it is printed,
-- because no later recompute would see a difference.
set extra_float_digits = 1
set timezone = 'UTC'
set datestyle = 'ISO'
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_now_iso text;
  v_today date;
  v_far timestamptz;
  v_pest_window interval;
  v_stale_after interval;
  v_publish_interval interval;
  v_pest_since timestamptz;
  v_stale_before timestamptz;
  v_epoch int;
  v_revision_floor bigint;
  -- Set by the functions of manual actions, for the history of the booking and nothing else.
  v_manual boolean := current_setting('market_sync.manual', true) is not distinct from 'on';
  v_row_count bigint;
  v_publisher text;
  v_claimed_at timestamptz := clock_timestamp();
begin
  perform market_sync.lock_reconcile();
  -- While the pipeline is paused nothing is claimed (D26).
  if not market_sync.is_paused() then
    v_publisher := p_publisher;
  end if;

  v_now := coalesce(p_now, clock_timestamp());
  v_now_iso := market_sync.iso(v_now);
  v_today := (v_now at time zone 'UTC')::date;
  -- Times beyond this never come due; adding an interval to an absurd one would overflow.
  v_far := v_now + interval '876000 hours';
  select pest_window, sensor_stale_after, publish_interval into strict v_pest_window, v_stale_after, v_publish_interval
  from market_sync.settings;
  v_pest_since := v_now - v_pest_window;
  v_stale_before := v_now - v_stale_after;
  select epoch, revision_floor into strict v_epoch, v_revision_floor from market_sync.checkpoint;

  return query
  with target as materialized (
    select
      key.booking_id, b.farmer_id, b.vendor_id, b.location_id, b.crop_type, coalesce(o.grade, b.grade) as grade,
      b.quantity_kg, b.start_date,
      b.end_date, b.duration_days, b.ai_inspection_id as inspection_id,
      s.booking_id is not null as has_snapshot,
      s.epoch as old_epoch, s.own_hash as old_own_hash, s.parts_hash as old_parts_hash,
      s.ended_at as old_ended_at, s.status as old_status,
      s.inspection_id as old_inspection_id, s.inspection_status as old_inspection_status, s.start_date as old_start_date,
      s.end_date as old_end_date,
      o.quality_score as override_quality_score, o.freshness as override_freshness,
      o.visual_defects as override_visual_defects, o.special_notes, o.expires_at as override_expires_at,
      case
        when b.id is null or b.booking_status = 'cancelled' or m.state = 'withdrawn' then 'withdrawn'
        when b.booking_status = 'completed' then 'completed'
        when m.state = 'held' then 'held'
        else 'ready_to_publish'
      end as new_status,
      -- full: all parts are recomputed; own: ended before, follows its own row; gone: its row is deleted
      case
        when b.id is null then 'gone'
        when (b.booking_status in ('completed', 'cancelled') or m.state = 'withdrawn') and s.ended_at is not null then 'own'
        else 'full'
      end as scope
    from market_sync.distinct_ids(p_booking_ids) key (booking_id)
    left join storage_bookings b on b.id = key.booking_id
    left join market_inventory_snapshots s on s.booking_id = key.booking_id
    left join market_sync.manual_state m on m.booking_id = key.booking_id
    left join market_sync.override o
      on o.booking_id = key.booking_id and (o.expires_at is null or o.expires_at > v_now
        -- Frozen with the booking: what was in force at its end stays.
        or (o.expires_at > s.ended_at and (b.booking_status in ('completed', 'cancelled') or m.state = 'withdrawn')))
    where s.booking_id is not null
      or (b.id is not null and (b.booking_status is null or b.booking_status not in ('completed', 'cancelled'))
        and m.state is distinct from 'withdrawn')
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
      row_number() over (partition by location.location_id, sensor.sensor_type
        -- Of equal values the one that speaks comes first: else chance decides what rank the others are hashed with.
        order by market_sync.finite(latest.reading_value), latest.reading_time desc nulls last, latest.id desc nulls last) as rank,
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
  -- The seed is not 0, with which a null and 0, a float, have the same hash.
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
      case when isfinite(c.issue_date) then c.issue_date end as issue_date, c.expiry_date,
      -- Shown alike, and so no change of one another: a day that JSON cannot hold, and none.
      case when isfinite(c.expiry_date) then c.expiry_date end as shown_expiry_date,
      c.status, c.document_url, c.score
    from market_sync.few_ids(array(select distinct vendor_id from target where scope = 'full' and vendor_id is not null)) vendor (vendor_id)
    join compliance_certificates c on c.vendor_id = vendor.vendor_id
    where c.status = 'valid' and (c.expiry_date is null or c.expiry_date >= v_today)
  ),
  certificate_part as materialized (
    select
      vendor_id,
      bit_xor(hash_record_extended(row(id, type, issuing_authority, certificate_number, issue_date, shown_expiry_date,
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
        when t.override_quality_score is not null then t.override_quality_score
        when i.freshness_score is null then 0
        when i.freshness_score in ('NaN', 'Infinity', '-Infinity') then null
        else round(least(greatest(i.freshness_score, -999.99), 999.99), 2)
      end as quality_score,
      coalesce(t.override_freshness, i.freshness, 'unknown') as freshness,
      coalesce(t.override_visual_defects, i.visual_defects, '') as visual_defects, i.shelf_life_days,
      coalesce(sensor_part.hash, 0) as sensor_hash, coalesce(sensor_part.health, 'no_data') as sensor_health,
      pest_part.hash as pest_hash, coalesce(pest_part.pest_count, 0) as pest_count,
      coalesce(pest_part.has_alerts, false) as has_pest_alerts,
      coalesce(pest_part.alert_active, false) as pest_alert_active,
      certificate_part.hash as certificate_hash,
      own_certificate.id as own_certificate_id, own_certificate.certificate_number, own_certificate.issued_date,
      own_certificate.certificate_status, own_certificate.digital_signature, own_certificate.issued_by,
      case when t.new_status in ('ready_to_publish', 'held') then
        least(sensor_part.next_refresh_at, pest_part.next_refresh_at, certificate_part.next_refresh_at,
          case when t.override_expires_at < v_far then t.override_expires_at end)
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
        certificate_status, digital_signature, issued_by), 1)
        -- Apart, so that a snapshot without notes has the hash that it had before there were any.
        # case when special_notes is null then 0 else hash_record_extended(row('notes'::text, special_notes), 1) end
        -- With this seed no score and the score 0, a numeric, have the same hash, as with 0 a float has; both can be.
        # case when quality_score is null then 1 else 0 end
        as parts_hash,
      -- Without what comes from the sensors, to tell whether a listing needs nothing else.
      hash_record_extended(row(quality_score, freshness, visual_defects, shelf_life_days,
        pest_hash, certificate_hash, own_certificate_id, certificate_number, market_sync.shown(issued_date),
        certificate_status, digital_signature, issued_by, special_notes), 1)
        # case when quality_score is null then 1 else 0 end as rest_hash
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
      case
        when not has_snapshot then 'new'
        when old_epoch <> v_epoch then 'epoch'
        when v_manual then 'manual'
        when scope = 'gone' or own_hash is distinct from old_own_hash then 'own'
        else 'parts'
      end as cause,
      -- Columns of the snapshot that are not in the listing: kept in step, but no change of it.
      has_snapshot and scope <> 'gone' and (
        (old_inspection_id, old_start_date, old_end_date) is distinct from (inspection_id, start_date, end_date)
        or (scope = 'full' and old_inspection_status is distinct from inspection_status)
      ) as unseen_changed
    from part
  ),

  -- Rows are locked in one order by all who write them, state before snapshot, so that nobody deadlocks.
  locked as materialized (
    select state.booking_id, state.revisions_remembered, state.parts_remembered_at, state.rest_hash,
      v_publisher is not null
        and state.failed_stage is null and state.parked_at is null
        and (state.lease_until is null or state.lease_until <= v_claimed_at)
        and (state.sent_at is null or state.sent_at <= v_claimed_at - v_publish_interval) as claimable,
      -- As market_sync.claim_bookings() has it.
      case when state.rest_known_at = state.revision and state.published_epoch = v_epoch
          and state.published_revision >= state.rest_revision
        then state.published_revision end as base_revision
    from verdict v
    join market_sync.snapshot_state state on state.booking_id = v.booking_id
    where v.has_snapshot and (v.changed or v.unseen_changed
      or state.next_refresh_at is distinct from v.next_refresh_at or state.failed_stage = 'reconcile')
    order by state.booking_id
    for update of state
  ),
  changed_booking as materialized (
    select
      v.*, coalesce(locked.revisions_remembered, 0) as revisions_remembered, locked.parts_remembered_at,
      -- A hash that was taken away, by a repair or by hand, says that nothing is known of what was written.
      v.cause <> 'parts' or v.scope <> 'full' or v.old_own_hash is null or v.old_parts_hash is null
        or locked.rest_hash is distinct from v.rest_hash as rest_changed,
      coalesce(locked.claimable, false) as claimed, locked.base_revision
    from verdict v
    -- Not there: a snapshot that somebody else inserted (the system before this one, still running) has no state yet.
    left join locked on locked.booking_id = v.booking_id
    where v.changed
  ),

  -- JSON is built for what changed only: mostly for the sensors.
  changed_location as materialized (
    select location_id, bool_or(rest_changed) as rest_changed
    from changed_booking where scope = 'full' and location_id is not null group by location_id
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
    where location_id in (select location_id from changed_location where rest_changed)
    group by location_id
  ),
  changed_vendor as materialized (
    select distinct vendor_id from changed_booking where rest_changed and scope = 'full' and vendor_id is not null
  ),
  -- Once per vendor, like sensors once per location: building them for each booking cost a third of a recompute. In the
  -- vendor's list the booking's own certificate has its place between those before and after its type.
  vendor_json as (
    select vendor_id,
      jsonb_agg(body order by type collate "C", id) as certificates,
      coalesce(jsonb_agg(body order by type collate "C", id) filter (where place = 'before'), '[]') as before,
      -- Of the same type as the booking's own: then their ids decide, booking by booking.
      jsonb_agg(body) filter (where place = 'among') as among,
      coalesce(jsonb_agg(body order by type collate "C", id) filter (where place = 'after'), '[]') as after,
      coalesce(array_agg(distinct type collate "C") filter (where type is not null), '{}') as types,
      coalesce(array_agg(distinct type collate "C") filter (where place = 'before'), '{}') as types_before,
      coalesce(array_agg(distinct type collate "C") filter (where place = 'after' and type is not null), '{}') as types_after
    from (
      select vendor_id, type, id,
        case
          when type collate "C" < 'storage_certificate' then 'before'
          when type = 'storage_certificate' then 'among'
          else 'after'
        end as place,
        jsonb_build_object(
          'id', id, 'type', type, 'issuer', issuing_authority, 'certificate_number', certificate_number,
          'issue_date', market_sync.iso(issue_date), 'expiry_date', market_sync.iso(shown_expiry_date),
          'status', status, 'document_url', document_url, 'score', score) as body
      from certificate
      where vendor_id in (select vendor_id from changed_vendor)
    ) entry
    group by vendor_id
  ),
  content as (
    select
      v.*,
      coalesce(sensors_json.body, '{}') as sensors, coalesce(summary_json.body, '{}') as sensor_summary,
      coalesce(pests_json.body, '[]') as pest_events,
      case
        when own.body is null then coalesce(vendor.certificates, '[]')
        when vendor.vendor_id is null then own.body
        when vendor.among is null then vendor.before || own.body || vendor.after
        else vendor.before || (
          select jsonb_agg(entry order by (entry ->> 'id')::uuid) from jsonb_array_elements(vendor.among || own.body) entry
        ) || vendor.after
      end as certificates,
      vendor.vendor_id is not null or own.body is not null as is_certified,
      case
        when own.body is null then coalesce(vendor.types, '{}')
        else coalesce(vendor.types_before, '{}') || '{storage_certificate}'::text[] || coalesce(vendor.types_after, '{}')
      end as certification_types
    from changed_booking v
    left join sensors_json on sensors_json.location_id = v.location_id
    left join summary_json on summary_json.location_id = v.location_id
    left join pests_json on pests_json.location_id = v.location_id
    left join vendor_json vendor on v.rest_changed and v.scope = 'full' and vendor.vendor_id = v.vendor_id
    cross join lateral (
      select case when v.rest_changed and v.own_certificate_id is not null then jsonb_build_array(jsonb_build_object(
        'id', v.own_certificate_id, 'type', 'storage_certificate', 'certificate_number', v.certificate_number,
        'issued_date', market_sync.iso(v.issued_date), 'status', v.certificate_status,
        'digital_signature', v.digital_signature, 'issued_by', v.issued_by)) end as body
    ) own
  ),

  updated as (
    update market_inventory_snapshots s set
      epoch = v_epoch,
      revision = s.revision + 1,
      status = case when c.claimed and c.new_status = 'ready_to_publish' then 'publishing' else c.new_status end,
      published_at = case when c.claimed then coalesce(s.published_at, date_trunc('milliseconds', v_claimed_at)) else s.published_at end,
      ended_at = case when c.new_status in ('completed', 'withdrawn') then coalesce(s.ended_at, v_now) end,
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
      pest_events = case when c.scope = 'full' and c.rest_changed then c.pest_events else s.pest_events end,
      has_pest_alerts = case when c.scope = 'full' then c.has_pest_alerts else s.has_pest_alerts end,
      pest_count = case when c.scope = 'full' then c.pest_count else s.pest_count end,
      certificates = case when c.scope = 'full' and c.rest_changed then c.certificates else s.certificates end,
      is_certified = case when c.scope = 'full' and c.rest_changed then c.is_certified else s.is_certified end,
      certification_types = case when c.scope = 'full' and c.rest_changed then c.certification_types else s.certification_types end,
      metadata = case
        when c.scope = 'full' then market_sync.snapshot_metadata(
          case when c.rest_changed then c.is_certified else s.is_certified end,
          case when c.rest_changed then c.certification_types else s.certification_types end,
          c.pest_alert_active, c.sensor_health, c.special_notes, v_now_iso)
        else coalesce(s.metadata, '{}') || jsonb_build_object('last_updated', v_now_iso)
      end
    from content c
    where s.booking_id = c.booking_id
      -- True of all; it says that they are few, so that each is looked up, whatever the size of the table on the day of the plan.
      and c.scope in ('full', 'own', 'gone')
    returning s.booking_id, s.revision, c.new_status, c.next_refresh_at, c.cause, c.revisions_remembered,
      case when c.scope = 'full' then c.rest_hash end as rest_hash, c.rest_changed,
      -- Readings come every few seconds, and would push everything else out of the ring: one a minute is enough.
      c.cause <> 'parts' or c.parts_remembered_at is null
        or c.parts_remembered_at <= v_now - interval '1 minute' as memorable,
      c.claimed, case when not c.rest_changed then c.base_revision end as base_revision, s.market_listing_id::text, s.metadata,
      s.location_id
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
      c.booking_id, v_epoch, greatest(v_revision_floor, known.revision, known.published_revision) + 1, c.new_status, c.own_hash, c.parts_hash, v_now, v_now,
      c.farmer_id, c.vendor_id, c.location_id, c.crop_type, c.grade, c.quantity_kg, c.start_date, c.end_date,
      c.duration_days, c.inspection_id,
      c.inspection_status, c.quality_score, c.freshness, c.visual_defects,
      c.shelf_life_days,
      c.sensors, c.sensor_summary, c.pest_events, c.has_pest_alerts, c.pest_count, c.certificates, c.is_certified,
      c.certification_types,
      market_sync.snapshot_metadata(c.is_certified, c.certification_types, c.pest_alert_active, c.sensor_health, c.special_notes, v_now_iso)
    from content c
    -- Left when somebody has deleted the snapshot alone: MongoDB may have all of these revisions.
    left join market_sync.snapshot_state known on known.booking_id = c.booking_id
    where not c.has_snapshot
    returning booking_id, revision
  ),
  written as (
    select * from updated
    union all
    select i.booking_id, i.revision, v.new_status, v.next_refresh_at, v.cause, 0, v.rest_hash, true, true,
      false, null, null, null, null
    from inserted i
    join verdict v on v.booking_id = i.booking_id
  ),
  -- A change gives a parked snapshot one more attempt; nothing else about a failure is forgotten before it succeeds.
  state as (
    insert into market_sync.snapshot_state (booking_id, epoch, revision, next_refresh_at, next_attempt_at, changed_at,
      revisions_remembered, parts_remembered_at, rest_hash, rest_revision, rest_known_at,
      claimed_by, claimed_at, sent_at, lease_until)
    select booking_id, v_epoch, revision, next_refresh_at, clock_timestamp(), p_committed_at,
      memorable::int, case when memorable and cause = 'parts' then v_now end, rest_hash, case when rest_changed then revision end, revision,
      case when claimed then v_publisher end, case when claimed then clock_timestamp() end, case when claimed then v_claimed_at end,
      case when claimed then v_claimed_at + p_claim_lease end
    from written
    on conflict (booking_id) do update set
      epoch = excluded.epoch, revision = excluded.revision, next_refresh_at = excluded.next_refresh_at,
      -- What changed is not cleaned up: its listing may be gone already, and is written again at once.
      claimed_by = coalesce(excluded.claimed_by, nullif(snapshot_state.claimed_by, 'cleanup')),
      lease_until = case
        when excluded.claimed_by is not null then excluded.lease_until
        when snapshot_state.claimed_by is distinct from 'cleanup' then snapshot_state.lease_until end,
      claimed_at = coalesce(excluded.claimed_at, snapshot_state.claimed_at),
      sent_at = coalesce(excluded.sent_at, snapshot_state.sent_at),
      -- It could not be computed, and now it was.
      attempts = case when snapshot_state.failed_stage = 'reconcile' then 0 else snapshot_state.attempts end,
      first_failed_at = case when snapshot_state.failed_stage = 'publish' then snapshot_state.first_failed_at end,
      last_failed_at = case when snapshot_state.failed_stage = 'publish' then snapshot_state.last_failed_at end,
      last_error = case when snapshot_state.failed_stage = 'publish' then snapshot_state.last_error end,
      failed_stage = nullif(snapshot_state.failed_stage, 'reconcile'),
      revisions_remembered = snapshot_state.revisions_remembered + excluded.revisions_remembered,
      parts_remembered_at = coalesce(excluded.parts_remembered_at, snapshot_state.parts_remembered_at),
      rest_hash = excluded.rest_hash, rest_known_at = excluded.revision,
      rest_revision = case
        when excluded.rest_revision is null and snapshot_state.rest_known_at = snapshot_state.revision then snapshot_state.rest_revision
        else excluded.revision end,
      -- What waits already waits since its oldest change.
      changed_at = case
        when (snapshot_state.epoch, snapshot_state.revision) > (snapshot_state.published_epoch, snapshot_state.published_revision)
          then least(snapshot_state.changed_at, excluded.changed_at)
        else excluded.changed_at end,
      parked_at = null, next_attempt_at = case
        when snapshot_state.attempts > 0 and snapshot_state.parked_at is null and snapshot_state.failed_stage = 'publish' then snapshot_state.next_attempt_at
        -- What changes all the time is not written all the time; what a person does is not kept waiting.
        when v_manual then excluded.next_attempt_at
        else greatest(excluded.next_attempt_at, snapshot_state.sent_at + v_publish_interval) end
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
  -- The last revisions of each booking, in a ring: bounded, and nothing to clean up.
  remembered as (
    insert into market_sync.revision (booking_id, ring, epoch, revision, at, status, cause)
    select booking_id, revisions_remembered % 16, v_epoch, revision, v_now, new_status, cause
    from written where memorable
    on conflict (booking_id, ring) do update set
      epoch = excluded.epoch, revision = excluded.revision, at = excluded.at, status = excluded.status, cause = excluded.cause
  ),
  -- Wakes the publishers unless all is claimed, and tells who watches what changed, when this transaction commits.
  notified as materialized (
    select pg_notify('market_sync_publish',
      jsonb_build_object('changed', count(*), 'unclaimed', count(*) filter (where not claimed),
        'bookings', (array_agg(booking_id))[1 : 20])::text)
    from written having count(*) > 0
  )
  select v.booking_id, v.changed, w.revision, coalesce(w.claimed, false), v_epoch, w.market_listing_id, w.base_revision,
    w.location_id, case when w.claimed then w.metadata end,
    case when w.speaks then coalesce(sensors_json.body, '{}') end, case when w.speaks then coalesce(summary_json.body, '{}') end
  from verdict v
  left join (
    -- Printed and sent once for each location, whatever number of its bookings are claimed.
    select written.*, claimed and base_revision is not null and row_number() over (
      partition by location_id, claimed and base_revision is not null) = 1 as speaks
    from written
  ) w on w.booking_id = v.booking_id
  left join sensors_json on w.speaks and sensors_json.location_id = w.location_id
  left join summary_json on w.speaks and summary_json.location_id = w.location_id
  where (select count(*) from notified) >= 0;

  get diagnostics v_row_count = row_count;
  if v_row_count = cardinality(p_booking_ids) then
    return;
  end if;
  -- Parked before it ever had a snapshot, and by now there is nothing to make one of.
  delete from market_sync.snapshot_state state
  where state.booking_id = any (p_booking_ids) and state.revision = 0
    and not exists (select from market_inventory_snapshots s where s.booking_id = state.booking_id);
end
$$;
comment on function market_sync.recompute is
  'Recomputes these bookings'' snapshots and writes what really changed. Called through market_sync.reconcile_bookings().';

-- Dirty keys to bookings, in the order of the keys, those of a location side by side. What is too many for one batch is cut into
-- chunks: each recomputes the sensors of every location that it has a booking of, and what has been dirty longest comes first.
-- What fans out (a location, a vendor, an inspection) touches live bookings only; a booking's own change touches it whatever
-- its state.
create or replace function market_sync.resolve_keys(
  p_bookings uuid[], p_locations uuid[], p_sensors uuid[], p_vendors uuid[], p_inspections uuid[])
returns uuid[]
language plpgsql stable
set search_path from current
-- Planned for its arrays at every call, as a function in SQL is, it cost half a millisecond: a sixth of a batch of 25 bookings.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
as $$
begin
  -- "offset 0": each key is looked up, whatever the size of a table on the day of the plan.
  return (
    with location as (
      select place.location_id, min(place.place) as place from (
        select id as location_id, place from unnest(p_locations) with ordinality as l (id, place)
        union all
        select n.location_id, s.place
        from unnest(p_sensors) with ordinality as s (id, place)
        cross join lateral (select location_id from iot_sensors where id = s.id offset 0) n
      ) place
      group by place.location_id
    ), touched as (
      select asked.id, b.location_id, asked.place
      from unnest(p_bookings) with ordinality as asked (id, place)
      left join lateral (select location_id from storage_bookings where id = asked.id offset 0) b on true
      union all
      select b.id, b.location_id, location.place
      from location
      cross join lateral (
        select id, location_id from storage_bookings
        where location_id = location.location_id and (booking_status is null or booking_status not in ('completed', 'cancelled'))
        offset 0
      ) b
      union all
      select b.id, b.location_id, v.place
      from unnest(p_vendors) with ordinality as v (id, place)
      cross join lateral (
        select id, location_id from storage_bookings
        where vendor_id = v.id and (booking_status is null or booking_status not in ('completed', 'cancelled'))
        offset 0
      ) b
      union all
      select b.id, b.location_id, i.place
      from unnest(p_inspections) with ordinality as i (id, place)
      cross join lateral (
        select id, location_id from storage_bookings
        where ai_inspection_id = i.id and (booking_status is null or booking_status not in ('completed', 'cancelled'))
        offset 0
      ) b
    ), dirty as (
      select distinct on (id) id, location_id, place from touched order by id, place
    )
    select coalesce(array_agg(id order by place, location_id, id), '{}') from dirty
  );
end
$$;

-- As reconcile_bookings, and claims for p_publisher what changed: but for what is new, has failed, another publisher holds, or
-- was written less than publish_interval ago. Raises MS001 when the consumer of p_generation has lost its place meanwhile (I6):
-- what it claims, nobody might write. Null: no consumer's.
create function market_sync.reconcile_and_claim(
  p_booking_ids uuid[], p_now timestamptz, p_committed_at timestamptz, p_generation bigint,
  p_publisher text, p_claim_lease interval)
returns setof market_sync.reconciled
language plpgsql security definer
set search_path from current
as $$
declare
  v_booking_id uuid;
  v_started_at timestamptz;
  v_wait_max interval := current_setting('lock_timeout');
begin
  -- Another recompute is waited for as long as the session will: nobody else waits for that lock.
  perform market_sync.lock_reconcile();
  v_started_at := clock_timestamp();
  loop
    begin
      return query select * from market_sync.recompute(p_booking_ids, p_now, p_committed_at, p_publisher, p_claim_lease);
      exit;
    exception
      when lock_not_available then
        -- What it had locked is free again, for whoever waits for that. It goes on trying as long as the session would wait.
        if v_wait_max > interval '0' and clock_timestamp() - v_started_at > v_wait_max - interval '400 ms' then
          raise;
        end if;
        perform pg_sleep(0.05);
      when data_exception or integrity_constraint_violation or program_limit_exceeded then
        if cardinality(p_booking_ids) = 1 then
          perform market_sync.record_failure(p_booking_ids[1], sqlstate || ' ' || sqlerrm, interval '0', 1);
          return;
        end if;
        foreach v_booking_id in array p_booking_ids loop
          return query select * from market_sync.reconcile_and_claim(
            array[v_booking_id], p_now, p_committed_at, null, p_publisher, p_claim_lease);
        end loop;
        exit;
    end;
  end loop;
  if p_generation is not null then
    perform from market_sync.checkpoint where generation = p_generation for share;
    if not found then
      raise exception 'another consumer has taken over' using errcode = 'MS001';
    end if;
  end if;
end
$$;
comment on function market_sync.reconcile_and_claim is
  'reconcile_bookings() that claims what it changed for a publisher, with a lease, and answers what the listings of that need.';

create or replace function market_sync.reconcile_bookings(
  p_booking_ids uuid[], p_now timestamptz, p_committed_at timestamptz default null)
returns table (booking_id uuid, changed boolean, revision bigint)
language plpgsql security definer
set search_path from current
as $$
#variable_conflict use_column
begin
  return query
    select booking_id, changed, revision
    from market_sync.reconcile_and_claim(p_booking_ids, p_now, p_committed_at, null, null, null);
end
$$;

drop function market_sync.reconcile_batch(
  bigint, pg_lsn, bigint[], uuid[], uuid[], uuid[], uuid[], uuid[], int, interval, timestamptz, text, timestamptz, float8);

-- One batch of the consumer: proves that what it covers is visible, recomputes, and moves the checkpoint, all in one
-- transaction. Answers in its first row
--   outcome 'done':        snapshots and checkpoint are written
--   outcome 'not_visible': nothing was written, call again in a moment
--   outcome 'paused':      nothing was written, call again when it may go on
--   outcome 'too_many':    nothing was written; bookings lists what to recompute in chunks before calling again
-- and in each further row what it has claimed for p_publisher, if one is named. Raises MS001 when another consumer has taken
-- over (I6). A process of the version before names none, and reads the first row only.
create function market_sync.reconcile_batch(
  p_generation bigint, p_commit_lsn pg_lsn, p_xids bigint[],
  p_bookings uuid[], p_locations uuid[], p_sensors uuid[], p_vendors uuid[], p_inspections uuid[],
  p_bookings_max int, p_lease interval, p_now timestamptz default null, p_resync text default null,
  p_committed_at timestamptz default null, p_received_ms_ago float8 default null,
  p_publisher text default null, p_claim_lease interval default null)
returns table (outcome text, bookings uuid[], changed_count int, booking_count int,
  booking_id uuid, epoch int, revision bigint, market_listing_id text, base_revision bigint,
  location_id uuid, metadata jsonb, sensors jsonb, sensor_summary jsonb)
language plpgsql security definer
set search_path from current
as $$
#variable_conflict use_column
declare
  v_started_at timestamptz;
  v_covered pg_lsn;
  v_bookings uuid[];
  v_booking_count int := 0;
  v_changed_count int := 0;
  v_claims market_sync.reconciled[];
  v_traced uuid[];
  v_called_at timestamptz := clock_timestamp();
begin
  changed_count := 0;
  booking_count := 0;
  perform market_sync.lock_reconcile();
  v_started_at := clock_timestamp();
  if market_sync.is_paused() then
    outcome := 'paused';
    return next;
    return;
  end if;
  if not market_sync.all_visible(p_xids) then
    outcome := 'not_visible';
    return next;
    return;
  end if;
  v_bookings := market_sync.resolve_keys(p_bookings, p_locations, p_sensors, p_vendors, p_inspections);
  v_booking_count := cardinality(v_bookings);
  if v_booking_count > p_bookings_max then
    outcome := 'too_many';
    bookings := v_bookings;
    booking_count := v_booking_count;
    return next;
    return;
  end if;
  if v_booking_count > 0 then
    select count(*) filter (where r.changed),
      array_agg(r.booking_id) filter (where r.changed and r.booking_id in (select t.booking_id from market_sync.traced t where t.until > v_started_at)),
      array_agg(r) filter (where r.claimed)
    into v_changed_count, v_traced, v_claims
    from market_sync.reconcile_and_claim(v_bookings, p_now, p_committed_at, null, p_publisher, p_claim_lease) r;
  end if;
  if v_traced is not null then
    insert into market_sync.latency_trace
      (booking_id, epoch, revision, committed_at, received_at, reconcile_started_at, reconciled_at)
    select state.booking_id, state.epoch, state.revision, p_committed_at,
      v_called_at - p_received_ms_ago * interval '1 millisecond', v_started_at, clock_timestamp()
    from market_sync.snapshot_state state where state.booking_id = any (v_traced);
  end if;
  if p_resync is not null then
    perform market_sync.request_resync(p_resync);
  end if;
  select commit_lsn into v_covered from market_sync.checkpoint;
  update market_sync.checkpoint
  set commit_lsn = greatest(commit_lsn, p_commit_lsn), working_since = null, lease_until = clock_timestamp() + p_lease, updated_at = clock_timestamp()
  where generation = p_generation;
  if not found then
    raise exception 'another consumer has taken over' using errcode = 'MS001';
  end if;
  if v_booking_count > 0 then
    perform market_sync.record_activity(
      'reconcile', 1, v_booking_count, v_changed_count, market_sync.ms_between(v_started_at, clock_timestamp()));
  end if;
  if v_changed_count > 0 and p_committed_at is not null then
    perform market_sync.record_latency(
      'snapshot', array[market_sync.ms_between(p_committed_at, clock_timestamp())], v_changed_count);
  end if;
  if p_commit_lsn < v_covered and cardinality(p_xids) > 0 then
    perform market_sync.record_activity('redelivery', 1, cardinality(p_xids), 0, 0);
  end if;
  outcome := 'done';
  changed_count := v_changed_count;
  booking_count := v_booking_count;
  return next;
  return query
    select null, null::uuid[], null::int, null::int, c.booking_id, c.epoch, c.revision, c.market_listing_id, c.base_revision,
      c.location_id, c.metadata, c.sensors, c.sensor_summary
    from unnest(v_claims) c;
end
$$;
comment on function market_sync.reconcile_batch is
  'One batch of the consumer: visibility proved, snapshots recomputed, what changed claimed for its publisher, checkpoint moved, in one transaction.';

-- Marks versions as confirmed by MongoDB. Never lowers what is marked already. Answers the bookings of which it does not
-- know the version that was written (with p_updated_at: or knows another one of that number), and marks nothing of them:
-- a publisher that claimed them before PostgreSQL was put back, or before a standby took over that lacks them, has written
-- them since. Marked, they would keep the versions up to that number from ever being published.
create or replace function market_sync.mark_published(
  p_booking_ids uuid[], p_epochs int[], p_revisions bigint[], p_listing_ids text[], p_updated_at text[] default null,
  p_replied_ms_ago float8 default null)
returns uuid[]
language plpgsql
security definer
set search_path from current
as $$
declare
  v_unknown uuid[];
  v_latencies_ms float8[];
  v_claimed_at timestamptz;
  v_called_at timestamptz := clock_timestamp();
  v_publish_interval interval := (select publish_interval from market_sync.settings);
begin
  perform set_config('synchronous_commit', 'off', true);
  select array_agg(market_sync.ms_between(locked.changed_at, v_called_at)) filter (where locked.changed_at is not null),
    min(locked.claimed_at)
  into v_latencies_ms, v_claimed_at
  from (
    select changed_at, claimed_at from market_sync.snapshot_state
    where booking_id = any (p_booking_ids) order by booking_id for update
  ) locked;

  select coalesce(array_agg(done.booking_id), '{}') into v_unknown
  from unnest(p_booking_ids, p_epochs, p_revisions, p_updated_at) as done (booking_id, epoch, revision, updated_at)
  left join market_inventory_snapshots s on s.booking_id = done.booking_id
  where s.booking_id is null
    or (done.epoch, done.revision) > (s.epoch, s.revision)
    or ((done.epoch, done.revision) = (s.epoch, s.revision) and done.updated_at <> s.metadata ->> 'last_updated');

  if exists (select from market_sync.traced) then
    update market_sync.latency_trace trace
    -- What a recompute claims, it claims before its end.
    set claimed_at = greatest(state.claimed_at, trace.reconciled_at), replied_at = v_called_at - p_replied_ms_ago * interval '1 millisecond',
      marked_at = clock_timestamp()
    from unnest(p_booking_ids, p_epochs, p_revisions) as done (booking_id, epoch, revision)
    join market_sync.snapshot_state state on state.booking_id = done.booking_id
    where trace.booking_id = done.booking_id and trace.marked_at is null and done.booking_id <> all (v_unknown)
      and (trace.epoch, trace.revision) <= (done.epoch, done.revision);
  end if;

  update market_sync.snapshot_state state
  set published_epoch = case when (done.epoch, done.revision) > (published_epoch, published_revision)
      then done.epoch else published_epoch end,
    published_revision = case when (done.epoch, done.revision) > (published_epoch, published_revision)
      then done.revision else published_revision end,
    -- A change that came meanwhile came after the claim.
    changed_at = case when (done.epoch, done.revision) < (state.epoch, state.revision) then state.claimed_at end,
    claimed_at = null,
    claimed_by = null, lease_until = null,
    -- A change that came meanwhile waits for the end of publish_interval, and not for what failed before.
    next_attempt_at = case
      when (done.epoch, done.revision) < (state.epoch, state.revision) then least(state.next_attempt_at, state.sent_at + v_publish_interval)
      else '-infinity' end,
    -- That MongoDB took it says nothing of a recompute that failed: that stays parked, and seen.
    attempts = case when failed_stage = 'reconcile' then attempts else 0 end,
    first_failed_at = case when failed_stage = 'reconcile' then first_failed_at end,
    last_failed_at = case when failed_stage = 'reconcile' then last_failed_at end,
    last_error = case when failed_stage = 'reconcile' then last_error end,
    parked_at = case when failed_stage = 'reconcile' then coalesce(parked_at, clock_timestamp()) end,
    failed_stage = nullif(failed_stage, 'publish')
  from unnest(p_booking_ids, p_epochs, p_revisions) as done (booking_id, epoch, revision)
  where state.booking_id = done.booking_id and done.booking_id <> all (v_unknown);

  update market_inventory_snapshots s
  set status = case
      when s.status in ('publishing', 'ready_to_publish') and s.epoch = done.epoch and s.revision = done.revision
        then 'published'
      else s.status end,
    market_listing_id = done.listing_id,
    last_synced_at = clock_timestamp()
  from unnest(p_booking_ids, p_epochs, p_revisions, p_listing_ids) as done (booking_id, epoch, revision, listing_id)
  where s.booking_id = done.booking_id and done.booking_id <> all (v_unknown);

  if v_latencies_ms is not null then
    perform market_sync.record_latency('listing', v_latencies_ms);
  end if;
  perform market_sync.record_activity('publish', 1, cardinality(p_booking_ids), 0,
    market_sync.ms_between(coalesce(v_claimed_at, clock_timestamp()), clock_timestamp()));
  return v_unknown;
end
$$;

-- A slot keeps the WAL from where decoding would begin again, and that moves with PostgreSQL's records of running transactions
-- only, which come every 15 s: two or three of those intervals are kept, and decoded once more after a restart. Where the
-- owner of this schema may ask for such a record (pg_log_standby_snapshot, from 16 on), the pipeline does while much is kept.
create function market_sync.let_slot_advance() returns boolean
language plpgsql security definer
set search_path from current
as $$
begin
  if to_regprocedure('pg_catalog.pg_log_standby_snapshot()') is null or pg_is_in_recovery()
    or not has_function_privilege('pg_catalog.pg_log_standby_snapshot()', 'execute')
  then
    return false;
  end if;
  execute 'select pg_catalog.pg_log_standby_snapshot()';
  return true;
end
$$;
comment on function market_sync.let_slot_advance is
  'Asks PostgreSQL for a record of running transactions, from which the slot can keep less WAL. False: it is older than 16, or the owner of this schema may not ask.';

-- I5, as in recompute(): it reads the same tables.
alter function market_sync.audit_look(uuid[], timestamptz) set lock_timeout = '400ms';

-- What has no score is hashed otherwise from here on: else an audit would find its hash edited. Few have none: a score that is
-- no number, or infinite.
update market_sync.snapshot_state state set rest_hash = state.rest_hash # 1
from market_inventory_snapshots s
where s.booking_id = state.booking_id and s.quality_score is null;
update market_inventory_snapshots set parts_hash = parts_hash # 1 where quality_score is null;
-- The audit's parts_hash, as in recompute().
do $$
declare
  v_before text := pg_get_functiondef('market_sync.audit_look(uuid[], timestamptz)'::regprocedure);
  v_after text := regexp_replace(v_before, '(\s+)(as parts_hash,)', '\1# case when d.quality_score is null then 1 else 0 end\1\2');
begin
  if v_after = v_before then
    raise exception 'audit_look() is not what it was made as';
  end if;
  execute v_after;
end
$$;
