-- The audit: every snapshot against its source rows, every listing against its snapshot.
--
-- What is compared is content. A hash says that nothing changed since it was written, not that nobody has edited the row.
-- The computation is recompute()'s, reading only: no lock, no write. It is a second one because it builds everything for
-- every booking, which a recompute must not; the random histories and test/audit hold the two together.

create table market_sync.audit_run (
  id bigint generated always as identity primary key,
  reason text not null,
  requested_by text not null,
  worker text not null check (worker in ('pipeline', 'command')),
  repair text not null check (repair in ('off', 'safe', 'all')),
  state text not null default 'queued' check (state in ('queued', 'running', 'done', 'failed', 'cancelled')),
  requested_at timestamptz not null default clock_timestamp(),
  started_at timestamptz,
  finished_at timestamptz,
  generation int not null default 0,
  phase text not null default 'bookings' check (phase in ('bookings', 'strays')),
  after_booking_id uuid,
  total bigint,
  compared bigint not null default 0,
  listings bigint not null default 0,
  in_flight bigint not null default 0,
  parked bigint not null default 0,
  busy_ms float8 not null default 0,
  error text
);
create unique index audit_run_open_idx on market_sync.audit_run ((true)) where state in ('queued', 'running');
comment on table market_sync.audit_run is
  'Comparisons of everything: source rows, snapshots, listings. One is open at a time; its cursor is written with what it found.';
comment on column market_sync.audit_run.repair is
  'off: only look. safe: what reconcile and publisher mend, and listings of ours without a snapshot. all: listings that this project cannot have written, too.';
comment on column market_sync.audit_run.worker is
  'pipeline: any of its processes works on it. command: a person''s market-sync audit, and when that was killed the next one.';
comment on column market_sync.audit_run.generation is 'Rises when a process takes it up: one that is not the last cannot write.';
comment on column market_sync.audit_run.phase is
  'bookings: by id, each with its snapshot and the listings up to the next one. strays: listings whose booking_id is no id.';
comment on column market_sync.audit_run.after_booking_id is 'The cursor: everything up to this booking is compared.';
comment on column market_sync.audit_run.in_flight is 'Bookings left out because they were changing, or waiting for the consumer, the clock or a publisher.';
comment on column market_sync.audit_run.parked is 'Bookings left out because they are parked: see the view parked.';

create table market_sync.finding (
  id bigint generated always as identity primary key,
  run_id bigint not null references market_sync.audit_run on delete cascade,
  kind text not null,
  booking_id uuid,
  listing_id text,
  fields text[] not null default '{}',
  -- null: not decided yet, the chunk is in work
  repaired boolean,
  found_at timestamptz not null default clock_timestamp()
);
create unique index finding_subject_idx on market_sync.finding (run_id, kind, booking_id, listing_id) nulls not distinct;
comment on table market_sync.finding is 'What audits found, the first 10,000 of each; finding_count has all of it.';

create table market_sync.finding_count (
  run_id bigint not null references market_sync.audit_run on delete cascade,
  kind text not null,
  found bigint not null,
  repaired bigint not null default 0,
  primary key (run_id, kind)
);
comment on table market_sync.finding_count is 'How much of each kind an audit found and repaired.';

-- A place in the stream of changes: once the checkpoint has passed it, whatever was committed before is in the snapshots.
create function market_sync.mark_stream() returns pg_lsn
language sql security definer
set search_path from current
as $$
  select pg_logical_emit_message(
    true, 'market_sync', '{"v":1,"booking":["00000000-0000-0000-0000-000000000000"]}')
$$;
comment on function market_sync.mark_stream() is
  'Sends a mark down the change stream. Once the checkpoint has passed it, everything committed before is in the snapshots.';

create function market_sync.audit_keys(p_after uuid, p_limit int) returns uuid[]
language sql stable security definer
set search_path from current
as $$
  select coalesce(array_agg(id order by id), '{}') from (
    select id from (
      (select b.id from storage_bookings b where p_after is null or b.id > p_after order by b.id limit p_limit)
      union
      (select s.booking_id from market_inventory_snapshots s where p_after is null or s.booking_id > p_after
        order by s.booking_id limit p_limit)
      union
      (select state.booking_id from market_sync.snapshot_state state where p_after is null or state.booking_id > p_after
        order by state.booking_id limit p_limit)
    ) known
    order by id limit p_limit
  ) chunk
