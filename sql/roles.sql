-- Who may do what. Applied by `market-sync migrate` at its end, every time; applying it again changes nothing.
--
-- Group roles without a login, the same for every database of the cluster. A person's or program's login is made a member:
--   create role ana login in role market_sync_operator;
-- Whatever these roles were granted on this project's objects beyond this file is taken back: what they may do stands here.
-- So is whatever anybody but the owner was granted in market_sync: who needs something is made a member.
-- docs/dba.md says more, and test/sql/roles.test.ts holds a matrix of roles and objects against the catalog.
--
-- Runs with search_path = the source schema, in one transaction.

-- The right to everything that is new is everybody's (functions) until it is taken back.
revoke all on schema market_sync from public;
revoke all on all tables in schema market_sync from public;
revoke all on all sequences in schema market_sync from public;
revoke all on all functions in schema market_sync from public;

-- What others were given, by hand or by default privileges of the owner (alter default privileges … grant select on tables):
-- keys of callers, and functions that run with the rights of the owner, are nobody else's.
do $$
declare
  v_given record;
begin
  for v_given in
    select distinct object.name, grantee.rolname
    from (
      select format('schema %I', nspname), nspowner, nspacl from pg_namespace where oid = 'market_sync'::regnamespace
      union all
      select format('%s %s', case relkind when 'S' then 'sequence' else 'table' end, oid::regclass), relowner, relacl
      from pg_class where relnamespace = 'market_sync'::regnamespace
      union all
      select format('table %s', c.oid::regclass), c.relowner, a.attacl
      from pg_class c join pg_attribute a on a.attrelid = c.oid where c.relnamespace = 'market_sync'::regnamespace
      union all
      select format('routine %s', oid::regprocedure), proowner, proacl
      from pg_proc where pronamespace = 'market_sync'::regnamespace
    ) as object (name, owner, acl)
    cross join lateral aclexplode(object.acl) entry
    join pg_roles grantee on grantee.oid = entry.grantee
    where entry.grantee <> object.owner
      and grantee.rolname not in ('market_sync_reader', 'market_sync_operator', 'market_sync_admin',
        'market_sync_consumer', 'market_sync_publisher', 'market_sync_api')
  loop
    execute format('revoke all on %s from %I cascade', v_given.name, v_given.rolname);
  end loop;
end
$$;

-- Roles belong to the cluster: other databases may be migrated at the same moment. And this login may not be allowed to
-- make roles; what is missing then is left to a DBA, and this file applied again afterwards.
do $$
declare
  v_role record;
begin
  for v_role in
    select * from (values
      ('market_sync_reader', 'Looks: the views of market_sync, and the snapshots.'),
      ('market_sync_operator', 'A reader who holds, releases, withdraws, corrects, publishes and recomputes by hand.'),
      ('market_sync_admin', 'An operator who pauses, resumes and recomputes everything.'),
      ('market_sync_consumer', 'market-sync pipeline: follows changes, recomputes, runs jobs. Its login needs REPLICATION, too.'),
      ('market_sync_publisher', 'market-sync pipeline: writes listings.'),
      ('market_sync_api', 'market-sync api: acts in the name of its callers.')
    ) as role (name, purpose)
    where not exists (select from pg_roles where rolname = role.name)
  loop
    begin
      execute format('create role %I nologin', v_role.name);
      execute format('comment on role %I is %L', v_role.name, v_role.purpose);
    exception when duplicate_object or unique_violation or insufficient_privilege then
      null; -- Made by another at the same moment, or to be made by a DBA.
    end;
  end loop;
end
$$;

do $$
declare
  v_member record;
  v_table text;
  v_source text := quote_ident(current_schema());
