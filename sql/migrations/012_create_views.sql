-- What a DBA looks at: views over everything that the tables know, and the rights with which functions run.
--
-- Views run with the rights of their owner, so that a role needs no more than the views themselves (sql/roles.sql). Those
-- that are asked every second (status, slot_health, queue) touch partial indexes only, and a bounded part of these.

-- When the checkpoint moved last. updated_at does not say so: it is a sign of life too.
alter table market_sync.checkpoint add column advanced_at timestamptz;
update market_sync.checkpoint set advanced_at = updated_at where commit_lsn is not null;
comment on column market_sync.checkpoint.advanced_at is
  'When commit_lsn moved last. A consumer that follows moves it with every batch, and every 10 s while other WAL passes by.';

create function market_sync.note_advance() returns trigger
language plpgsql
set search_path from current
as $$
begin
  new.advanced_at := clock_timestamp();
  return new;
end
$$;
comment on function market_sync.note_advance() is 'Trigger of market_sync.checkpoint: notes when it moved.';
create trigger note_advance before update of commit_lsn on market_sync.checkpoint
  for each row when (new.commit_lsn is distinct from old.commit_lsn) execute function market_sync.note_advance();
comment on trigger note_advance on market_sync.checkpoint is 'Keeps advanced_at.';

-- The slot.

-- The one place where it is decided; the pipeline's log, readyz, metrics and the views say what it says.
create function market_sync.judge_slot(
  begun boolean, present boolean, wal_status text, retained_wal_bytes numeric, safe_wal_bytes numeric, kept_wal_bytes numeric)
returns text
language sql immutable parallel safe
return case
  when not begun then 'none'
  when not present then 'missing'
  when wal_status = 'lost' then 'lost'
  -- The next checkpoint of PostgreSQL may remove what it needs.
  when wal_status = 'unreserved' then 'filling'
  -- Without a limit, 16 GiB held back are a disk that fills.
  when safe_wal_bytes is null then case when retained_wal_bytes > 16 * 1024 ^ 3 then 'filling' else 'ok' end
  -- Less than a quarter left leaves little time to mend what keeps the consumer from confirming.
  when safe_wal_bytes < 0.25 * kept_wal_bytes then 'filling'
  else 'ok'
end;
comment on function market_sync.judge_slot is
  'How it stands with a replication slot, as far as losing it goes: ok, filling, lost, missing, or none when no consumer has made one yet.';

create view market_sync.slot_health as
select
  market_sync.judge_slot(begun, present, wal_status, retained_wal_bytes, safe_wal_bytes, kept_wal_bytes) as state,
  slot_name, wal_status, active, active_pid, retained_wal_bytes, safe_wal_bytes, kept_wal_bytes, restart_lsn, confirmed_lsn
from (
  select
    c.commit_lsn is not null as begun, s.slot_name is not null as present, c.slot_name, s.wal_status,
    coalesce(s.active, false) as active, s.active_pid,
    case when s.wal_status <> 'lost' then (pg_current_wal_lsn() - s.restart_lsn)::bigint end as retained_wal_bytes,
    s.safe_wal_size as safe_wal_bytes,
    -- As PostgreSQL itself decides what to keep: the greater of both, in megabytes.
    (select max(setting::bigint) * 1024 * 1024 from pg_settings
      where name in ('max_slot_wal_keep_size', 'wal_keep_size')) as kept_wal_bytes,
    s.restart_lsn, s.confirmed_flush_lsn as confirmed_lsn
  from market_sync.checkpoint c
  left join pg_replication_slots s on s.slot_name = c.slot_name
) slot;
comment on view market_sync.slot_health is
  'The replication slot: whether it keeps what the consumer needs, how much WAL it holds back, how much more it may. One row.';
comment on column market_sync.slot_health.state is
  'ok. filling: the consumer does not confirm, and the slot will be lost or the disk full. lost: WAL it needed was removed. missing: somebody dropped it. none: no consumer has made one yet.';
comment on column market_sync.slot_health.wal_status is 'PostgreSQL''s own word: reserved, extended, unreserved, lost.';
comment on column market_sync.slot_health.active_pid is 'The backend that streams from it, see pg_stat_activity.';
comment on column market_sync.slot_health.retained_wal_bytes is 'WAL on disk that PostgreSQL may not remove because of this slot; null when it is lost or missing.';
comment on column market_sync.slot_health.safe_wal_bytes is
  'WAL that may still be written before the slot is in danger of being lost; null where nothing limits what is kept.';
