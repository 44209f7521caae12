-- Partitions of sensor_readings. A statement trigger on a partitioned table does not fire for what is written straight to a
-- partition, and no statement at all writes what comes and goes with a partition that is attached, detached or dropped.
--
-- So every leaf has the same four triggers (they fire when a statement names the leaf, those of the parent when it names the
-- parent, never both), and the set of leaves is compared with the one that was there before: by migrate, and every minute by the
-- pipeline. What a leaf that came or went can have changed is found by its bounds: a sensor shows its latest reading only.

create table market_sync.source_partition (
  leaf oid primary key,
  attached_by text not null,
  readings_from timestamptz not null,
  readings_to timestamptz not null,
  seen_at timestamptz not null default now()
);
comment on table market_sync.source_partition is
  'The leaves of sensor_readings that were attached when the pipeline last looked.';
comment on column market_sync.source_partition.attached_by is
  'Transactions that attached the leaf and what it hangs on: others mean that it was detached meanwhile.';
comment on column market_sync.source_partition.readings_from is
  'The readings that it may hold, up to and without readings_to; infinite where its bounds say nothing of that.';

-- The leaves of sensor_readings as they are now, none when it is not partitioned.
create function market_sync.list_partitions()
returns table (leaf oid, attached_by text, readings_from timestamptz, readings_to timestamptz, captured boolean)
language sql stable
set search_path from current
set datestyle = 'ISO'
as $$
  with recursive tree as (
    select i.inhrelid, i.xmin::text as attached_by, i.inhrelid as top
    from pg_inherits i where i.inhparent = 'sensor_readings'::regclass and not i.inhdetachpending
    union all
    select i.inhrelid, tree.attached_by || ' ' || i.xmin, tree.top
    from tree join pg_inherits i on i.inhparent = tree.inhrelid and not i.inhdetachpending
  ), leaf as (
    select tree.*,
      -- Only where the root is divided by the time of readings alone.
      case when (
        select partstrat = 'r' and partnatts = 1 and attname = 'reading_time'
        from pg_partitioned_table join pg_attribute on attrelid = partrelid and attnum = partattrs[0]
        where partrelid = 'sensor_readings'::regclass
      ) then regexp_match(pg_get_expr(top.relpartbound, top.oid), '^FOR VALUES FROM \((.*)\) TO \((.*)\)$') end as bounds
    from tree
    join pg_class c on c.oid = tree.inhrelid and c.relkind = 'r' and c.relispartition
    join pg_class top on top.oid = tree.top
  )
  select inhrelid, attached_by,
    coalesce(substring(bounds[1] from '''(.*)''')::timestamptz, '-infinity'),
    coalesce(substring(bounds[2] from '''(.*)''')::timestamptz, 'infinity'),
    4 = (select count(*) from pg_trigger t where t.tgrelid = inhrelid and t.tgenabled = 'A'
      and t.tgfoid = 'market_sync.capture_sensor_readings()'::regprocedure)
  from leaf
$$;
comment on function market_sync.list_partitions() is
  'The leaves of sensor_readings, what readings each may hold, and whether writes made straight to it are captured.';

create view market_sync.partitions as
select leaf::regclass::text as partition, readings_from, readings_to, captured from market_sync.list_partitions();
comment on view market_sync.partitions is
  'The partitions of sensor_readings; what is written straight to one that is not captured is not seen until somebody migrates.';
comment on column market_sync.partitions.partition is 'Its name, with its schema where that is not in the search path.';
comment on column market_sync.partitions.readings_from is
  'Readings from then on may be in it; -infinity where its bounds do not say.';
comment on column market_sync.partitions.readings_to is 'Readings before then may be in it; infinity where its bounds do not say.';
comment on column market_sync.partitions.captured is 'Whether writes made straight to it are seen.';

-- Asks for a recompute of the sensors whose latest reading lies there, and with p_silent of those that have none that is newer:
-- nothing that was there before can have been the latest of any other.
create function market_sync.ask_for_sensors(p_from timestamptz, p_to timestamptz, p_silent boolean)
returns int
language plpgsql
set search_path from current
as $$
declare
  v_sensors text[];
begin
  select array_agg(sensor.id::text) into v_sensors
  from iot_sensors sensor
  left join lateral (
    select reading_time from sensor_readings r where r.sensor_id = sensor.id order by reading_time desc, id desc limit 1
  ) latest on true
  where case
    when p_silent then latest.reading_time is null or latest.reading_time < p_to or p_to = 'infinity'
    else latest.reading_time >= p_from and (latest.reading_time < p_to or p_to = 'infinity')
  end;
  for chunk in 1 .. coalesce(cardinality(v_sensors), 0) by 5000 loop
    perform pg_logical_emit_message(
      true, 'market_sync', '{"v":1,"sensor":["' || array_to_string(v_sensors[chunk : chunk + 4999], '","') || '"]}');
  end loop;
  return coalesce(cardinality(v_sensors), 0);
