-- Backfill beside live work: what it makes to publish waits behind live changes, it can be asked for and cancelled in SQL,
-- and says how fast it is.

-- What a backfill or a resync changed may be everything there is; a change that somebody waits for, of the application or of
-- a person, goes first.
alter table market_sync.snapshot_state add column background boolean not null default false;
comment on column market_sync.snapshot_state.background is
  'Whether what is to be published was made by a backfill or a resync alone: publishers take everything else first.';

-- Beside the one of everything that is to be published: however much a backfill has made, these are found at once.
create index snapshot_state_live_outbox_idx on market_sync.snapshot_state (next_attempt_at)
  where (epoch, revision) > (published_epoch, published_revision) and parked_at is null and not background;

-- A trigger, so that whoever makes a revision need not know of it. Its condition costs a live change next to nothing.
create function market_sync.note_background() returns trigger
language plpgsql
set search_path from current
as $$
begin
  new.background := current_setting('market_sync.background', true) is not distinct from 'on'
    -- What waits already for another reason goes on waiting in front.
    and (tg_op = 'INSERT' or old.background
      or (old.epoch, old.revision) <= (old.published_epoch, old.published_revision));
  return new;
end
$$;
comment on function market_sync.note_background() is 'Trigger of market_sync.snapshot_state: notes which revisions may wait.';
create trigger note_background before insert or update of revision on market_sync.snapshot_state
  for each row when (new.background or current_setting('market_sync.background', true) = 'on')
  execute function market_sync.note_background();
comment on trigger note_background on market_sync.snapshot_state is 'Keeps background.';

-- Signs of live work, for whoever has the lock of all recomputes and may let others go first.
create function market_sync.live_work(out waiting boolean, out batches bigint)
language sql stable security definer
set search_path from current
as $$
  select
    exists (
      select from pg_locks
      where locktype = 'advisory' and classid = 5501 and objid = 1 and objsubid = 2 and not granted
        and database = (select oid from pg_database where datname = current_database())),
    coalesce((
      select sum(events) from market_sync.activity
      where kind = 'reconcile' and minute >= date_trunc('minute', statement_timestamp()) - interval '1 minute'), 0)::bigint
$$;
comment on function market_sync.live_work() is
  'Whether somebody waits for the lock of all recomputes, and how many batches of changes were recomputed within two minutes.';

-- Plans made while the snapshots were few read all of them for every chunk, until autovacuum comes by: a first backfill
-- would grow slower with every chunk. So whoever fills the tables has them counted whenever they have doubled.
create function market_sync.count_grown_tables() returns boolean
language plpgsql security definer
set search_path from current
as $$
declare
  v_grown boolean := false;
  v_table regclass;
begin
  for v_table in
    select c.oid from pg_class c
    where c.oid in ('market_inventory_snapshots'::regclass, 'market_sync.snapshot_state'::regclass, 'market_sync.revision'::regclass)
      and pg_relation_size(c.oid) / current_setting('block_size')::int > 2 * c.relpages + 8
    order by c.oid
  loop
    execute format('analyze %s', v_table);
    v_grown := true;
  end loop;
  return v_grown;
end
$$;
comment on function market_sync.count_grown_tables() is
  'Analyzes the tables of snapshots that have doubled since they were analyzed, so that plans fit their size; true when there were any.';

-- Claims up to p_limit snapshots (of p_booking_ids, when given: then also those that wait for their next attempt, are
-- parked, or are published already) and answers their content. What another publisher holds is left out: two writes of
-- one listing at once are harmless where updates are atomic, which they are not everywhere (FerretDB). Nothing is claimed
-- while the pipeline is paused. What a backfill or a resync made comes last. p_only: 'live' leaves that, 'background' takes
-- nothing else.
drop function market_sync.claim_snapshots(text, interval, int, uuid[]);
create function market_sync.claim_snapshots(
  p_publisher text, p_lease interval, p_limit int, p_booking_ids uuid[] default null, p_only text default null)
returns setof market_inventory_snapshots
language plpgsql security definer
set search_path from current
as $$
declare
  v_ids uuid[];
  v_more uuid[];
  v_first boolean;
