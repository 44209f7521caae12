-- How much the application writes, for whoever shares the server with it and nobody waits for: a backfill before the first
-- start of a pipeline has no live batches to go by, and beside a consumer that is behind these are few and long.

-- By PostgreSQL's own statistics, which anybody may see and which are a second behind. A partitioned table's rows are
-- counted in its leaves. Nothing of ours writes these tables.
create function market_sync.source_writes() returns bigint
language sql stable security definer
set search_path from current
as $$
  select coalesce(sum(pg_stat_get_tuples_inserted(id) + pg_stat_get_tuples_updated(id) + pg_stat_get_tuples_deleted(id)), 0)::bigint
  from unnest(array['storage_bookings', 'sensor_readings', 'iot_sensors', 'pest_detections', 'crop_inspections',
    'compliance_certificates', 'storage_certificates']) name
  cross join lateral (
    select to_regclass(name)
    union all
    select relid from pg_partition_tree(to_regclass(name)) where isleaf
  ) source (id)
$$;
comment on function market_sync.source_writes() is
  'Rows of the source tables that were inserted, updated and deleted since PostgreSQL began to count, rolled back or not.';