comment on column market_sync.slot_health.kept_wal_bytes is
  'What PostgreSQL keeps for a slot at most: max_slot_wal_keep_size, or wal_keep_size where that is more; negative: no limit.';
comment on column market_sync.slot_health.confirmed_lsn is 'Everything before it is durable in the snapshots: after a restart PostgreSQL sends from here.';

-- Work.

create index manual_state_held_idx on market_sync.manual_state (since) where state = 'held';

-- Bounded: at most 100,001 of each are looked at, in the order of an index, so that asking costs no more in the very
-- incident in which a million wait. A publisher claims in the same order: what is in work stands in front.
create view market_sync.queue as
with due as materialized (
  select lease_until > clock_timestamp() as in_work, false as failed,
    coalesce(first_failed_at, changed_at, nullif(next_attempt_at, '-infinity')) as at
  from market_sync.snapshot_state
  where (epoch, revision) > (published_epoch, published_revision) and parked_at is null
    and next_attempt_at <= (select clock_timestamp())
  order by next_attempt_at
  limit 100001
), later as materialized (
  select lease_until > clock_timestamp() as in_work, attempts > 0 as failed, coalesce(first_failed_at, changed_at, next_attempt_at) as at
  from market_sync.snapshot_state
  where (epoch, revision) > (published_epoch, published_revision) and parked_at is null
    and next_attempt_at > (select clock_timestamp())
  order by next_attempt_at
  limit 100001
), waiting as (
  select * from due union all select * from later
), parked as (
  select parked_at as at from market_sync.snapshot_state where parked_at is not null order by parked_at limit 100001
), held as (
  select since as at from market_sync.manual_state m
  -- Not a join: one look-up each, whatever the planner thinks of their number.
  where state = 'held'
    and (select s.ended_at is null from market_inventory_snapshots s where s.booking_id = m.booking_id)
  order by since
  limit 100001
), refresh as (
  select next_refresh_at as at from market_sync.snapshot_state where next_refresh_at <= (select clock_timestamp())
  order by next_refresh_at
  limit 100001
), counted (state, count, oldest_at) as (
  select 'to_publish', count(*), min(at) from waiting where in_work is not true and not failed
  union all
  select 'in_work', count(*), min(at) from waiting where in_work
  union all
  select 'waiting_for_retry', count(*), min(at) from waiting where in_work is not true and failed
  union all
  select 'parked', count(*), min(at) from parked
  union all
  select 'held', count(*), min(at) from held
  union all
  select 'due_for_refresh', count(*), min(at) from refresh
)
select state, count, oldest_at,
  case when oldest_at is not null then greatest(clock_timestamp() - oldest_at, interval '0') end as oldest_age
from counted;
comment on view market_sync.queue is
  'What waits and for what, always six rows. to_publish, in_work and waiting_for_retry together are what MongoDB has not confirmed; the others may overlap with them. At most 100,001 are counted of each: 100001 says that there are more, to_publish and in_work counting together.';
comment on column market_sync.queue.state is
  'to_publish: a publisher may take it, at once or at the end of publish_interval. in_work: a publisher has it. waiting_for_retry: it failed and is tried again by itself. parked: it failed too often. held: by hand, and not ended since. due_for_refresh: the clock has changed it, the next refresh recomputes it.';
comment on column market_sync.queue.oldest_at is
  'Since when the oldest waits: its commit, or its first failure; parked, held or due since then. Of those that are counted. Null when there is none.';

create view market_sync.held as
select booking_id, state, reason, actor, since from market_sync.manual_state;
comment on view market_sync.held is
  'Bookings that a person has taken off the market: held until released, or withdrawn. Undo either with release().';
comment on column market_sync.held.since is 'Since when it is in this state; another reason given later does not change it.';

create view market_sync.overrides as
select booking_id, grade, quality_score, freshness, visual_defects, special_notes, reason, actor, set_at, expires_at, version
from market_sync.override
where expires_at is null or expires_at > clock_timestamp();
comment on view market_sync.overrides is
  'Fields of snapshots that people have corrected, as they are in force now. A null field follows the source. End one with end_override().';
comment on column market_sync.overrides.expires_at is 'When it ends by itself; null: when somebody ends it.';
comment on column market_sync.overrides.version is 'Another one with every write: pass it as p_if_version to change only what was seen.';