$$;
comment on function market_sync.audit_keys(uuid, int) is
  'The next bookings in the order of their ids, whether a row of theirs is in the source, the snapshots or their state.';

-- What of these bookings is not as it must be. kind 'in_flight' and 'parked': not judged. certain: no change on its way
-- to the snapshot can explain it. fingerprint: the same for the same snapshot beside the same source rows.
create function market_sync.audit_look(p_booking_ids uuid[], p_now timestamptz)
returns table (booking_id uuid, kind text, certain boolean, fields text[], fingerprint text)
language plpgsql stable
set search_path from current
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set extra_float_digits = 1
set timezone = 'UTC'
set datestyle = 'ISO'
as $$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_today date := (v_now at time zone 'UTC')::date;
  v_far timestamptz := v_now + interval '876000 hours';
  v_pest_window interval;
  v_stale_after interval;
  v_pest_since timestamptz;
  v_stale_before timestamptz;
  v_epoch int;
  v_resync boolean;
begin
  select pest_window, sensor_stale_after into strict v_pest_window, v_stale_after from market_sync.settings;
  v_pest_since := v_now - v_pest_window;
  v_stale_before := v_now - v_stale_after;
  select epoch into strict v_epoch from market_sync.checkpoint;
  v_resync := exists (select from market_sync.resync where finished_at is null);

  return query
  with known as materialized (
    select
      key.booking_id, b.farmer_id, b.vendor_id, b.location_id, b.crop_type, coalesce(o.grade, b.grade) as grade,
      b.quantity_kg, b.start_date, b.end_date, b.duration_days, b.ai_inspection_id as inspection_id,
      s.booking_id is not null as has_snapshot, state.booking_id is not null as has_state,
      o.quality_score as override_quality_score, o.freshness as override_freshness,
      o.visual_defects as override_visual_defects, o.special_notes, o.expires_at as override_expires_at,
      case
        when b.id is null or b.booking_status = 'cancelled' or m.state = 'withdrawn' then 'withdrawn'
        when b.booking_status = 'completed' then 'completed'
        when m.state = 'held' then 'held'
        else 'ready_to_publish'
      end as new_status,
      case
        when b.id is null then 'gone'
        when (b.booking_status in ('completed', 'cancelled') or m.state = 'withdrawn') and s.ended_at is not null then 'own'
        else 'full'
      end as scope,
      s.booking_id is not null
        or (b.id is not null and (b.booking_status is null or b.booking_status not in ('completed', 'cancelled'))
          and m.state is distinct from 'withdrawn') as wanted,
      case
        when state.parked_at is not null then 'parked'
        when state.failed_stage = 'reconcile' then 'in_flight'
        when v_resync and s.epoch is distinct from v_epoch then 'in_flight'
        when state.next_refresh_at <= v_now then 'in_flight'
      end as left_out
    from market_sync.distinct_ids(p_booking_ids) key (booking_id)
    left join storage_bookings b on b.id = key.booking_id
    left join market_inventory_snapshots s on s.booking_id = key.booking_id
    left join market_sync.snapshot_state state on state.booking_id = key.booking_id
    left join market_sync.manual_state m on m.booking_id = key.booking_id
    left join market_sync.override o
      on o.booking_id = key.booking_id and (o.expires_at is null or o.expires_at > v_now
        or (o.expires_at > s.ended_at and (b.booking_status in ('completed', 'cancelled') or m.state = 'withdrawn')))
  ),
  -- Said so that the planner, which knows nothing of these columns, takes each for half of the rows: for a row or two it
  -- would join everything below pair by pair, which at 5,000 bookings cost 20 times all the rest.
  target as materialized (
    select *, scope = 'full' as is_full from known where case when wanted then left_out is null else false end
  ),
  location as materialized (
    select distinct location_id from target where is_full and location_id is not null
  ),
  reading as materialized (
    select
      location.location_id, sensor.sensor_type, sensor.status,
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
      ) as next_refresh_at,
      jsonb_object_agg(sensor_type, jsonb_build_object(
        'value', value, 'unit', unit, 'reading_time', market_sync.iso(reading_time), 'status', status,
        'alert_triggered', alert)) filter (where speaks) as body
    from reading
    group by location_id
  ),
  summary_json as materialized (
    select location_id, jsonb_object_agg(entry.key, entry.value) as body
    from (
      select location_id, sensor_type,
        trim_scale(avg(value::text::numeric)) as average,
        min(value) as least_value, max(value) as greatest_value, count(value) as value_count
      from reading
      where heard and sensor_type is not null
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
      min(seen_at + v_pest_window) filter (where seen_at < v_far) as next_refresh_at,
      jsonb_agg(jsonb_build_object(
        'pest_type', pest_type, 'severity', severity, 'confidence', confidence,
        'detected_at', market_sync.iso(detected_at), 'action_taken', action_taken, 'resolved', resolved)
        order by seen_at desc, id desc) as body
    from pest
    group by location_id
  ),
  certificate as materialized (
    select
      vendor.vendor_id, c.id, c.certificate_type::text as type, c.issuing_authority, c.certificate_number,
      case when isfinite(c.issue_date) then c.issue_date end as issue_date, c.expiry_date,
      case when isfinite(c.expiry_date) then c.expiry_date end as shown_expiry_date, c.status, c.document_url, c.score,
      jsonb_build_object(
        'id', c.id, 'type', c.certificate_type::text, 'issuer', c.issuing_authority,
        'certificate_number', c.certificate_number,
        'issue_date', market_sync.iso(c.issue_date), 'expiry_date', market_sync.iso(c.expiry_date),
        'status', c.status, 'document_url', c.document_url, 'score', c.score) as body
    from (select distinct vendor_id from target where is_full and vendor_id is not null) vendor
    join compliance_certificates c on c.vendor_id = vendor.vendor_id
    where c.status = 'valid' and (c.expiry_date is null or c.expiry_date >= v_today)
  ),
  certificate_part as materialized (
    select
      vendor_id,
      bit_xor(hash_record_extended(row(id, type, issuing_authority, certificate_number, issue_date, shown_expiry_date,
        status, document_url, score), 1)) as hash,
      (min(expiry_date) filter (where expiry_date < v_far::date) + 1)::timestamp at time zone 'UTC' as next_refresh_at,
      jsonb_agg(body order by type collate "C", id) as body,
      array_agg(distinct type collate "C") filter (where type is not null) as types
    from certificate
    group by vendor_id
  ),
  own_certificate as materialized (
    select distinct on (t.booking_id)
      t.booking_id, t.vendor_id, sc.id, sc.certificate_number, sc.issued_date, sc.certificate_status, sc.digital_signature,
      sc.issued_by
    from target t
    join storage_certificates sc on sc.booking_id = t.booking_id
    where t.is_full and (sc.certificate_status is null or sc.certificate_status not in ('revoked', 'expired'))
  ),
  -- Only a booking with a certificate of its own has a list that no other has.
  own_list as materialized (
    select booking_id, jsonb_agg(body order by type collate "C", id) as body,
      array_agg(distinct type collate "C") filter (where type is not null) as types
    from (
      select o.booking_id, c.type, c.id, c.body
      from own_certificate o join certificate c on c.vendor_id = o.vendor_id
      union all
      select o.booking_id, 'storage_certificate', o.id, jsonb_build_object(
        'id', o.id, 'type', 'storage_certificate', 'certificate_number', o.certificate_number,
        'issued_date', market_sync.iso(o.issued_date), 'status', o.certificate_status,
        'digital_signature', o.digital_signature, 'issued_by', o.issued_by)
      from own_certificate o
    ) entry
    group by booking_id
  ),
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
      own.id as own_certificate_id, own.certificate_number, own.issued_date, own.certificate_status,
      own.digital_signature, own.issued_by,
      coalesce(sensor_part.body, '{}') as sensors, coalesce(summary_json.body, '{}') as sensor_summary,
      coalesce(pest_part.body, '[]') as pest_events,
      coalesce(own_list.body, certificate_part.body, '[]') as certificates,
      coalesce(own_list.body, certificate_part.body) is not null as is_certified,
      coalesce(case when own_list.body is not null then own_list.types else certificate_part.types end, '{}')
        as certification_types,
      case when t.new_status in ('ready_to_publish', 'held') then
        least(sensor_part.next_refresh_at, pest_part.next_refresh_at, certificate_part.next_refresh_at,
          case when t.override_expires_at < v_far then t.override_expires_at end)
      end as next_refresh_at
    from target t
    left join crop_inspections i on t.is_full and i.id = t.inspection_id
    left join sensor_part on t.is_full and sensor_part.location_id = t.location_id
    left join summary_json on t.is_full and summary_json.location_id = t.location_id
    left join pest_part on t.is_full and pest_part.location_id = t.location_id
    left join certificate_part on t.is_full and certificate_part.vendor_id = t.vendor_id
    left join own_certificate own on own.booking_id = t.booking_id
    left join own_list on own_list.booking_id = t.booking_id
  ),
  compared as (
    select
      d.booking_id, d.scope, d.has_snapshot, d.has_state, d.new_status,
      hash_record_extended(row(d.farmer_id, d.vendor_id, d.location_id, d.crop_type, d.grade, d.quantity_kg,
        market_sync.shown(d.start_date), market_sync.shown(d.end_date), d.duration_days, d.new_status), 1) as own_hash,
      hash_record_extended(row(d.quality_score, d.freshness, d.visual_defects, d.shelf_life_days, d.sensor_hash,
        d.sensor_health, d.pest_hash, d.certificate_hash, d.own_certificate_id, d.certificate_number,
        market_sync.shown(d.issued_date), d.certificate_status, d.digital_signature, d.issued_by), 1)
        # case when d.special_notes is null then 0 else hash_record_extended(row('notes'::text, d.special_notes), 1) end
        as parts_hash,
      d.next_refresh_at, s.own_hash as old_own_hash, s.parts_hash as old_parts_hash,
      s.epoch, s.revision, s.updated_at, state.next_refresh_at as old_next_refresh_at,
      (state.epoch, state.revision) is distinct from (s.epoch, s.revision)
        or (state.published_epoch, state.published_revision) > (state.epoch, state.revision) as state_differs,
      case when s.status in ('publishing', 'published') then 'ready_to_publish' else s.status end
        is distinct from d.new_status as status_differs,
      -- Claims and marks change both in one transaction.
      d.new_status = 'ready_to_publish' and s.status <> 'published' and state.lease_until is null
        and (state.published_epoch, state.published_revision) = (s.epoch, s.revision)
        and (s.status = 'publishing' or s.last_synced_at is not null) as status_lags,
      s.epoch is distinct from v_epoch as epoch_differs,
      (s.ended_at is not null) is distinct from (d.new_status in ('completed', 'withdrawn')) as end_differs,
      s.metadata ->> 'last_updated' is distinct from market_sync.iso(s.updated_at) as time_differs,
      case when d.scope <> 'gone' then array_remove(array[
        case when s.farmer_id is distinct from d.farmer_id then 'farmer_id' end,
        case when s.vendor_id is distinct from d.vendor_id then 'vendor_id' end,
        case when s.location_id is distinct from d.location_id then 'location_id' end,
        case when s.crop_type is distinct from d.crop_type then 'crop_type' end,
        case when s.grade is distinct from d.grade then 'grade' end,
        case when s.quantity_kg is distinct from d.quantity_kg then 'quantity_kg' end,
        case when market_sync.shown(s.start_date) is distinct from market_sync.shown(d.start_date) then 'start_date' end,
        case when market_sync.shown(s.end_date) is distinct from market_sync.shown(d.end_date) then 'end_date' end,
        case when s.duration_days is distinct from d.duration_days then 'duration_days' end], null) else '{}' end as own_fields,
      case when d.scope = 'full' then array_remove(array[
        case when s.quality_score is distinct from d.quality_score then 'quality_score' end,
        case when s.freshness is distinct from d.freshness then 'freshness' end,
        case when s.visual_defects is distinct from d.visual_defects then 'visual_defects' end,
        case when s.shelf_life_days is distinct from d.shelf_life_days then 'shelf_life_days' end,
        case when s.sensors is distinct from d.sensors then 'sensors' end,
        case when s.sensor_summary is distinct from d.sensor_summary then 'sensor_summary' end,
        case when s.pest_events is distinct from d.pest_events then 'pest_events' end,
        case when s.pest_count is distinct from d.pest_count then 'pest_count' end,
        case when s.has_pest_alerts is distinct from d.has_pest_alerts then 'has_pest_alerts' end,
        case when s.certificates is distinct from d.certificates then 'certificates' end,
        case when s.is_certified is distinct from d.is_certified then 'is_certified' end,
        case when s.certification_types is distinct from d.certification_types then 'certification_types' end,
        case when s.metadata is distinct from market_sync.snapshot_metadata(d.is_certified, d.certification_types,
          d.pest_alert_active, d.sensor_health, d.special_notes, market_sync.iso(s.updated_at)) then 'metadata' end], null)
        else '{}' end as part_fields,
      -- Kept in step by a recompute that finds nothing else changed.
      case when d.scope <> 'gone' then array_remove(array[
        case when s.inspection_id is distinct from d.inspection_id then 'inspection_id' end,
        case when (s.start_date, s.end_date) is distinct from (d.start_date, d.end_date) then 'start_date, end_date' end,
        case when d.scope = 'full' and s.inspection_status is distinct from d.inspection_status then 'inspection_status' end],
        null) else '{}' end as unseen_fields
    from displayed d
    left join market_inventory_snapshots s on s.booking_id = d.booking_id
    left join market_sync.snapshot_state state on state.booking_id = d.booking_id
  ),
  judged as (
    select c.*,
      c.own_fields || c.part_fields
        || case when status_differs or status_lags then array['status'] else '{}' end
        || case when epoch_differs then array['epoch'] else '{}' end
        || case when end_differs then array['ended_at'] else '{}' end
        || case when time_differs and c.part_fields = '{}' then array['metadata'] else '{}' end as shown_fields,
      scope = 'gone'
        or (own_hash is not distinct from old_own_hash
          and (scope = 'own' or parts_hash is not distinct from old_parts_hash)) as hash_agrees
    from compared c
  ),
  found as (
    select j.*, case
        when not has_snapshot then 'snapshot_missing'
        when not has_state then 'state_missing'
        when state_differs then 'state_differs'
        when shown_fields <> '{}' or unseen_fields <> '{}' then 'snapshot_differs'
        when not hash_agrees then 'snapshot_hash'
        when old_next_refresh_at is distinct from next_refresh_at then 'state_differs'
      end as kind
    from judged j
  )
  select f.booking_id, f.kind,
    -- A hash that agrees says that a recompute sees nothing to do: no change can be on its way. Of a booking that is gone
    -- there is no hash, and its deletion may be.
    case f.kind
      when 'snapshot_differs' then
        (scope <> 'gone' and hash_agrees and unseen_fields = '{}' and not epoch_differs and not end_differs)
        or status_lags or time_differs
      when 'state_missing' then true
      when 'state_differs' then state_differs
      else false
    end,
    case
      when f.kind in ('snapshot_missing', 'state_missing', 'snapshot_hash') then '{}'
      when f.kind = 'state_differs' and state_differs then array['revision']
      when f.kind = 'state_differs' then array['next_refresh_at']
      else shown_fields || unseen_fields
    end,
    concat_ws(' ', f.epoch, f.revision, f.updated_at, f.old_own_hash, f.old_parts_hash, f.own_hash,
      case when scope = 'full' then f.parts_hash end, f.next_refresh_at, f.old_next_refresh_at)
  from found f
  where f.kind is not null
  union all
  select k.booking_id, coalesce(k.left_out, case when k.has_state then 'state_orphan' end), true, '{}', ''
  from known k
  where k.left_out is not null or (not k.wanted and k.has_state);
