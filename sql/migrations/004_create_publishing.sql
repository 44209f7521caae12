-- Publishing: the outbox is snapshot_state, where (epoch, revision) is ahead of what MongoDB has confirmed.
--
-- Any number of publishers may work at once. Each claims rows with a lease, writes them to MongoDB guarded by
-- (epoch, revision), and marks them. Double work is harmless, so claims and marks need not survive a crash of
-- PostgreSQL: they commit without waiting for the disk, except where a time a buyer sees is decided.

-- Claims up to p_limit snapshots (of p_booking_ids, when given: then also those that wait for their next attempt, are
-- parked, or are published already) and answers their content. What another publisher holds is left out: two writes of
-- one listing at once are harmless where updates are atomic, which they are not everywhere (FerretDB).
create function market_sync.claim_snapshots(
  p_publisher text, p_lease interval, p_limit int, p_booking_ids uuid[] default null)
returns setof market_inventory_snapshots
language plpgsql
set search_path from current
as $$
declare
  v_ids uuid[];
  v_first boolean;
begin
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
  set claimed_by = p_publisher, lease_until = clock_timestamp() + p_lease
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
create function market_sync.mark_published(
  p_booking_ids uuid[], p_epochs int[], p_revisions bigint[], p_listing_ids text[])
returns void
language plpgsql
set search_path from current
as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  perform from market_sync.snapshot_state where booking_id = any (p_booking_ids) order by booking_id for update;

  update market_sync.snapshot_state state
  set published_epoch = case when (done.epoch, done.revision) > (published_epoch, published_revision)
      then done.epoch else published_epoch end,
    published_revision = case when (done.epoch, done.revision) > (published_epoch, published_revision)
      then done.revision else published_revision end,
    claimed_by = null, lease_until = null, attempts = 0, next_attempt_at = '-infinity',
    first_failed_at = null, last_failed_at = null, last_error = null, failed_stage = null, parked_at = null
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
end
$$;
comment on function market_sync.mark_published is 'Marks versions of snapshots as confirmed by MongoDB.';

-- Gives claims back (all of the publisher's when p_booking_ids is null): the work itself is sound, a server was not to be had.
create function market_sync.release_claims(p_publisher text, p_booking_ids uuid[])
returns void
language plpgsql
set search_path from current
as $$
declare
  v_ids uuid[];
begin
  perform set_config('synchronous_commit', 'off', true);
  select array_agg(held.booking_id) into v_ids from (
    select booking_id from market_sync.snapshot_state
    where claimed_by = p_publisher and (p_booking_ids is null or booking_id = any (p_booking_ids))
    order by booking_id
    for update
  ) held;
  update market_sync.snapshot_state set claimed_by = null, lease_until = null where booking_id = any (v_ids);
  update market_inventory_snapshots set status = 'ready_to_publish'
  where booking_id = any (v_ids) and status = 'publishing';
end
$$;
comment on function market_sync.release_claims is 'Gives back what a publisher has claimed and could not write.';

-- Records a failure of one snapshot's own, of the version given, or of its recompute when none is given: tried again
-- after p_retry_after, doubled with every attempt up to a minute and jittered, or parked when attempts reach
-- p_attempts_max. A version that came meanwhile is not parked for what an older one did; it waits its turn.
create function market_sync.record_failure(
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
  return coalesce(v_parked, false);
end
$$;
comment on function market_sync.record_failure is
  'Records that one snapshot could not be processed; parks it after the given number of attempts. True when parked.';

-- Claims snapshots that ended longer ago than the retention and whose tombstone MongoDB has confirmed, oldest first: no
-- publisher writes a listing while cleanup deletes it.
create function market_sync.claim_expired(p_now timestamptz, p_lease interval, p_limit int)
returns table (booking_id uuid, epoch int, revision bigint)
language sql
set search_path from current
as $$
  with expired as materialized (
    select state.booking_id, s.epoch, s.revision
    from market_inventory_snapshots s
    join market_sync.snapshot_state state on state.booking_id = s.booking_id
    where s.ended_at < (select coalesce(p_now, clock_timestamp()) - retention from market_sync.settings)
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
create function market_sync.delete_ended(p_booking_ids uuid[], p_revisions bigint[])
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