create view market_sync.revisions as
select booking_id, epoch, revision, at, status, cause from market_sync.revision;
comment on view market_sync.revisions is 'The last 16 revisions of each booking''s snapshot: when, with which status, and what changed.';
comment on column market_sync.revisions.cause is
  'new: first of its booking. own: the booking''s own columns, its status or its grade. parts: inspection, sensors, detections, certificates, overrides of them. epoch: written again in a new epoch.';

create view market_sync.audit_log as
select id, at, action, actor, via, db_user, booking_ids, reason, details, request_id from market_sync.manual_action;
comment on view market_sync.audit_log is
  'Every manual action, one row each, written in the transaction that performed it: who, what, which bookings, why.';
comment on column market_sync.audit_log.actor is 'The database login, or in whose name the API acted.';
comment on column market_sync.audit_log.via is 'sql: a call of a function. http: the API.';
comment on column market_sync.audit_log.db_user is 'The database login, the API''s own where it acted for an actor.';
comment on column market_sync.audit_log.booking_ids is 'Which bookings; of retry_parked the first 1,000. Null: none in particular.';
comment on column market_sync.audit_log.request_id is 'The id under which the API''s log has the call.';

-- Figures.

create view market_sync.latency as
with recent as materialized (
  select stage, minute, bucket, count, max_ms from market_sync.latency_histogram
  -- statement_timestamp(): with clock_timestamp(), which is volatile, no index would be used.
  where stage in ('snapshot', 'listing') and minute >= date_trunc('minute', statement_timestamp()) - interval '60 minutes'
), counted as (
  select stage.name as stage, span.minutes, l.bucket, sum(l.count) as count, max(l.max_ms) as max_ms,
    sum(sum(l.count)) over (partition by stage.name, span.minutes order by l.bucket) as upto,
    sum(sum(l.count)) over (partition by stage.name, span.minutes) as total
  from (values ('snapshot'), ('listing')) as stage (name)
  cross join (values (1), (15), (60)) as span (minutes)
  left join recent l on l.stage = stage.name
    and l.minute >= date_trunc('minute', statement_timestamp()) - make_interval(mins => span.minutes)
  group by stage.name, span.minutes, l.bucket
), percentile as (
  select stage, minutes, coalesce(max(total), 0)::bigint as count, max(max_ms) as max_ms,
    min(market_sync.latency_bound(bucket)) filter (where upto >= 0.50 * total) as p50,
    min(market_sync.latency_bound(bucket)) filter (where upto >= 0.95 * total) as p95,
    min(market_sync.latency_bound(bucket)) filter (where upto >= 0.99 * total) as p99
  from counted
  group by stage, minutes
)
select stage, minutes as window_minutes, count,
  -- A bucket says "at most": never more than the greatest that was seen.
  round(least(p50, max_ms)::numeric, 1)::float8 as p50_ms, round(least(p95, max_ms)::numeric, 1)::float8 as p95_ms,
  round(least(p99, max_ms)::numeric, 1)::float8 as p99_ms, round(max_ms::numeric, 1)::float8 as max_ms
from percentile;
comment on view market_sync.latency is
  'How long after their commit changes were in the snapshot, and in the listing (confirmed by MongoDB): always six rows. Percentiles are upper bounds of histogram buckets, at most 26 % above the truth; null while nothing was measured.';
comment on column market_sync.latency.stage is 'snapshot: commit to snapshot. listing: commit to MongoDB''s confirmation.';
comment on column market_sync.latency.window_minutes is 'Over the last so many full minutes and the present one.';
comment on column market_sync.latency.count is 'Changed snapshots, or listings, that were measured. What the clock, a person or a resync caused has no commit and is not.';

create view market_sync.throughput as
select minute.at as minute,
  coalesce(sum(a.events) filter (where a.kind = 'reconcile'), 0)::bigint as batches,
  coalesce(sum(a.items) filter (where a.kind = 'reconcile'), 0)::bigint as recomputed,
  coalesce(sum(a.changed) filter (where a.kind = 'reconcile'), 0)::bigint as changed,
  coalesce(sum(a.items) filter (where a.kind = 'publish'), 0)::bigint as published,
  coalesce(sum(a.items) filter (where a.kind in ('failure', 'refusal')), 0)::bigint as failures,
  coalesce(sum(a.items) filter (where a.kind = 'redelivery'), 0)::bigint as redelivered