end
$$;
comment on function market_sync.audit_look(uuid[], timestamptz) is
  'Compares the content of these bookings'' snapshots with what their source rows say. Writes and locks nothing.';

-- As audit_look, when one of them has data that nothing can be made of: recompute() would park it.
create function market_sync.audit_snapshots(p_booking_ids uuid[], p_now timestamptz default null)
returns table (booking_id uuid, kind text, certain boolean, fields text[], fingerprint text)
language plpgsql stable security definer
set search_path from current
as $$
declare
  v_middle int := cardinality(p_booking_ids) / 2;
begin
  begin
    return query select * from market_sync.audit_look(p_booking_ids, p_now);
  exception when data_exception or integrity_constraint_violation or program_limit_exceeded then
    if cardinality(p_booking_ids) = 1 then
      return query select p_booking_ids[1], 'snapshot_differs', false, array['not computable'], sqlerrm;
      return;
    end if;
    return query select * from market_sync.audit_snapshots(p_booking_ids[: v_middle], p_now);
    return query select * from market_sync.audit_snapshots(p_booking_ids[v_middle + 1 :], p_now);
  end;
end
$$;
comment on function market_sync.audit_snapshots(uuid[], timestamptz) is
  'What of these bookings'' snapshots and their state is not as the source rows say; in_flight and parked: not judged.';

