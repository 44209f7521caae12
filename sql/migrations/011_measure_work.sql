-- How fast and how much: histogram buckets and sums per minute, never a row per event. And the pause, which the
-- functions of claiming and reconciling obey, so that no process can overlook it.

create table market_sync.latency_histogram (
  stage text not null check (stage in ('snapshot', 'listing')),
  minute timestamptz not null,
  bucket smallint not null,
  count bigint not null,
  sum_ms float8 not null,
  max_ms float8 not null,
  primary key (stage, minute, bucket)
) with (fillfactor = 50);
comment on table market_sync.latency_histogram is
  'How long after their commit changes were in the snapshot, and in the listing: a histogram per minute. Minute -infinity is everything older than a day.';
comment on column market_sync.latency_histogram.stage is
  'snapshot: commit to snapshot, by the oldest commit of a batch. listing: commit to confirmed by MongoDB.';
comment on column market_sync.latency_histogram.bucket is 'Counts what took at most latency_bound(bucket) ms and more than the bound before.';

create table market_sync.activity (
  kind text not null check (kind in ('reconcile', 'publish', 'failure', 'refusal', 'redelivery')),
  minute timestamptz not null,
  events bigint not null,
  items bigint not null,
  changed bigint not null,
  busy_ms float8 not null,
  primary key (kind, minute)
) with (fillfactor = 50);
comment on table market_sync.activity is
  'What was done, per minute. Minute -infinity is everything older than a day.';
comment on column market_sync.activity.kind is
  'reconcile: batches of the consumer (events), bookings recomputed (items), snapshots changed. publish: batches, listings confirmed by MongoDB. failure: attempts to publish a snapshot that failed for reasons of its own. refusal: snapshots that could not be recomputed. redelivery: batches and transactions that came again.';
comment on column market_sync.activity.busy_ms is 'Milliseconds spent: in reconcile, and from claim to mark.';

-- The way of single changes, instant by instant, of the bookings that somebody watches.
create table market_sync.traced (
  booking_id uuid primary key,
  until timestamptz not null
);
comment on table market_sync.traced is 'Bookings of which every change is traced, and until when. Written by trace_latency().';

create table market_sync.latency_trace (
  id bigint generated always as identity primary key,
  booking_id uuid not null,
  epoch int not null,
  revision bigint not null,
  committed_at timestamptz,
  received_at timestamptz,
  reconcile_started_at timestamptz not null,
  reconciled_at timestamptz not null,
  claimed_at timestamptz,
  replied_at timestamptz,
  marked_at timestamptz
);
create index latency_trace_open_idx on market_sync.latency_trace (booking_id, epoch, revision) where marked_at is null;
create index latency_trace_reconciled_at_idx on market_sync.latency_trace (reconciled_at);
comment on table market_sync.latency_trace is
  'The way of each change of a traced booking: a row a revision, all by PostgreSQL''s clock, kept for a day. Null: not there yet, or nothing was committed (clock, hand, resync).';
comment on column market_sync.latency_trace.committed_at is 'Commit of the oldest change of its batch.';
comment on column market_sync.latency_trace.received_at is 'When the consumer received the oldest change of its batch.';
comment on column market_sync.latency_trace.reconcile_started_at is 'When its recompute had the lock of all recomputes.';
comment on column market_sync.latency_trace.reconciled_at is 'When the snapshot was written; its commit follows at once.';
comment on column market_sync.latency_trace.claimed_at is 'When a publisher took it, in this revision or a newer one.';
comment on column market_sync.latency_trace.replied_at is 'When MongoDB had confirmed it: from here on buyers read it.';
comment on column market_sync.latency_trace.marked_at is 'When the snapshot was marked as published.';

create function market_sync.trace_latency(p_booking_id uuid, p_for interval default '5 minutes') returns timestamptz
language plpgsql security definer
set search_path from current
as $$
declare
  v_until timestamptz := clock_timestamp() + p_for;
begin
  if p_for > interval '1 hour' then
    raise exception 'a booking is traced for an hour at most' using errcode = 'MS400', hint = 'Trace it again when that is over.';
  end if;
  delete from market_sync.traced where until < clock_timestamp();
  if p_for <= interval '0' then
    delete from market_sync.traced where booking_id = p_booking_id;
    return null;
  end if;
  insert into market_sync.traced (booking_id, until) values (p_booking_id, v_until)
  on conflict (booking_id) do update set until = excluded.until;
  return v_until;