from (
  select date_trunc('minute', clock_timestamp()) - make_interval(mins => back) as at from generate_series(0, 59) back
) minute
left join market_sync.activity a on a.minute = minute.at
group by minute.at;
comment on view market_sync.throughput is 'What was done in each of the last 60 minutes, the present one included: always 60 rows.';
comment on column market_sync.throughput.batches is 'Batches of the consumer.';
comment on column market_sync.throughput.recomputed is 'Snapshots that the consumer recomputed.';
comment on column market_sync.throughput.changed is 'Of these, snapshots of which a buyer sees something else now.';
comment on column market_sync.throughput.published is 'Listings that MongoDB confirmed.';
comment on column market_sync.throughput.failures is 'Attempts that failed for reasons of one snapshot''s own.';
comment on column market_sync.throughput.redelivered is 'Transactions that came again after a restart; they change nothing.';

create view market_sync.drift as
select distinct on (kind) kind, started_at, finished_at, compared, found, outcome
from market_sync.drift_check
order by kind, id desc;
comment on view market_sync.drift is 'The last comparison of listings with snapshots, of each kind, and what it found. No row: none has run yet.';
comment on column market_sync.drift.kind is 'versions: the version of every listing, after each start of PostgreSQL.';
comment on column market_sync.drift.compared is 'Listings compared.';
comment on column market_sync.drift.found is 'Of these, listings that were not as they must be.';

-- pg-boss's jobs.
--
-- pg-boss alters its own tables when it is upgraded, and a view on them would keep it from doing so. So they are read
-- through functions that look the tables up when they are called, and answer nothing while there are none. They run with
-- the rights of their owner: a table that somebody else has put in that place is not read (what a view there would call,
-- it would call with these rights).

create function market_sync.find_pgboss_table(p_name text) returns regclass
language sql stable
set search_path from current
as $$
  select c.oid::regclass
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = 'pgboss' and c.relname = p_name and c.relkind in ('r', 'p') and not c.relrowsecurity
    -- Nobody else may put another in its place meanwhile, either.
    and not exists (
      select from pg_roles owner cross join pg_roles me
      where owner.oid in (c.relowner, n.nspowner) and me.rolname = current_user
        and not (owner.oid = me.oid or owner.rolsuper or (pg_has_role(owner.oid, 'usage') and not me.rolsuper)))
$$;
comment on function market_sync.find_pgboss_table(text) is
  'A table of pg-boss, if there is one that the owner of this schema, a role of its, or a superuser has made.';

create function market_sync.read_jobs()
returns table (
  id uuid, queue text, state text, created_at timestamptz, started_at timestamptz, finished_at timestamptz,
  duration interval, retries int, input jsonb, output jsonb, error text)
language plpgsql stable security definer
set search_path from current
as $$
declare
  v_job regclass := market_sync.find_pgboss_table('job');
begin
  if v_job is null then
    return;
  end if;
  return query execute format(
    $query$
      select id, name, state::text, created_on, started_on, completed_on,
        coalesce(completed_on, case when state::text = 'active' then clock_timestamp() end) - started_on, retry_count, data,
        case when state::text not in ('failed', 'retry') then output end,
        case when state::text in ('failed', 'retry') then coalesce(output ->> 'message', output ->> 'value', output::text) end
      from %s
    $query$, v_job);
end
$$;
comment on function market_sync.read_jobs() is 'The rows of the view jobs, read from pg-boss''s tables, whatever version of them is there.';

create view market_sync.jobs as select * from market_sync.read_jobs();
comment on view market_sync.jobs is
  'Sweeps, refreshes, cleanups and other jobs of pg-boss, of the last 7 days: when, how long, what came of it. Empty where pg-boss has no tables, or another login than the owner of market_sync made them.';
comment on column market_sync.jobs.state is 'created (waits), retry (failed, waits to be tried again), active, completed, cancelled, failed (for good).';
comment on column market_sync.jobs.duration is 'How long it took, or has taken so far.';
comment on column market_sync.jobs.retries is 'How often it has been tried again.';
comment on column market_sync.jobs.output is 'What it did, in figures.';
comment on column market_sync.jobs.error is 'Why it failed last.';

create function market_sync.read_schedules()
returns table (queue text, cron text, timezone text, last_created_at timestamptz, last_state text)
language plpgsql stable security definer
set search_path from current
as $$
declare
  v_schedule regclass := market_sync.find_pgboss_table('schedule');
  v_job regclass := market_sync.find_pgboss_table('job');
