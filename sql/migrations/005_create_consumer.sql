-- The consumer's place: who holds it, how it is taken over, and what happens when history was cut.

-- Takes the consumer's place for p_holder, or answers null: somebody else has it and shows signs of life. A holder that
-- was killed leaves an inactive slot behind; one that hangs lets its lease run out.
create function market_sync.acquire_consumer(p_holder text, p_slot_name text, p_lease interval)
returns bigint
language sql
as $$
  update market_sync.checkpoint
  set generation = generation + 1, holder = p_holder, lease_until = clock_timestamp() + p_lease,
    updated_at = clock_timestamp()
  where holder is null
    or lease_until is null
    or lease_until < clock_timestamp()
    or (updated_at < clock_timestamp() - interval '2 seconds'
      and not exists (select from pg_replication_slots where slot_name = p_slot_name and active))
  returning generation
$$;
comment on function market_sync.acquire_consumer is
  'Takes the consumer''s place and answers its generation; null while another consumer shows signs of life.';

-- A sign of life; false when another consumer has taken over.
create function market_sync.renew_consumer(p_generation bigint, p_lease interval)
returns boolean
language sql
as $$
  with renewed as (
    update market_sync.checkpoint set lease_until = clock_timestamp() + p_lease, updated_at = clock_timestamp()
    where generation = p_generation
    returning 1
  )
  select exists (select from renewed)
$$;
comment on function market_sync.renew_consumer is 'A sign of life of the active consumer; false when it has lost its place.';

create function market_sync.release_consumer(p_generation bigint)
returns void
language sql
as $$
  update market_sync.checkpoint set holder = null, lease_until = null, updated_at = clock_timestamp()
  where generation = p_generation
$$;
comment on function market_sync.release_consumer is 'Gives the consumer''s place back, so that a standby takes it at once.';

-- Begins a history at p_commit_lsn of a fresh slot: everything is to be recomputed. With p_cut changes may have been
-- lost or undone, so the epoch rises and every listing is written again, whatever revision MongoDB has of it. It rises
-- above every epoch that MongoDB knows (p_market_epoch): a database restored twice, or a new one beside old listings,
-- would otherwise write versions that MongoDB takes for old.
create function market_sync.begin_history(
  p_generation bigint, p_slot_name text, p_system_identifier text, p_timeline int, p_commit_lsn pg_lsn,
  p_cut boolean, p_market_epoch int, p_reason text)
returns int
language plpgsql
set search_path from current
as $$
declare
  v_epoch int;
  v_resync bigint;
begin
  perform market_sync.lock_reconcile();
  update market_sync.checkpoint
  set slot_name = p_slot_name, system_identifier = p_system_identifier, timeline = p_timeline,
    commit_lsn = p_commit_lsn, epoch = greatest(epoch + p_cut::int, p_market_epoch + 1), updated_at = clock_timestamp()
  where generation = p_generation
  returning epoch into v_epoch;
  if v_epoch is null then
    raise exception 'another consumer has taken over' using errcode = 'MS001';
  end if;
  -- What an older request has done so far, it did in the old history.
  update market_sync.resync set finished_at = clock_timestamp() where finished_at is null;
  -- A transaction that committed just before the slot's first position is not streamed and may not be visible yet: the
  -- resync waits until everything that ran when it was asked for has ended.
  v_resync := market_sync.request_resync(p_reason);
  update market_sync.resync set visible_from = pg_snapshot_xmax(pg_current_snapshot()) where id = v_resync;
  return v_epoch;
end
$$;
comment on function market_sync.begin_history is
  'Starts the checkpoint at a fresh slot and asks for a recompute of everything; raises the epoch when changes may be lost.';

-- One chunk of the oldest open resync, in one transaction with its cursor: first every booking, then the snapshots whose
-- booking is gone. Answers the resync's id and phase afterwards; null when there is none.
create function market_sync.resync_chunk(p_limit int, p_now timestamptz default null, out resync_id bigint, out phase text)
language plpgsql
set search_path from current
as $$
declare
  v_after uuid;
  v_visible_from xid8;
  v_ids uuid[];
begin
  perform market_sync.lock_reconcile();
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
  perform market_sync.reconcile(v_ids, p_now);
  update market_sync.resync r
  set started_at = coalesce(r.started_at, clock_timestamp()), after_booking_id = v_ids[cardinality(v_ids)],
    bookings_done = r.bookings_done + cardinality(v_ids)
  where r.id = resync_id;
end
$$;
comment on function market_sync.resync_chunk is 'Recomputes the next chunk of the oldest open resync.';