end
$$;
comment on function market_sync.trace_latency(uuid, interval) is
  'Traces every change of a booking for so long, in latency_trace; answers until when. An interval of 0 ends it. Changes nothing else, and so has no row in the audit log.';

-- What compared MongoDB with the snapshots, when, and what it found.
create table market_sync.drift_check (
  id bigint generated always as identity primary key,
  kind text not null check (kind in ('versions')),
  started_at timestamptz not null,
  finished_at timestamptz not null default clock_timestamp(),
  compared bigint not null,
  found bigint not null,
  outcome text not null
);
comment on table market_sync.drift_check is
  'Comparisons of listings with snapshots. versions: every listing''s version, after each start of PostgreSQL.';

alter table market_sync.checkpoint add column working_since timestamptz;
comment on column market_sync.checkpoint.working_since is
  'Commit of the oldest change that the consumer has in hand and has not written yet, as of its last sign of life; null when there is none.';

drop function market_sync.renew_consumer(bigint, interval);
create function market_sync.renew_consumer(p_generation bigint, p_lease interval, p_working_since timestamptz default null)
returns boolean
language sql
set search_path from current
as $$
  with renewed as (
    update market_sync.checkpoint
    set lease_until = clock_timestamp() + p_lease, updated_at = clock_timestamp(), working_since = p_working_since
    where generation = p_generation
    returning 1
  )
  select exists (select from renewed)
$$;
comment on function market_sync.renew_consumer(bigint, interval, timestamptz) is
  'A sign of life of the active consumer, with the commit of the oldest change it has in hand; false when it has lost its place.';

create function market_sync.latency_bound(p_bucket int) returns float8
language sql immutable parallel safe
return power(10::float8, p_bucket / 10::float8);
comment on function market_sync.latency_bound(int) is 'The longest latency that a bucket counts, in ms: ten buckets a decade, from 1 ms.';

create function market_sync.record_latency(p_stage text, p_latencies_ms float8[], p_each bigint default 1) returns void
language sql
set search_path from current
as $$
  insert into market_sync.latency_histogram as l (stage, minute, bucket, count, sum_ms, max_ms)
  select p_stage, date_trunc('minute', clock_timestamp()), bucket, count(*) * p_each, sum(ms) * p_each, max(ms)
  from (
    -- A commit that seems to lie ahead: PostgreSQL's clock was set back.
    select greatest(ms, 0) as ms, least(greatest(ceil(10 * log(greatest(ms, 1))), 0), 90)::smallint as bucket
    from unnest(p_latencies_ms) ms where ms is not null
  ) measured
  group by bucket
  order by bucket
  on conflict (stage, minute, bucket) do update set
    count = l.count + excluded.count, sum_ms = l.sum_ms + excluded.sum_ms, max_ms = greatest(l.max_ms, excluded.max_ms)
$$;
comment on function market_sync.record_latency is 'Counts latencies, p_each times each, in the histogram of this minute.';

create function market_sync.record_activity(
  p_kind text, p_events bigint, p_items bigint, p_changed bigint, p_busy_ms float8) returns void
language sql
set search_path from current
as $$
  insert into market_sync.activity as a (kind, minute, events, items, changed, busy_ms)
  values (p_kind, date_trunc('minute', clock_timestamp()), p_events, p_items, p_changed, greatest(p_busy_ms, 0))
  on conflict (kind, minute) do update set
    events = a.events + excluded.events, items = a.items + excluded.items, changed = a.changed + excluded.changed,
    busy_ms = a.busy_ms + excluded.busy_ms
$$;
comment on function market_sync.record_activity is 'Adds to what was done in this minute.';

create function market_sync.ms_between(p_from timestamptz, p_to timestamptz) returns float8
language sql immutable parallel safe
return extract(epoch from p_to - p_from)::float8 * 1000;
comment on function market_sync.ms_between(timestamptz, timestamptz) is 'Milliseconds from one instant to another.';