begin
  if market_sync.is_paused() then
    return;
  end if;
  if p_booking_ids is null then
    if p_only is distinct from 'background' then
      select array_agg(due.booking_id) into v_ids from (
        select booking_id from market_sync.snapshot_state
        where (epoch, revision) > (published_epoch, published_revision) and parked_at is null and not background
          and next_attempt_at <= (select clock_timestamp())
          and (lease_until is null or lease_until <= clock_timestamp())
        order by next_attempt_at
        limit p_limit
        for update skip locked
      ) due;
    end if;
    -- Apart, so that each is read in the order of an index.
    if p_only is distinct from 'live' and coalesce(cardinality(v_ids), 0) < p_limit then
      select array_agg(due.booking_id) into v_more from (
        select booking_id from market_sync.snapshot_state
        where (epoch, revision) > (published_epoch, published_revision) and parked_at is null and background
          and next_attempt_at <= (select clock_timestamp())
          and (lease_until is null or lease_until <= clock_timestamp())
        order by next_attempt_at
        limit p_limit - coalesce(cardinality(v_ids), 0)
        for update skip locked
      ) due;
      v_ids := v_ids || v_more;
    end if;
  else
    select array_agg(asked.booking_id) into v_ids from (
      select booking_id from market_sync.snapshot_state
      where booking_id = any (p_booking_ids) and revision > 0
        and (lease_until is null or lease_until <= clock_timestamp())
      order by booking_id
      limit p_limit
      for update
    ) asked;
  end if;
  if v_ids is null then
    return;
  end if;

  update market_sync.snapshot_state
  set claimed_by = p_publisher, claimed_at = clock_timestamp(), sent_at = clock_timestamp(), lease_until = clock_timestamp() + p_lease
  where booking_id = any (v_ids);

  select bool_or(published_at is null) into v_first from market_inventory_snapshots where booking_id = any (v_ids);
  if not v_first then
    perform set_config('synchronous_commit', 'off', true);
  end if;
  -- The instant of the first publication is part of the listing: decided here, durably, so that a repeated write says the same.
  return query
    update market_inventory_snapshots
    -- What is published already stays so while it is written once more.
    set status = case when status = 'ready_to_publish' then 'publishing' else status end,
      published_at = coalesce(published_at, date_trunc('milliseconds', clock_timestamp()))
    where booking_id = any (v_ids)
    returning *;
end
$$;
comment on function market_sync.claim_snapshots is
  'Claims snapshots that are still to be published, with a lease, and answers their content. What a backfill or a resync made comes last.';

-- One chunk of the oldest open resync, in one transaction with its cursor: first every booking, then the snapshots whose
-- booking is gone. Answers the resync's id and phase afterwards; null when there is none, or the pipeline is paused.
create or replace function market_sync.resync_chunk(p_limit int, p_now timestamptz default null, out resync_id bigint, out phase text)
language plpgsql security definer
set search_path from current
as $$
declare
  v_after uuid;
  -- A condition that an index serves: with "v_after is null or id > v_after" each chunk would read everything before it.
  v_from uuid;
  v_visible_from xid8;
  v_ids uuid[];
begin
  perform market_sync.lock_reconcile();
  if market_sync.is_paused() then
    return;
  end if;
  select r.id, r.phase, r.after_booking_id, r.visible_from into resync_id, phase, v_after, v_visible_from
  from market_sync.resync r where r.finished_at is null order by r.id limit 1 for update;
  if resync_id is null or phase = 'ghosts' then
    return;
  end if;
  if v_visible_from > pg_snapshot_xmin(pg_current_snapshot()) then
    phase := 'waiting';
    return;
  end if;
  v_from := coalesce(v_after, '00000000-0000-0000-0000-000000000000');
  if phase = 'bookings' then
    select array_agg(chunk.id) into v_ids from (
      select b.id from storage_bookings b where b.id >= v_from and b.id is distinct from v_after
      order by b.id limit p_limit) chunk;
  else
    select array_agg(chunk.booking_id) into v_ids from (
      select s.booking_id from market_inventory_snapshots s
      where s.booking_id >= v_from and s.booking_id is distinct from v_after
        and not exists (select from storage_bookings b where b.id = s.booking_id)
      order by s.booking_id limit p_limit) chunk;
  end if;
  if v_ids is null then
    phase := case phase when 'bookings' then 'orphans' else 'ghosts' end;
    update market_sync.resync r set phase = resync_chunk.phase, after_booking_id = null,
      started_at = coalesce(r.started_at, clock_timestamp()) where r.id = resync_id;
    return;
  end if;
  perform set_config('market_sync.background', 'on', true);
  perform market_sync.reconcile_bookings(v_ids, p_now);
  update market_sync.resync r
  set started_at = coalesce(r.started_at, clock_timestamp()), after_booking_id = v_ids[cardinality(v_ids)],
    bookings_done = r.bookings_done + cardinality(v_ids)
  where r.id = resync_id;
end
$$;
comment on function market_sync.resync_chunk is 'Recomputes the next chunk of the oldest open resync.';

-- Tasks: asked for in SQL as well, and how fast they are.

alter table market_sync.task
  add column reason text,
  add column has_job boolean not null default true,
  add column advanced_at timestamptz,
  add column rate_per_second float8;
comment on column market_sync.task.reason is 'Why somebody asked for it; null where nobody was asked.';
comment on column market_sync.task.has_job is
  'Whether a job of pg-boss has it worked. One that was asked for in SQL gets its job from the first pipeline that hears of it.';
comment on column market_sync.task.advanced_at is 'When its cursor moved last, or it was taken up.';
comment on column market_sync.task.rate_per_second is 'Bookings a second over about the last five seconds of work.';