-- Mends what an audit found, by a recompute that writes whatever the hashes say, and by publishing it at a revision above
-- everything known of it: the snapshot's, its state's, and MongoDB's (p_market_revisions, null where there is none).
-- p_listing_ids: the _id of the document that MongoDB has, which the publisher then updates rather than insert another.
create function market_sync.repair_snapshots(
  p_booking_ids uuid[], p_market_revisions bigint[], p_listing_ids text[], p_now timestamptz default null)
returns void
language plpgsql security definer
set search_path from current
as $$
declare
  -- Beyond this a revision is an edited one, and JavaScript cannot count it.
  c_max constant bigint := 4503599627370496;
begin
  perform market_sync.lock_reconcile();
  perform from market_sync.snapshot_state where booking_id = any (p_booking_ids) order by booking_id for update;

  -- One whose snapshot is lost starts anew: above what it was.
  update market_sync.checkpoint set revision_floor = greatest(revision_floor, (
    select max(known.revision)
    from unnest(p_booking_ids, p_market_revisions) as asked (booking_id, market_revision)
    left join market_sync.snapshot_state state on state.booking_id = asked.booking_id
    cross join lateral (values (state.revision), (state.published_revision), (asked.market_revision)) known (revision)
    where known.revision < c_max
      and not exists (select from market_inventory_snapshots s where s.booking_id = asked.booking_id)));
  -- recompute() deletes those of which nothing is left.
  update market_sync.snapshot_state state set revision = 0
  where state.booking_id = any (p_booking_ids)
    and not exists (select from market_inventory_snapshots s where s.booking_id = state.booking_id);

  update market_inventory_snapshots s
  set own_hash = null, parts_hash = null,
    revision = greatest(0, case when s.revision < c_max then s.revision end, (
      select max(known.revision)
      from (values ((select revision from market_sync.snapshot_state state where state.booking_id = s.booking_id)),
        ((select published_revision from market_sync.snapshot_state state where state.booking_id = s.booking_id)),
        (asked.market_revision)) known (revision)
      where known.revision < c_max)),
    -- Of a booking whose row is gone only the status says whether there is something to do.
    status = case when exists (select from storage_bookings b where b.id = s.booking_id) then s.status else 'ready_to_publish' end
  from unnest(p_booking_ids, p_market_revisions) as asked (booking_id, market_revision)
  where s.booking_id = asked.booking_id;
  update market_sync.snapshot_state set published_epoch = 0, published_revision = 0 where booking_id = any (p_booking_ids);
  perform set_config('market_sync.manual', 'on', true);
  perform market_sync.reconcile_bookings(p_booking_ids, p_now);
  perform set_config('market_sync.manual', '', true);
  update market_inventory_snapshots s set market_listing_id = asked.listing_id
  from unnest(p_booking_ids, p_listing_ids) as asked (booking_id, listing_id)
  where s.booking_id = asked.booking_id and asked.listing_id <> coalesce(s.market_listing_id, '');