end
$$;
comment on function market_sync.ask_for_sensors(timestamptz, timestamptz, boolean) is
  'Asks for a recompute of what sensors show whose latest reading lies between these times, or that have no newer one.';

-- Puts the triggers on one leaf of sensor_readings, and answers the sensors recomputed for what was written to it before. Waits
-- 0.4 s at most for the lock that keeps writers of this leaf out, and fails then with 55P03. One leaf a transaction.
create function market_sync.capture_partition(p_leaf regclass)
returns int
language plpgsql security definer
set search_path from current
set lock_timeout = '400ms'
as $$
declare
  v_leaf record;
  v_event record;
begin
  select * into v_leaf from market_sync.list_partitions() l where l.leaf = p_leaf;
  if not found then
    raise exception '% is no partition of sensor_readings', p_leaf using errcode = 'invalid_parameter_value';
  end if;
  for v_event in
    select * from (values
      ('insert', 'referencing new table as new_rows'), ('update', 'referencing old table as old_rows new table as new_rows'),
      ('delete', 'referencing old table as old_rows'), ('truncate', '')) as t (name, transition_tables)
  loop
    if not exists (select from pg_trigger where tgrelid = p_leaf and tgname = 'market_sync_' || v_event.name) then
      execute format(
        'create trigger market_sync_%1$s after %1$s on %2$s %3$s for each statement execute function market_sync.capture_sensor_readings()',
        v_event.name, p_leaf, v_event.transition_tables);
    end if;
    execute format('alter table %s enable always trigger market_sync_%s', p_leaf, v_event.name);
  end loop;
  -- Before the first consumer everything is computed anyway.
  if not exists (select from market_sync.checkpoint where commit_lsn is not null) then
    return 0;
  end if;
  -- Writers are locked out by now: whatever they have written to it, unseen, is visible to what follows.
  return market_sync.ask_for_sensors(v_leaf.readings_from, v_leaf.readings_to, true);
end
$$;
comment on function market_sync.capture_partition(regclass) is
  'Puts the capture triggers on one partition of sensor_readings; asks for a recompute of what was written to it before.';

-- Compares the leaves with those of the last look, and asks for a recompute of the sensors that one which came or went can have
-- changed. An empty partition that is made ahead, and an old one that is dropped by retention, cost a look at each sensor's
-- latest reading. Without leaves and without any before, nothing.
create function market_sync.compare_partitions(out came int, out went int, out sensors int)
language plpgsql security definer
set search_path from current
as $$
declare
  v_change record;
begin
  came := 0; went := 0; sensors := 0;
  -- The pipelines look one at a time.
  if not pg_try_advisory_xact_lock(5501, 3) then
    return;
  end if;
  for v_change in
    select coalesce(now.leaf, known.leaf) as leaf, now.leaf is not null as here, known.leaf is not null as was_here,
      now.attached_by, now.readings_from, now.readings_to,
      least(now.readings_from, known.readings_from) as since, greatest(now.readings_to, known.readings_to) as until
    from market_sync.list_partitions() now
    full join market_sync.source_partition known on known.leaf = now.leaf
    where now.attached_by is distinct from known.attached_by
      or now.readings_from is distinct from known.readings_from or now.readings_to is distinct from known.readings_to
  loop
    came := came + v_change.here::int;
    went := went + v_change.was_here::int;
    delete from market_sync.source_partition p where p.leaf = v_change.leaf;
    if v_change.here then
      insert into market_sync.source_partition (leaf, attached_by, readings_from, readings_to)
      values (v_change.leaf, v_change.attached_by, v_change.readings_from, v_change.readings_to);
    end if;
    if exists (select from market_sync.checkpoint where commit_lsn is not null) then
      sensors := sensors + market_sync.ask_for_sensors(v_change.since, v_change.until, v_change.was_here);
    end if;
  end loop;
end
$$;
comment on function market_sync.compare_partitions() is
  'Asks for a recompute of what partitions of sensor_readings that came or went since the last look can have changed.';

-- What there is now was computed, or will be.
insert into market_sync.source_partition (leaf, attached_by, readings_from, readings_to)
select leaf, attached_by, readings_from, readings_to from market_sync.list_partitions();
