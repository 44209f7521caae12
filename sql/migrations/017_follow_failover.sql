-- A standby takes over: going on without a new history where nothing is lost, and noticing what was lost with the server
-- before it, also when a publisher that outlived that server is the only one who knows.

-- The checkpoint goes on on p_timeline, which was left at the checkpoint or later. What MongoDB has is compared once more:
-- whether the standby lacks a change that was published, nothing in it says.
create function market_sync.follow_timeline(p_generation bigint, p_timeline int)
returns void
language plpgsql
security definer
set search_path from current
as $$
begin
  update market_sync.checkpoint
  set timeline = p_timeline, history_checked_for = null, updated_at = clock_timestamp()
  where generation = p_generation;
  if not found then
    raise exception 'another consumer has taken over' using errcode = 'MS001';
  end if;
end
$$;
comment on function market_sync.follow_timeline is
  'Takes the checkpoint along to the timeline of a standby that has taken over, and has MongoDB compared with the snapshots once more.';

-- Marks versions as confirmed by MongoDB. Never lowers what is marked already. Answers the bookings of which it does not
-- know the version that was written (with p_updated_at: or knows another one of that number), and marks nothing of them:
-- a publisher that claimed them before PostgreSQL was put back, or before a standby took over that lacks them, has written
-- them since. Marked, they would keep the versions up to that number from ever being published.
drop function market_sync.mark_published(uuid[], int[], bigint[], text[]);
create function market_sync.mark_published(
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
  perform from market_sync.snapshot_state where booking_id = any (p_booking_ids) order by booking_id for update;

  select coalesce(array_agg(done.booking_id), '{}') into v_unknown
  from unnest(p_booking_ids, p_epochs, p_revisions, p_updated_at) as done (booking_id, epoch, revision, updated_at)
  left join market_inventory_snapshots s on s.booking_id = done.booking_id
  where s.booking_id is null
    or (done.epoch, done.revision) > (s.epoch, s.revision)
    or ((done.epoch, done.revision) = (s.epoch, s.revision) and done.updated_at <> s.metadata ->> 'last_updated');

  select array_agg(market_sync.ms_between(state.changed_at, clock_timestamp())) filter (where state.changed_at is not null),
    min(state.claimed_at)
  into v_latencies_ms, v_claimed_at
  from market_sync.snapshot_state state where state.booking_id = any (p_booking_ids);

  if exists (select from market_sync.traced) then
    update market_sync.latency_trace trace
    set claimed_at = state.claimed_at, replied_at = v_called_at - p_replied_ms_ago * interval '1 millisecond',
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
comment on function market_sync.mark_published is
  'Marks versions of snapshots as confirmed by MongoDB; answers the bookings of which it does not know that version.';
