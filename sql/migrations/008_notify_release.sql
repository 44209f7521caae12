-- Who gives claims back tells the publishers. One that found everything claimed sleeps until the lease runs out or half a
-- minute has passed; the sweep that held the claims tries again minutes later, and a change would wait as long.

create or replace function market_sync.release_claims(p_publisher text, p_booking_ids uuid[])
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
  if v_ids is null then
    return;
  end if;
  update market_sync.snapshot_state set claimed_by = null, lease_until = null where booking_id = any (v_ids);
  update market_inventory_snapshots set status = 'ready_to_publish'
  where booking_id = any (v_ids) and status = 'publishing';
  perform pg_notify('market_sync_publish', '');
end
$$;
comment on function market_sync.release_claims is
  'Gives back what a publisher has claimed and could not write, and wakes the publishers.';