create function market_sync.fold_measurements() returns void
language plpgsql
set search_path from current
as $$
begin
  with old as (
    delete from market_sync.latency_histogram
    where minute < clock_timestamp() - interval '1 day' and minute > '-infinity'
    returning *
  )
  insert into market_sync.latency_histogram as l (stage, minute, bucket, count, sum_ms, max_ms)
  select stage, '-infinity', bucket, sum(count), sum(sum_ms), max(max_ms) from old group by stage, bucket order by stage, bucket
  on conflict (stage, minute, bucket) do update set
    count = l.count + excluded.count, sum_ms = l.sum_ms + excluded.sum_ms, max_ms = greatest(l.max_ms, excluded.max_ms);
  with old as (
    delete from market_sync.activity
    where minute < clock_timestamp() - interval '1 day' and minute > '-infinity'
    returning *
  )
  insert into market_sync.activity as a (kind, minute, events, items, changed, busy_ms)
  select kind, '-infinity', sum(events), sum(items), sum(changed), sum(busy_ms) from old group by kind order by kind
  on conflict (kind, minute) do update set
    events = a.events + excluded.events, items = a.items + excluded.items, changed = a.changed + excluded.changed,
    busy_ms = a.busy_ms + excluded.busy_ms;
  -- Overrides that have ended by themselves, once their recompute is long past.
  delete from market_sync.override o where expires_at < clock_timestamp() - interval '1 day'
    and not exists (select from market_inventory_snapshots s where s.booking_id = o.booking_id and s.ended_at is not null);
  -- Withdrawals of bookings of which nothing is left.
  delete from market_sync.manual_state m
  where not exists (select from market_inventory_snapshots s where s.booking_id = m.booking_id)
    and not exists (select from storage_bookings b where b.id = m.booking_id);
  delete from market_sync.drift_check where finished_at < clock_timestamp() - interval '90 days';
  delete from market_sync.latency_trace where reconciled_at < clock_timestamp() - interval '1 day';
end
$$;
comment on function market_sync.fold_measurements() is
  'Folds what is older than a day into one row each, and deletes overrides that ended more than a day ago. Part of the daily cleanup.';

drop function market_sync.reconcile_batch(
  bigint, pg_lsn, bigint[], uuid[], uuid[], uuid[], uuid[], uuid[], int, interval, timestamptz, text);

-- One batch of the consumer: proves that what it covers is visible, recomputes, and moves the checkpoint, all in one
-- transaction. Answers
--   outcome 'done':        snapshots and checkpoint are written
--   outcome 'not_visible': nothing was written, call again in a moment
--   outcome 'paused':      nothing was written, call again when it may go on
--   outcome 'too_many':    nothing was written; bookings lists what to recompute in chunks before calling again
-- Raises MS001 when another consumer has taken over (I6).
create function market_sync.reconcile_batch(
  p_generation bigint, p_commit_lsn pg_lsn, p_xids bigint[],
  p_bookings uuid[], p_locations uuid[], p_sensors uuid[], p_vendors uuid[], p_inspections uuid[],
  p_bookings_max int, p_lease interval, p_now timestamptz default null, p_resync text default null,
  p_committed_at timestamptz default null, p_received_ms_ago float8 default null,
  out outcome text, out bookings uuid[], out changed_count int, out booking_count int)
language plpgsql
set search_path from current
as $$
declare
  v_started_at timestamptz;
  v_covered pg_lsn;
  v_traced uuid[];
  v_called_at timestamptz := clock_timestamp();
begin
  changed_count := 0;
  booking_count := 0;
  perform market_sync.lock_reconcile();
  v_started_at := clock_timestamp();
  if market_sync.is_paused() then
    outcome := 'paused';
    return;
  end if;
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
    select count(*) filter (where r.changed),
      array_agg(r.booking_id) filter (where r.changed and r.booking_id in (select t.booking_id from market_sync.traced t where t.until > v_started_at))
    into changed_count, v_traced
    from market_sync.reconcile_bookings(bookings, p_now, p_committed_at) r;
  end if;
  if v_traced is not null then
    insert into market_sync.latency_trace
      (booking_id, epoch, revision, committed_at, received_at, reconcile_started_at, reconciled_at)
    select state.booking_id, state.epoch, state.revision, p_committed_at,
      v_called_at - p_received_ms_ago * interval '1 millisecond', v_started_at, clock_timestamp()
    from market_sync.snapshot_state state where state.booking_id = any (v_traced);
  end if;
  bookings := null;
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
  if booking_count > 0 then
    perform market_sync.record_activity(
      'reconcile', 1, booking_count, changed_count, market_sync.ms_between(v_started_at, clock_timestamp()));
  end if;
  if changed_count > 0 and p_committed_at is not null then
    perform market_sync.record_latency(
      'snapshot', array[market_sync.ms_between(p_committed_at, clock_timestamp())], changed_count);
  end if;
  if p_commit_lsn < v_covered and cardinality(p_xids) > 0 then
    perform market_sync.record_activity('redelivery', 1, cardinality(p_xids), 0, 0);
  end if;
  outcome := 'done';
