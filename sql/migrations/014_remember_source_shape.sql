-- The application's tables as they were when they were last looked at. A column that is made anew or gets another type fires no
-- trigger, and may say something else in every row.

alter table market_sync.checkpoint add column source_shape text;
comment on column market_sync.checkpoint.source_shape is
  'Fingerprint of the source columns that snapshots are made from; ''unusable'' since a look that found one missing or of a wrong type.';

-- Remembers the shape that the consumer p_generation has found. When another one is remembered, everything is recomputed, for the
-- reason given, and the answer is true. Nothing happens for a consumer that has lost its place.
create function market_sync.note_source_shape(p_generation bigint, p_shape text, p_reason text)
returns boolean
language plpgsql security definer
set search_path from current
as $$
declare
  v_known text;
begin
  select source_shape into v_known from market_sync.checkpoint where generation = p_generation;
  if not found or v_known = p_shape then
    return false;
  end if;
  perform market_sync.lock_reconcile();
  update market_sync.checkpoint set source_shape = p_shape where generation = p_generation;
  if not found or v_known is null or p_shape = 'unusable' then
    return false;
  end if;
  perform market_sync.request_resync(p_reason);
  return true;
end
$$;
comment on function market_sync.note_source_shape(bigint, text, text) is
  'Remembers what the source columns look like; asks for a recompute of everything when they looked otherwise before.';