begin
  if v_schedule is null or v_job is null then
    return;
  end if;
  return query execute format(
    $query$
      select s.name, s.cron, s.timezone, last.created_on, last.state::text
      from %s s
      left join lateral (
        select j.created_on, j.state from %s j where j.name = s.name order by j.created_on desc limit 1) last on true
    $query$, v_schedule, v_job);
end
$$;
comment on function market_sync.read_schedules() is 'The rows of the view schedules, read from pg-boss''s tables.';

create view market_sync.schedules as select * from market_sync.read_schedules();
comment on view market_sync.schedules is 'What runs when, and when it ran last. Times are set with the settings of the pipeline.';
comment on column market_sync.schedules.cron is 'Minute, hour, day of month, month, day of week.';
comment on column market_sync.schedules.last_created_at is 'When the last job was queued, by the schedule or by hand.';
comment on column market_sync.schedules.last_state is 'What became of it, see jobs.';

create function market_sync.pg_boss_version() returns int
language plpgsql stable security definer
set search_path from current
as $$
declare
  v_version regclass := market_sync.find_pgboss_table('version');
  v_number int;
begin
  if v_version is not null then
    execute format('select version from %s', v_version) into v_number;
  end if;
  return v_number;
end
$$;
comment on function market_sync.pg_boss_version() is 'The version of pg-boss''s tables; null while there are none.';

-- All of it at a glance.

create view market_sync.status as
with estimated as (
  select
    (select reltuples::bigint from pg_class where oid = 'market_sync.snapshot_state'::regclass) as snapshots,
    -- By name: the index may have been built anew, and is another one then.
    (select max(c.reltuples)::bigint from pg_index i join pg_class c on c.oid = i.indexrelid
      where i.indrelid = 'market_inventory_snapshots'::regclass
        and c.relname = 'market_inventory_snapshots_ended_at_idx') as ended
), counted as materialized (
  select
    case when snapshots > 100000 then snapshots
      else (select count(*) from (select from market_sync.snapshot_state where revision > 0 limit 100001) bounded) end as snapshots,
    case when ended > 100000 then ended
      else (select count(*) from (select from market_inventory_snapshots where ended_at is not null limit 100001) bounded)
    end as ended
  from estimated
)
select
  case when c.lease_until > clock_timestamp() then 'active' else 'absent' end as consumer_state, c.holder as consumer_holder,
  c.paused_at, c.paused_by, c.pause_reason,
  slot.state as slot_state, slot.slot_name, slot.active as slot_active, slot.active_pid as slot_active_pid, slot.wal_status,
  slot.retained_wal_bytes, slot.safe_wal_bytes,
  c.commit_lsn, c.advanced_at, behind.bytes as lag_bytes,
  round((case
    when behind.bytes is null then null
    when behind.bytes = 0 then 0
    when c.paused_at is not null then extract(epoch from clock_timestamp() - greatest(c.paused_at, c.advanced_at))
    when c.lease_until is null or c.lease_until <= clock_timestamp() or not slot.active
      then extract(epoch from clock_timestamp() - c.advanced_at)
    when c.working_since < clock_timestamp() - interval '1 second' then extract(epoch from clock_timestamp() - c.working_since)
    when c.advanced_at > clock_timestamp() - interval '2 seconds' then coalesce((
      select sum(sum_ms) / sum(count) / 1000 from market_sync.latency_histogram
      where stage = 'snapshot' and minute = date_trunc('minute', statement_timestamp())), 0)
    else 0
  end)::numeric, 3) as lag_seconds,
  c.epoch, c.malformed_messages,
  waiting.claims, published.minute as last_confirmed_at,
  case when waiting.oldest_at is not null then
    round(greatest(extract(epoch from clock_timestamp() - waiting.oldest_at), 0), 3) end as publish_lag_seconds,
  counted.snapshots, counted.ended,
  waiting.to_publish, waiting.parked, waiting.held, waiting.due_for_refresh,
  r.id as resync_id, r.reason as resync_reason, r.phase as resync_phase, r.bookings_done as resync_bookings_done,
  r.requested_at as resync_requested_at,
  (select name from market_sync.migrations order by number desc limit 1) as migration,
  current_setting('server_version') as postgres_version, market_sync.pg_boss_version() as pg_boss_version,
  waiting.queue