end
$$;
comment on function market_sync.reconcile_batch is
  'One batch of the consumer: visibility proved, snapshots recomputed, checkpoint moved, in one transaction.';

-- One chunk of the oldest open resync, in one transaction with its cursor: first every booking, then the snapshots whose
-- booking is gone. Answers the resync's id and phase afterwards; null when there is none, or the pipeline is paused.
create or replace function market_sync.resync_chunk(p_limit int, p_now timestamptz default null, out resync_id bigint, out phase text)
language plpgsql
set search_path from current
as $$
declare
  v_after uuid;
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
  if phase = 'bookings' then
    select array_agg(chunk.id) into v_ids from (
      select b.id from storage_bookings b where v_after is null or b.id > v_after order by b.id limit p_limit) chunk;
  else
    select array_agg(chunk.booking_id) into v_ids from (
      select s.booking_id from market_inventory_snapshots s
      where (v_after is null or s.booking_id > v_after)
        and not exists (select from storage_bookings b where b.id = s.booking_id)
      order by s.booking_id limit p_limit) chunk;
  end if;
  if v_ids is null then
    phase := case phase when 'bookings' then 'orphans' else 'ghosts' end;
    update market_sync.resync r set phase = resync_chunk.phase, after_booking_id = null,
      started_at = coalesce(r.started_at, clock_timestamp()) where r.id = resync_id;
    return;
  end if;
  perform market_sync.reconcile_bookings(v_ids, p_now);
  update market_sync.resync r
  set started_at = coalesce(r.started_at, clock_timestamp()), after_booking_id = v_ids[cardinality(v_ids)],
    bookings_done = r.bookings_done + cardinality(v_ids)
  where r.id = resync_id;
end
$$;
comment on function market_sync.resync_chunk is 'Recomputes the next chunk of the oldest open resync.';

-- Claims up to p_limit snapshots (of p_booking_ids, when given: then also those that wait for their next attempt, are
-- parked, or are published already) and answers their content. What another publisher holds is left out: two writes of
-- one listing at once are harmless where updates are atomic, which they are not everywhere (FerretDB). Nothing is claimed
-- while the pipeline is paused.
create or replace function market_sync.claim_snapshots(
  p_publisher text, p_lease interval, p_limit int, p_booking_ids uuid[] default null)
returns setof market_inventory_snapshots
language plpgsql
set search_path from current
as $$
declare
  v_ids uuid[];
  v_first boolean;
begin
  if market_sync.is_paused() then
    return;
  end if;
  if p_booking_ids is null then
    select array_agg(due.booking_id) into v_ids from (
      select booking_id from market_sync.snapshot_state
      where (epoch, revision) > (published_epoch, published_revision) and parked_at is null
        and next_attempt_at <= (select clock_timestamp())
        and (lease_until is null or lease_until <= clock_timestamp())
      order by next_attempt_at
      limit p_limit
      for update skip locked
    ) due;
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
  set claimed_by = p_publisher, claimed_at = clock_timestamp(), sent_at = clock_timestamp(),
    lease_until = clock_timestamp() + p_lease
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
  'Claims snapshots that are still to be published, with a lease, and answers their content.';

-- Marks versions as confirmed by MongoDB. Never lowers what is marked already.
create or replace function market_sync.mark_published(
  p_booking_ids uuid[], p_epochs int[], p_revisions bigint[], p_listing_ids text[])
returns void
language plpgsql
set search_path from current
as $$
declare
  v_latencies_ms float8[];
  v_claimed_at timestamptz;
