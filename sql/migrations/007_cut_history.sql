-- History that was cut without a trace in PostgreSQL.
--
-- A copy of the whole cluster put back (a cold copy, a snapshot of the disk) has its slot, its checkpoint and its
-- identity as they were then: they agree with each other, and every sign of begin_history() is missing. What knows
-- better is MongoDB: it has versions of listings that this database has not made. A version is made durable here before
-- it is published, so one that is unknown here was made in a history that is gone.

alter table market_sync.checkpoint add column history_checked_for timestamptz;
comment on column market_sync.checkpoint.history_checked_for is
  'Start of the postmaster under which MongoDB''s versions were last compared with the snapshots: no copy is put back without another one.';

-- Which of these versions, read from MongoDB before this is called, the present history has not made: higher than the
-- snapshot's, the same with another time of change, or of a booking that has no snapshot. Versions below the epoch in
-- force are a resync's to deal with.
create function market_sync.find_unknown_versions(
  p_booking_ids uuid[], p_epochs int[], p_revisions bigint[], p_updated_at text[])
returns table (booking_id uuid, has_snapshot boolean)
language sql stable
set search_path from current
as $$
  select listing.booking_id, s.booking_id is not null
  from unnest(p_booking_ids, p_epochs, p_revisions, p_updated_at) as listing (booking_id, epoch, revision, updated_at)
  cross join market_sync.checkpoint c
  left join market_inventory_snapshots s on s.booking_id = listing.booking_id
  where listing.epoch >= c.epoch and (
    s.booking_id is null
    or (listing.epoch, listing.revision) > (s.epoch, s.revision)
    or ((listing.epoch, listing.revision) = (s.epoch, s.revision) and listing.updated_at <> s.metadata ->> 'last_updated'))
$$;
comment on function market_sync.find_unknown_versions is
  'Which of these versions of listings, read from MongoDB before, the present history has not made.';

-- Begins a new history beside live work: the epoch rises, above p_market_epoch too, and everything is recomputed and
-- published again. The slot stays: what it streams is this history.
create function market_sync.cut_history(p_reason text, p_market_epoch int default 0)
returns int
language plpgsql
set search_path from current
as $$
declare
  v_epoch int;
begin
  perform market_sync.lock_reconcile();
  update market_sync.checkpoint
  set epoch = greatest(epoch, p_market_epoch) + 1, updated_at = clock_timestamp()
  returning epoch into strict v_epoch;
  -- What an older request has done so far, it did in the old history.
  update market_sync.resync set finished_at = clock_timestamp() where finished_at is null;
  perform market_sync.request_resync(p_reason);
  return v_epoch;
end
$$;
comment on function market_sync.cut_history(text, int) is
  'Raises the epoch and asks for a recompute of everything: every listing is written again, whatever version MongoDB has. Says why.';

-- As cut_history, if any of these versions is unknown still, now that nobody can make another: null when none is. Of
-- several publishers that find the same, the first one cuts.
create function market_sync.cut_unless_known(
  p_booking_ids uuid[], p_epochs int[], p_revisions bigint[], p_updated_at text[], p_reason text, p_market_epoch int)
returns int
language plpgsql
set search_path from current
as $$
begin
  perform market_sync.lock_reconcile();
  perform from market_sync.find_unknown_versions(p_booking_ids, p_epochs, p_revisions, p_updated_at);
  if not found then
    return null;
  end if;
  return market_sync.cut_history(p_reason, p_market_epoch);
end
$$;
comment on function market_sync.cut_unless_known is
  'Cuts history if the present one has not made one of these versions of listings; answers the new epoch, or null.';