begin
  if (select count(*) from pg_roles where rolname in ('market_sync_reader', 'market_sync_operator', 'market_sync_admin',
      'market_sync_consumer', 'market_sync_publisher', 'market_sync_api')) < 6 then
    return;
  end if;

  for v_member in
    select * from (values
      ('market_sync_reader', 'market_sync_operator'), ('market_sync_operator', 'market_sync_admin')) as t (of_role, member)
    where not pg_has_role(member, of_role, 'member')
  loop
    begin
      execute format('grant %I to %I', v_member.of_role, v_member.member);
    -- internal_error: "tuple concurrently updated".
    exception when unique_violation or insufficient_privilege or internal_error then
      null;
    end;
  end loop;

  revoke all on all tables in schema market_sync from
    market_sync_reader, market_sync_operator, market_sync_admin, market_sync_consumer, market_sync_publisher, market_sync_api;
  revoke all on market_inventory_snapshots from
    market_sync_reader, market_sync_operator, market_sync_admin, market_sync_consumer, market_sync_publisher, market_sync_api;
  revoke all on all sequences in schema market_sync from
    market_sync_reader, market_sync_operator, market_sync_admin, market_sync_consumer, market_sync_publisher, market_sync_api;
  revoke all on all functions in schema market_sync from
    market_sync_reader, market_sync_operator, market_sync_admin, market_sync_consumer, market_sync_publisher, market_sync_api;

  -- The snapshots live there, and names of tables are looked up there.
  execute format('grant usage on schema %s to '
    'market_sync_reader, market_sync_consumer, market_sync_publisher, market_sync_api', v_source);
  grant usage on schema market_sync to
    market_sync_reader, market_sync_consumer, market_sync_publisher, market_sync_api;
  -- Whether the program and the database are of one version.
  grant select on market_sync.migrations to
    market_sync_reader, market_sync_consumer, market_sync_publisher, market_sync_api;

  -- Views run with the rights of their owner, the functions in them with those of whoever looks.
  grant select on
    market_sync.status, market_sync.slot_health, market_sync.queue, market_sync.parked, market_sync.held, market_sync.overrides,
    market_sync.revisions, market_sync.jobs, market_sync.schedules, market_sync.latency, market_sync.throughput,
    market_sync.drift, market_sync.drift_findings, market_sync.audit_log, market_sync.latency_trace, market_sync.partitions,
    market_sync.backfills, market_sync.audits
    to market_sync_reader, market_sync_api;
  grant execute on function market_sync.judge_slot, market_sync.latency_bound, market_sync.read_jobs,
    market_sync.read_schedules, market_sync.pg_boss_version, market_sync.iso(timestamptz),
    market_sync.list_partitions, market_sync.current_rate, market_sync.time_left
    to market_sync_reader, market_sync_api;
  grant select on market_inventory_snapshots to market_sync_reader;

  grant execute on function market_sync.reconcile(uuid[]), market_sync.publish_now, market_sync.retry_parked, market_sync.hold,
    market_sync.release, market_sync.withdraw, market_sync.set_override, market_sync.end_override, market_sync.trace_latency
    to market_sync_operator;
  grant execute on function market_sync.pause, market_sync.resume, market_sync.resync, market_sync.audit, market_sync.backfill,
    market_sync.cancel_task
    to market_sync_admin;

  -- The consumer and what runs beside it: resync, refresh, cleanup, tasks, the queue.
  grant execute on function market_sync.acquire_consumer, market_sync.renew_consumer, market_sync.release_consumer,
    market_sync.begin_history, market_sync.follow_timeline, market_sync.reconcile_batch, market_sync.reconcile_and_claim, market_sync.reconcile_bookings,
    market_sync.resync_chunk, market_sync.let_slot_advance,
    market_sync.request_resync, market_sync.claim_expired, market_sync.release_claims, market_sync.delete_ended,
    market_sync.fold_measurements, market_sync.is_paused, market_sync.judge_slot, market_sync.note_source_shape,
    market_sync.list_partitions, market_sync.capture_partition, market_sync.compare_partitions, market_sync.live_work,
    market_sync.source_writes, market_sync.count_grown_tables, market_sync.current_rate, market_sync.time_left
    to market_sync_consumer;
  grant select on market_sync.slot_health, market_sync.checkpoint, market_sync.settings, market_sync.resync,
    market_sync.snapshot_state, market_sync.task, market_sync.partitions
    to market_sync_consumer;
  grant update (malformed_messages) on market_sync.checkpoint to market_sync_consumer;
  grant update (pest_window, sensor_stale_after, retention, publish_interval) on market_sync.settings to market_sync_consumer;
  grant update (phase, finished_at) on market_sync.resync to market_sync_consumer;
  grant update, delete on market_sync.task to market_sync_consumer;
  -- A backfill goes through every booking, and every snapshot whose booking is gone; an audit also looks which are live.
  grant select (id, booking_status) on storage_bookings to market_sync_consumer;
  grant select (booking_id) on market_inventory_snapshots to market_sync_consumer;
  grant execute on function market_sync.audit_keys, market_sync.audit_snapshots, market_sync.repair_snapshots,
    market_sync.mark_stream, market_sync.request_audit
    to market_sync_consumer;
  grant select, update, delete on market_sync.audit_run to market_sync_consumer;
  grant select, insert, update, delete on market_sync.finding, market_sync.finding_count to market_sync_consumer;
  -- Kept answers are deleted when they are old; what they say is none of its business.
  grant select (caller, key, created_at, lease_until), update (lease_until), delete on market_sync.idempotency
    to market_sync_consumer;

  grant execute on function market_sync.claim_listings, market_sync.claim_snapshots, market_sync.mark_published, market_sync.release_claims,
    market_sync.record_failure, market_sync.find_unknown_versions, market_sync.cut_unless_known, market_sync.is_paused
    to market_sync_publisher, market_sync_api;
  grant select on market_sync.checkpoint, market_sync.snapshot_state, market_inventory_snapshots
    to market_sync_publisher, market_sync_api;
  grant update (history_checked_for) on market_sync.checkpoint to market_sync_publisher, market_sync_api;
  grant insert on market_sync.drift_check to market_sync_publisher;

  -- The API checks who calls, and what they may do.
  grant execute on function market_sync.reconcile(uuid[]), market_sync.publish_now, market_sync.retry_parked, market_sync.hold,
    market_sync.release, market_sync.withdraw, market_sync.set_override, market_sync.end_override, market_sync.pause,
    market_sync.resume, market_sync.resync, market_sync.audit, market_sync.backfill, market_sync.cancel_task,
    market_sync.record_action, market_sync.reconcile_bookings
    to market_sync_api;
  grant select on market_sync.resync, market_sync.override, market_sync.manual_state, market_sync.revision,
    market_sync.latency_histogram, market_sync.activity
    to market_sync_api;
  grant select, update (last_used_at) on market_sync.api_key to market_sync_api;
  grant select, insert, update, delete on market_sync.idempotency to market_sync_api;
  grant select, insert, update on market_sync.task to market_sync_api;
  -- What a snapshot was made from, for people who compare. One of these may be missing, or another's.
  foreach v_table in array array['storage_bookings', 'storage_locations', 'crop_inspections', 'iot_sensors',
    'sensor_readings', 'pest_detections', 'compliance_certificates', 'storage_certificates']
  loop
    begin
      execute format('grant select on %I to market_sync_api', v_table);
    exception when undefined_table or insufficient_privilege then
      null;
    end;
  end loop;

  if to_regnamespace('pgboss') is not null then
    grant usage on schema pgboss to market_sync_consumer, market_sync_api;
    grant select, insert, update, delete on all tables in schema pgboss to market_sync_consumer;
    grant usage on all sequences in schema pgboss to market_sync_consumer;
    -- The API hands jobs over, and looks whether they are still there.
    grant select on pgboss.version to market_sync_api;
    grant select, insert on pgboss.queue, pgboss.job, pgboss.job_common to market_sync_api;
  end if;
end
$$;
