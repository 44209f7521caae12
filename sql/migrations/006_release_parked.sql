-- Parked snapshots: seen in one view, released by one function.

create view market_sync.parked as
select booking_id, failed_stage as stage, last_error as error, attempts, first_failed_at, last_failed_at, parked_at
from market_sync.snapshot_state
where parked_at is not null;
comment on view market_sync.parked is
  'What failed too often and is left alone: where (reconcile or publish), why, how often, since when. Release it with retry_parked().';

-- Gives parked snapshots (all when p_booking_ids is null) one more round of attempts and answers how many. What MongoDB
-- would not take goes to the publishers at once, at its newest version. What could not be computed is asked for on the
-- change stream, so that however many they are, the consumer computes them in batches beside everything else.
create function market_sync.retry_parked(p_booking_ids uuid[] default null)
returns int
language plpgsql
set search_path from current
as $$
declare
  v_released uuid[];
  v_recompute uuid[];
begin
  with parked as materialized (
    select state.booking_id from market_sync.snapshot_state state
    where state.parked_at is not null and (p_booking_ids is null or state.booking_id = any (p_booking_ids))
    order by state.booking_id
    for update
  ), released as (
    update market_sync.snapshot_state state
    -- Since when it fails and why stays known until it succeeds.
    set parked_at = null, attempts = 0, next_attempt_at = clock_timestamp()
    from parked where state.booking_id = parked.booking_id
    returning state.booking_id, state.failed_stage
  )
  select coalesce(array_agg(booking_id), '{}'), coalesce(array_agg(booking_id) filter (where failed_stage = 'reconcile'), '{}')
  into v_released, v_recompute
  from released;

  for chunk in 1 .. cardinality(v_recompute) by 5000 loop
    perform pg_logical_emit_message(
      true, 'market_sync', '{"v":1,"booking":["' || array_to_string(v_recompute[chunk : chunk + 4999], '","') || '"]}');
  end loop;
  if cardinality(v_released) > 0 then
    perform pg_notify('market_sync_publish', '');
  end if;
  return cardinality(v_released);
end
$$;
comment on function market_sync.retry_parked(uuid[]) is
  'Gives parked snapshots (all unless named) one more round of attempts; answers how many.';