end
$$;
comment on function market_sync.repair_snapshots(uuid[], bigint[], text[], timestamptz) is
  'Recomputes these bookings whatever their hashes say, at a revision above every one that is known of them, to be published.';

-- An audit that a person's command has left open becomes the pipeline's once somebody asks that: else who asked would wait for
-- that person. A command that is still at it goes on to the end, undisturbed.
create function market_sync.request_audit(
  p_reason text, p_requested_by text, p_repair text, p_worker text default 'pipeline') returns bigint
language plpgsql security definer
set search_path from current
as $$
declare
  v_id bigint;
begin
  perform pg_advisory_xact_lock(5504, 2);
  select id into v_id from market_sync.audit_run where state in ('queued', 'running');
  if v_id is null then
    insert into market_sync.audit_run (reason, requested_by, repair, worker)
    values (p_reason, p_requested_by, p_repair, p_worker)
    returning id into v_id;
  elsif p_worker = 'pipeline' then
    update market_sync.audit_run set worker = 'pipeline' where id = v_id and worker = 'command';
  end if;
  perform pg_notify('market_sync_audit', '');
  return v_id;
end
$$;
comment on function market_sync.request_audit(text, text, text, text) is 'Asks for an audit; the one that is open serves all who ask.';

create function market_sync.audit(p_reason text, p_repair text default 'safe') returns bigint
language plpgsql security definer
set search_path from current
as $$
declare
  v_reason text := market_sync.require_reason(p_reason);
  v_earlier market_sync.manual_action := market_sync.earlier_action();
  v_id bigint;