create function market_sync.current_rate(p_state text, p_advanced_at timestamptz, p_rate_per_second float8) returns float8
language sql stable parallel safe
return case
  when p_state <> 'running' or p_rate_per_second is null then null
  -- It waits, or whoever worked it is gone.
  when p_advanced_at < clock_timestamp() - interval '10 seconds' then 0
  else round(p_rate_per_second::numeric, 1)::float8
end;
comment on function market_sync.current_rate(text, timestamptz, float8) is
  'How fast a task is at the moment, in bookings a second: 0 when it has not moved for 10 s, null when it is not in work.';

create function market_sync.time_left(p_left bigint, p_rate_per_second float8) returns float8
language sql immutable parallel safe
return case when p_rate_per_second > 0 then ceil(greatest(p_left, 0) / p_rate_per_second) end;
comment on function market_sync.time_left(bigint, float8) is 'Seconds until so many bookings are done at this rate; null when nobody can say.';

create view market_sync.backfills as
select id, state, reason, requested_by, requested_at, started_at, finished_at, total, done, failed,
  case when total > 0 then round(100.0 * least(done + failed, total) / total, 1) end as percent,
  rate.per_second as rate_per_second,
  make_interval(secs => market_sync.time_left(total - done - failed, rate.per_second)) as time_left, error
from market_sync.task
cross join lateral (select market_sync.current_rate(state, advanced_at, rate_per_second) as per_second) rate
where kind = 'backfill';
comment on view market_sync.backfills is
  'Recomputes of every booking that somebody asked for, of the last 30 days: how far, how fast, and why not. Ask for one with backfill(), end it with cancel_task().';
comment on column market_sync.backfills.state is 'queued: no pipeline has taken it yet. running, done, failed, cancelled.';
comment on column market_sync.backfills.total is 'Bookings to do, as counted when it began.';
comment on column market_sync.backfills.failed is 'Bookings that cannot be processed and were parked, see parked.';
comment on column market_sync.backfills.rate_per_second is 'Bookings a second at the moment; 0 when it has not moved for 10 s, null when it is not in work.';
comment on column market_sync.backfills.reason is 'Why, as whoever asked for it said; null when it was asked for over HTTP.';
comment on column market_sync.backfills.done is 'Bookings recomputed, changed or not.';
comment on column market_sync.backfills.percent is 'How much of the total is done or failed.';
comment on column market_sync.backfills.time_left is 'How long it still takes at this rate; null when nobody can say.';
comment on column market_sync.backfills.error is 'Why it failed, or what it waits for.';

create function market_sync.backfill(p_reason text) returns uuid
language plpgsql security definer
set search_path from current
as $$
declare
  v_reason text := market_sync.require_reason(p_reason);
  v_earlier market_sync.manual_action := market_sync.earlier_action();
  v_id uuid;
begin
  if v_earlier.id is not null then
    return (v_earlier.details ->> 'job_id')::uuid;
  end if;
  -- Of two who ask at once, one makes the task and the other finds it (src/store/tasks.ts).
  perform pg_advisory_xact_lock(5503, 2);
  select id into v_id from market_sync.task where kind = 'backfill' and state in ('queued', 'running');
  if v_id is not null then
    return v_id;
  end if;
  insert into market_sync.task (kind, requested_by, reason, has_job)
  values ('backfill', coalesce(market_sync.named_actor(), session_user), v_reason, false)
  returning id into v_id;
  perform market_sync.record_action('backfill', null, v_reason, jsonb_build_object('job_id', v_id));
  perform pg_notify('market_sync_task', '');
  return v_id;
end
$$;
comment on function market_sync.backfill(text) is
  'Asks the pipeline to recompute every booking''s snapshot beside live work, which goes first; answers the id in market_sync.backfills. While one is open, asking again answers that one.';

create function market_sync.cancel_task(p_task_id uuid, p_reason text default null) returns void
language plpgsql security definer
set search_path from current
as $$
declare
  v_reason text := case when p_reason is not null then market_sync.require_reason(p_reason) end;
  v_kind text;
  v_state text;
begin
  if (market_sync.earlier_action()).id is not null then
    return;
  end if;
  update market_sync.task set state = 'cancelled', finished_at = clock_timestamp()
  where id = p_task_id and state in ('queued', 'running') returning kind into v_kind;
  if v_kind is null then
    select state into v_state from market_sync.task where id = p_task_id;
    if v_state is null then
      raise exception 'there is no task %', p_task_id using errcode = 'MS404';
    end if;
    raise exception 'the task has ended already: it is %', v_state using errcode = 'MS409';
  end if;
  perform market_sync.record_action('cancel', null, v_reason, jsonb_build_object('job_id', p_task_id, 'kind', v_kind));
end
$$;
comment on function market_sync.cancel_task(uuid, text) is
  'Cancels a backfill or a sync-all that is open: what it has done stays, a chunk in work is finished.';