begin
  perform set_config('synchronous_commit', 'off', true);
  perform from market_sync.snapshot_state where booking_id = any (p_booking_ids) order by booking_id for update;

  select array_agg(market_sync.ms_between(state.changed_at, clock_timestamp())) filter (where state.changed_at is not null),
    min(state.claimed_at)
  into v_latencies_ms, v_claimed_at
  from market_sync.snapshot_state state where state.booking_id = any (p_booking_ids);

  update market_sync.snapshot_state state
  set published_epoch = case when (done.epoch, done.revision) > (published_epoch, published_revision)
      then done.epoch else published_epoch end,
    published_revision = case when (done.epoch, done.revision) > (published_epoch, published_revision)
      then done.revision else published_revision end,
    -- A change that came meanwhile came after the claim.
    changed_at = case when (done.epoch, done.revision) < (state.epoch, state.revision) then state.claimed_at end,
    claimed_at = null,
    claimed_by = null, lease_until = null, next_attempt_at = '-infinity',
    -- That MongoDB took it says nothing of a recompute that failed: that stays parked, and seen.
    attempts = case when failed_stage = 'reconcile' then attempts else 0 end,
    first_failed_at = case when failed_stage = 'reconcile' then first_failed_at end,
    last_failed_at = case when failed_stage = 'reconcile' then last_failed_at end,
    last_error = case when failed_stage = 'reconcile' then last_error end,
    parked_at = case when failed_stage = 'reconcile' then coalesce(parked_at, clock_timestamp()) end,
    failed_stage = nullif(failed_stage, 'publish')
  from unnest(p_booking_ids, p_epochs, p_revisions) as done (booking_id, epoch, revision)
  where state.booking_id = done.booking_id;

  update market_inventory_snapshots s
  set status = case
      when s.status in ('publishing', 'ready_to_publish') and s.epoch = done.epoch and s.revision = done.revision
        then 'published'
      else s.status end,
    market_listing_id = done.listing_id,
    last_synced_at = clock_timestamp()
  from unnest(p_booking_ids, p_epochs, p_revisions, p_listing_ids) as done (booking_id, epoch, revision, listing_id)
  where s.booking_id = done.booking_id;

  if v_latencies_ms is not null then
    perform market_sync.record_latency('listing', v_latencies_ms);
  end if;
  perform market_sync.record_activity('publish', 1, cardinality(p_booking_ids), 0,
    market_sync.ms_between(coalesce(v_claimed_at, clock_timestamp()), clock_timestamp()));
end
$$;
comment on function market_sync.mark_published is 'Marks versions of snapshots as confirmed by MongoDB.';

-- Records a failure of one snapshot's own, of the version given, or of its recompute when none is given: tried again
-- after p_retry_after, doubled with every attempt up to a minute and jittered, or parked when attempts reach
-- p_attempts_max. A version that came meanwhile is not parked for what an older one did; it waits its turn.
create or replace function market_sync.record_failure(
  p_booking_id uuid, p_error text, p_retry_after interval, p_attempts_max int,
  p_epoch int default null, p_revision bigint default null)
returns boolean
language plpgsql
set search_path from current
as $$
declare
  v_stage text := case when p_revision is null then 'reconcile' else 'publish' end;
  v_parked boolean;
begin
  insert into market_sync.snapshot_state as state
    (booking_id, attempts, first_failed_at, last_failed_at, last_error, failed_stage, next_attempt_at, parked_at)
  values (p_booking_id, 1, clock_timestamp(), clock_timestamp(), p_error, v_stage, clock_timestamp() + p_retry_after,
    case when p_attempts_max <= 1 then clock_timestamp() end)
  on conflict (booking_id) do update
  set attempts = state.attempts + 1,
    first_failed_at = coalesce(state.first_failed_at, clock_timestamp()),
    last_failed_at = clock_timestamp(), last_error = p_error, failed_stage = v_stage, claimed_by = null, lease_until = null,
    next_attempt_at = clock_timestamp()
      + least(p_retry_after * 2 ^ least(state.attempts, 20), interval '1 minute') * (0.5 + random() / 2),
    -- What cannot be recomputed is not refreshed by the clock either; what cannot be published may shrink with time.
    next_refresh_at = case when v_stage = 'publish' then state.next_refresh_at end,
    parked_at = case
      when state.attempts + 1 >= p_attempts_max
        and (p_revision is null or (state.epoch, state.revision) = (p_epoch, p_revision))
      then clock_timestamp() end
  -- Nothing is held against a snapshot of which MongoDB has confirmed this version or a newer one.
  where p_revision is null or (p_epoch, p_revision) > (state.published_epoch, state.published_revision)
  returning parked_at is not null into v_parked;
  update market_inventory_snapshots set status = 'ready_to_publish'
  where booking_id = p_booking_id and status = 'publishing';
  if v_parked is not null then
    -- Of a kind of their own, which only who has the lock of all recomputes writes: a publisher that waits for this row while
    -- it holds a snapshot that the recompute needs next would be a deadlock.
    perform market_sync.record_activity(case v_stage when 'publish' then 'failure' else 'refusal' end, 1, 1, 0, 0);
  end if;
  return coalesce(v_parked, false);