begin
  if v_earlier.id is not null then
    return (v_earlier.details ->> 'audit_id')::bigint;
  end if;
  if p_repair is null or p_repair not in ('off', 'safe', 'all') then
    raise exception 'repair must be off, safe or all' using errcode = 'MS422';
  end if;
  v_id := market_sync.request_audit(v_reason, coalesce(market_sync.named_actor(), session_user), p_repair);
  perform market_sync.record_action('audit', null, v_reason, jsonb_build_object('audit_id', v_id, 'repair', p_repair));
  return v_id;
end
$$;
comment on function market_sync.audit(text, text) is
  'Asks the pipeline to compare everything, beside live work, and to repair what differs (off, safe, all); answers its id in the view drift. One that is open serves all who ask.';

-- What it found, for people.
create or replace view market_sync.drift as
select kind, started_at, finished_at, compared, found, outcome from (
  select distinct on (kind) kind, started_at, finished_at, compared, found, outcome
  from market_sync.drift_check
  order by kind, id desc
) checked
union all
select 'audit', started_at, finished_at, compared,
  coalesce((select sum(found) from market_sync.finding_count c where c.run_id = run.id), 0)::bigint,
  case state
    when 'done' then concat_ws(', ',
      coalesce((select string_agg(format('%s %s (%s repaired)', found, kind, repaired), ', ' order by kind)
        from market_sync.finding_count c where c.run_id = run.id), 'nothing found'),
      case when in_flight > 0 then in_flight || ' in flight' end,
      case when parked > 0 then parked || ' parked' end)
    when 'running' then format('running, %s of %s', compared, coalesce(total::text, 'unknown'))
    else concat_ws(': ', state, error)
  end