from market_sync.checkpoint c
cross join market_sync.slot_health slot
cross join lateral (
  select case when c.commit_lsn is not null then greatest(pg_current_wal_lsn() - c.commit_lsn, 0)::bigint end as bytes
) behind
cross join (
  select
    -- Two of these may have stopped at 100,001.
    least(coalesce(sum(count) filter (where state in ('to_publish', 'in_work', 'waiting_for_retry')), 0), 100001)::bigint
      as to_publish,
    coalesce(sum(count) filter (where state = 'in_work'), 0)::bigint as claims,
    coalesce(sum(count) filter (where state = 'parked'), 0)::bigint as parked,
    coalesce(sum(count) filter (where state = 'held'), 0)::bigint as held,
    coalesce(sum(count) filter (where state = 'due_for_refresh'), 0)::bigint as due_for_refresh,
    min(oldest_at) filter (where state in ('to_publish', 'in_work')) as oldest_at,
    jsonb_agg(jsonb_build_object('state', state, 'count', count, 'oldest_at', market_sync.iso(oldest_at),
      'oldest_seconds', round(extract(epoch from oldest_age), 3))) as queue
  from market_sync.queue
) waiting
cross join (
  select max(minute) as minute from market_sync.activity where kind = 'publish' and minute > '-infinity'
) published
cross join counted
left join lateral (select * from market_sync.resync where finished_at is null order by id limit 1) r on true;
comment on view market_sync.status is 'How everything stands, in one row. Cheap: may be asked every second.';
comment on column market_sync.status.consumer_state is 'active: a consumer shows signs of life. absent: none does, and changes wait in the slot.';
comment on column market_sync.status.consumer_holder is 'Host and process that follow the changes.';
comment on column market_sync.status.paused_at is 'Since when the pipeline is paused by hand; null when it is not. Resume it with resume().';
comment on column market_sync.status.slot_state is 'See slot_health.';
comment on column market_sync.status.commit_lsn is 'Every change committed up to here is in the snapshots.';
comment on column market_sync.status.lag_bytes is
  'WAL written after commit_lsn, of whatever kind. It is seldom 0: other tables, vacuum and signs of life write too.';
comment on column market_sync.status.lag_seconds is
  'How far snapshots are behind commits. PostgreSQL knows no times in its WAL, so: 0 while a consumer follows and nothing waits; the age of the oldest change in its hands, when that is more than 1 s; while it moves, the mean latency of this minute''s batches; while none streams or it is paused, the time since the checkpoint moved: no change is older than that and missing, and perhaps none is missing. What PostgreSQL has not sent to the consumer yet shows in lag_bytes only. Null before the first start.';
comment on column market_sync.status.epoch is 'Rises when history was cut: changes may have been lost or undone, and everything was computed and published again.';
comment on column market_sync.status.malformed_messages is 'Messages on the change stream that nobody could parse; they were skipped.';
comment on column market_sync.status.claims is 'Snapshots that publishers are writing to MongoDB now.';
comment on column market_sync.status.last_confirmed_at is 'The minute in which MongoDB last confirmed a listing; null when not within a day.';
comment on column market_sync.status.publish_lag_seconds is 'Age of the oldest change that MongoDB has not confirmed, without what failed and waits; null when there is none.';
comment on column market_sync.status.ended is 'Of these, completed or withdrawn ones; counted and estimated likewise.';
comment on column market_sync.status.snapshots is 'Snapshots in all: counted up to 100,000, PostgreSQL''s estimate beyond, and 100001 where there is none yet.';
comment on column market_sync.status.to_publish is 'Snapshots whose newest revision MongoDB has not confirmed, without parked ones. Counted up to 100,001. See queue.';
comment on column market_sync.status.queue is 'The rows of the view queue, ages in seconds.';
comment on column market_sync.status.resync_reason is 'Why everything is being recomputed, if it is; see market_sync.resync.';
comment on column market_sync.status.migration is 'The last migration applied: the version of this schema.';

-- Rights. Who calls a function that writes needs no right to what it writes: it runs with those of its owner, in the
-- search path that it was made in (the source schema, then pg_temp, which is searched first unless named). What only
-- other functions call runs with the rights of these, and nobody else may call it. sql/roles.sql says who may call what.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select oid from pg_proc
    where pronamespace = 'market_sync'::regnamespace and proname in (
      'acquire_consumer', 'renew_consumer', 'release_consumer', 'begin_history', 'reconcile_batch', 'reconcile_bookings',
      'resync_chunk', 'request_resync', 'claim_snapshots', 'mark_published', 'release_claims', 'record_failure',
      'claim_expired', 'delete_ended', 'cut_history', 'cut_unless_known', 'fold_measurements')
  loop
    execute format('alter function %s security definer set search_path from current', v_function);
  end loop;
end
$$;