end
$$;
comment on function market_sync.record_failure is
  'Records that one snapshot could not be processed; parks it after the given number of attempts. True when parked.';

-- Claims snapshots that ended longer ago than the retention and whose tombstone MongoDB has confirmed, oldest first: no
-- publisher writes a listing while cleanup deletes it.
create or replace function market_sync.claim_expired(p_now timestamptz, p_lease interval, p_limit int)
returns table (booking_id uuid, epoch int, revision bigint)
language sql
set search_path from current
as $$
  with expired as materialized (
    select state.booking_id, s.epoch, s.revision
    from market_inventory_snapshots s
    join market_sync.snapshot_state state on state.booking_id = s.booking_id
    where not market_sync.is_paused()
      and s.ended_at < (select coalesce(p_now, clock_timestamp()) - retention from market_sync.settings)
      and (state.published_epoch, state.published_revision) = (s.epoch, s.revision)
      and (state.lease_until is null or state.lease_until <= clock_timestamp())
    order by s.ended_at
    limit p_limit
    for update of state skip locked
  ), claimed as (
    update market_sync.snapshot_state state
    set claimed_by = 'cleanup', lease_until = clock_timestamp() + p_lease
    from expired where state.booking_id = expired.booking_id
  )
  select * from expired
$$;
comment on function market_sync.claim_expired is 'Claims ended snapshots that are old enough to be deleted.';

-- Deletes snapshots whose listings are gone from MongoDB already. One that changed meanwhile stays, and is published
-- again; what is deleted raises the floor from which a booking that returns counts its revisions.
create or replace function market_sync.delete_ended(p_booking_ids uuid[], p_revisions bigint[])
returns int
language plpgsql
set search_path from current
as $$
declare
  v_deleted uuid[];
begin
  perform market_sync.lock_reconcile();
  perform from market_sync.snapshot_state where booking_id = any (p_booking_ids) order by booking_id for update;
  -- Whoever took a claim over since has written the listing again.
  with gone as (
    delete from market_inventory_snapshots s
    using unnest(p_booking_ids, p_revisions) as ended (booking_id, revision)
    where s.booking_id = ended.booking_id and s.revision = ended.revision and s.ended_at is not null
      and exists (
        select from market_sync.snapshot_state state
        where state.booking_id = s.booking_id and state.claimed_by = 'cleanup')
    returning s.booking_id
  )
  select coalesce(array_agg(booking_id), '{}') into v_deleted from gone;
  update market_sync.checkpoint
  set revision_floor = greatest(revision_floor, (
    select max(ended.revision) from unnest(p_booking_ids, p_revisions) as ended (booking_id, revision)
    where ended.booking_id = any (v_deleted)));
  delete from market_sync.snapshot_state where booking_id = any (v_deleted);
  delete from market_sync.revision where booking_id = any (v_deleted);
  delete from market_sync.override where booking_id = any (v_deleted);
  -- A withdrawal by hand outlives its snapshot while the booking lives: what was cleaned away stays away.
  delete from market_sync.manual_state m where m.booking_id = any (v_deleted)
    and not exists (select from storage_bookings b where b.id = m.booking_id);
  update market_sync.snapshot_state
  set published_epoch = 0, published_revision = 0, next_attempt_at = clock_timestamp(),
    claimed_by = case when claimed_by <> 'cleanup' then claimed_by end,
    lease_until = case when claimed_by <> 'cleanup' then lease_until end
  where booking_id = any (p_booking_ids) and booking_id <> all (v_deleted);
  if found then
    perform pg_notify('market_sync_publish', '');
  end if;
  return cardinality(v_deleted);
end
$$;
comment on function market_sync.delete_ended is 'Deletes ended snapshots whose listings have been deleted.';