from (select * from market_sync.audit_run order by id desc limit 1) run;
comment on view market_sync.drift is
  'The last comparison of each kind, and what it found. No row: none has run yet. What exactly an audit found: drift_findings.';
comment on column market_sync.drift.kind is
  'versions: the version of every listing, after each start of PostgreSQL. audit: everything, see the command audit.';
comment on column market_sync.drift.compared is 'versions: listings compared. audit: bookings.';
comment on column market_sync.drift.found is 'Of these, how many were not as they must be.';

create view market_sync.drift_findings as
select f.run_id as audit_id, run.started_at, f.kind, f.booking_id, f.listing_id, f.fields, coalesce(f.repaired, false) as repaired,
  f.found_at
from market_sync.finding f
join market_sync.audit_run run on run.id = f.run_id;
comment on view market_sync.drift_findings is 'What the audits of the last 90 days found, the first 10,000 of each.';
comment on column market_sync.drift_findings.kind is
  'snapshot_missing, snapshot_differs (from its source rows), snapshot_hash (an edited one), state_missing, state_differs, state_orphan; listing_missing, listing_differs (from its snapshot), listing_stale (an older revision), listing_ahead (a newer one than there is), listing_id (another _id than the snapshot says), listing_duplicate, listing_orphan (no snapshot), listing_stray (this project cannot have written it).';
comment on column market_sync.drift_findings.listing_id is 'The _id of the document, where one is meant.';
comment on column market_sync.drift_findings.fields is 'What of it differs.';
