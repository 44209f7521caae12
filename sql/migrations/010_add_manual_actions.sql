-- What people do by hand, from SQL or through the API, each with its row in the audit log.
--
-- I8: the row is written in the transaction that performs the action, and exactly one: a call that is refused or changes
-- nothing writes none, one that is repeated with the same idempotency key writes no second. Refusals raise
--   MS404 unknown booking   MS409 the state forbids it   MS412 another version   MS422 bad argument   MS423 paused
-- These functions run with the rights of their owner (security definer), so that a role that owns nothing may call them.

create table market_sync.manual_action (
  id bigint generated always as identity primary key,
  at timestamptz not null default clock_timestamp(),
  action text not null,
  actor text not null,
  via text not null check (via in ('sql', 'http')),
  db_user text not null,
  booking_ids uuid[],
  reason text,
  details jsonb not null default '{}',
  request_id text,
  idempotency_key text
);
create index manual_action_booking_ids_idx on market_sync.manual_action using gin (booking_ids);
create index manual_action_idempotency_key_idx on market_sync.manual_action (actor, idempotency_key)
  where idempotency_key is not null;
comment on table market_sync.manual_action is 'The audit log: one row for every manual action, written in its transaction (I8). Read it as audit_log.';
comment on column market_sync.manual_action.actor is 'Who did it: the database login, or the name of the API key.';
comment on column market_sync.manual_action.db_user is 'The database login that did it; the API''s own where it acted for an actor.';
comment on column market_sync.manual_action.booking_ids is 'The bookings that it touched; null where it was none in particular.';

alter table market_sync.checkpoint
  add column paused_by text,
  add column pause_reason text;
comment on column market_sync.checkpoint.paused_at is
  'Since when nothing is recomputed from changes, refreshed, published or cleaned up by itself; null when not paused. Changes wait in the slot.';

-- API keys, `prefix_secret`: of the secret only its hash is kept.
create table market_sync.api_key (
  prefix text primary key check (prefix ~ '^[a-z0-9]{4,32}$'),
  secret_hash bytea not null check (length(secret_hash) = 32),
  name text not null check (length(name) between 1 and 100),
  role text not null check (role in ('reader', 'operator', 'admin')),
  created_at timestamptz not null default clock_timestamp(),
  created_by text not null,
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz
);
comment on table market_sync.api_key is 'Keys of the HTTP API. Made and revoked with: market-sync keys.';
comment on column market_sync.api_key.secret_hash is 'SHA-256 of the secret, which has 256 random bits: a slow hash would add nothing.';

-- Answers kept for calls that are repeated with their Idempotency-Key.
create table market_sync.idempotency (
  caller text not null,
  key text not null check (length(key) between 1 and 255),
  request_hash bytea not null,
  state text not null check (state in ('in_work', 'done')),
  owner text not null,
  lease_until timestamptz not null,
  status int,
  headers jsonb,
  body bytea,
  created_at timestamptz not null default clock_timestamp(),
  primary key (caller, key)
);
create index idempotency_created_at_idx on market_sync.idempotency (created_at);
comment on table market_sync.idempotency is 'Idempotency keys of API calls: in work under a lease, or done with the answer that is replayed.';
comment on column market_sync.idempotency.request_hash is 'Of method, path and body: the same key with another call is refused.';

-- Long manual actions: what was asked for, how far it is, what came of it. Worked off by a job of pg-boss.
create table market_sync.task (
  id uuid primary key default gen_random_uuid(),
  kind text not null check (kind in ('sync_all', 'backfill')),
  state text not null default 'queued' check (state in ('queued', 'running', 'done', 'failed', 'cancelled')),
  requested_by text not null,
  requested_at timestamptz not null default clock_timestamp(),
  started_at timestamptz,
  finished_at timestamptz,
  total bigint,
  done bigint not null default 0,
  failed bigint not null default 0,
  after_booking_id uuid,
  upto_booking_id uuid,
  results jsonb not null default '[]',
  error text
);
create unique index task_open_idx on market_sync.task (kind) where state in ('queued', 'running');
create index task_requested_at_idx on market_sync.task (requested_at);
comment on table market_sync.task is 'Long manual actions (sync-all, backfill) with their progress and result; one of a kind at a time.';
comment on column market_sync.task.after_booking_id is 'The cursor: bookings up to this one are done. Written with the chunk it belongs to.';

-- Whether this session may act in another's name: the API does, for its callers.
create function market_sync.may_name_actor() returns boolean
language sql stable security definer
set search_path from current
as $$
  select coalesce(bool_or(pg_has_role(session_user, oid, 'usage')), false) from (
    select oid from pg_roles where rolname = 'market_sync_api'
    union all
    select nspowner from pg_namespace where nspname = 'market_sync'
  ) trusted
$$;
comment on function market_sync.may_name_actor() is
  'Whether this login may say in whose name it acts: members of market_sync_api, and the owner of this schema.';

-- The name of the API's caller, where this session may give one; null for everybody else.
create function market_sync.named_actor() returns text
language sql stable
set search_path from current
as $$
  select case when market_sync.may_name_actor() then nullif(current_setting('market_sync.actor', true), '') end
$$;
comment on function market_sync.named_actor() is 'In whose name the API acts in this transaction; null when nobody is named, or this login may name nobody.';

-- The row of this very call, if the API makes it again under the same claim of its idempotency key: the process that served
-- it died, or failed, after the action was done. It is not done again: others may have decided otherwise since.
create function market_sync.earlier_action() returns market_sync.manual_action
language plpgsql
set search_path from current
as $$
declare
  v_actor text := market_sync.named_actor();
  v_key text := nullif(current_setting('market_sync.idempotency_key', true), '');
  v_earlier market_sync.manual_action;
begin
  if v_actor is null or v_key is null then
    return null;
  end if;
  perform pg_advisory_xact_lock(5502, hashtext(v_actor || ' ' || v_key));
  select a.* into v_earlier
  from market_sync.manual_action a
  join market_sync.idempotency i on i.caller = a.actor and i.key = a.idempotency_key
  where a.actor = v_actor and a.idempotency_key = v_key and a.at >= i.created_at
  limit 1;
  return v_earlier;
end
$$;
comment on function market_sync.earlier_action() is
  'The audit row of this call, when it is repeated under the same claim of its idempotency key; null for the first time.';

-- The lock of all recomputes, for a person: who leaves the transaction open would keep live changes waiting.
create function market_sync.lock_by_hand() returns void
language plpgsql
set search_path from current
as $$
begin
  if current_setting('idle_in_transaction_session_timeout')::interval not between interval '1 ms' and interval '1 minute' then
    perform set_config('idle_in_transaction_session_timeout', '60000', true);
  end if;
  perform market_sync.lock_reconcile();
end
$$;
comment on function market_sync.lock_by_hand() is
  'lock_reconcile(), of which a session that idles in its transaction is relieved after a minute.';

-- One row of the audit log. The settings market_sync.actor, request_id and idempotency_key, local to the transaction, say
-- in whose name the API acts; set by anybody else they count for nothing. A call that is made again has its row already.
create function market_sync.record_action(p_action text, p_booking_ids uuid[], p_reason text, p_details jsonb)
returns bigint
language plpgsql security definer
set search_path from current
as $$
declare
  v_actor text := market_sync.named_actor();
  v_named boolean := v_actor is not null;
  v_key text := case when v_named then nullif(current_setting('market_sync.idempotency_key', true), '') end;
  v_id bigint;
begin
  v_id := (market_sync.earlier_action()).id;
  if v_id is not null then
    return v_id;
  end if;
  insert into market_sync.manual_action (action, actor, via, db_user, booking_ids, reason, details, request_id, idempotency_key)
  values (p_action, coalesce(v_actor, session_user), case when v_named then 'http' else 'sql' end,
    session_user, p_booking_ids, p_reason, coalesce(p_details, '{}'),
    case when v_named then nullif(current_setting('market_sync.request_id', true), '') end, v_key)
  returning id into v_id;
  return v_id;
end
$$;
comment on function market_sync.record_action is 'Writes one row of the audit log, in the name of the login or of the API''s caller.';

-- Distinct ids of bookings that exist, as far as anybody knows: with a snapshot, or a row of the application's.
create function market_sync.require_bookings(p_booking_ids uuid[]) returns uuid[]
language plpgsql stable
set search_path from current
as $$
declare
  v_ids uuid[];
  v_unknown uuid;
begin
  select array_agg(distinct given.id order by given.id) into v_ids from unnest(p_booking_ids) as given (id) where given.id is not null;
  if v_ids is null then
    raise exception 'no booking is named' using errcode = 'MS422', hint = 'Pass ids: array[''…'']::uuid[]';
  end if;
  if cardinality(v_ids) > 1000 then
    raise exception '% bookings are too many for one call', cardinality(v_ids)
      using errcode = 'MS422', hint = 'Pass at most 1000 ids: all are recomputed in one transaction, while live changes wait.';
  end if;
  select id into v_unknown from unnest(v_ids) as given (id)
  where not exists (select from market_inventory_snapshots s where s.booking_id = given.id)
    and not exists (select from storage_bookings b where b.id = given.id)
  limit 1;
  if v_unknown is not null then
    raise exception 'there is no booking %', v_unknown using errcode = 'MS404';
  end if;
  return v_ids;
end
$$;
comment on function market_sync.require_bookings(uuid[]) is 'These ids once each; raises MS422 for none or too many, MS404 for one that is unknown.';

create function market_sync.require_reason(p_reason text) returns text
language plpgsql immutable
set search_path from current
as $$
begin
  if coalesce(length(btrim(p_reason)), 0) not between 1 and 500 then
    raise exception 'a reason of 1 to 500 characters is needed' using errcode = 'MS422';
  end if;
  return btrim(p_reason);
end
$$;
comment on function market_sync.require_reason(text) is 'The reason, trimmed; raises MS422 when it is missing or longer than 500 characters.';

create function market_sync.is_paused() returns boolean
language sql stable
set search_path from current
as $$ select paused_at is not null from market_sync.checkpoint $$;
comment on function market_sync.is_paused() is 'Whether the pipeline is paused.';

create function market_sync.pause(p_reason text) returns timestamptz
language plpgsql security definer
set search_path from current
as $$
declare
  v_reason text := market_sync.require_reason(p_reason);
  v_at timestamptz;
begin
  if (market_sync.earlier_action()).id is not null then
    return (select paused_at from market_sync.checkpoint);
  end if;
  update market_sync.checkpoint set paused_at = coalesce(paused_at, clock_timestamp()), pause_reason = v_reason,
    paused_by = coalesce(market_sync.named_actor(), session_user)
  returning paused_at into strict v_at;
  perform market_sync.record_action('pause', null, v_reason, '{}');
  return v_at;
end
$$;
comment on function market_sync.pause(text) is
  'Stops everything that runs by itself: changes wait in the replication slot (watch slot_health), snapshots and listings stay as they are. Manual holds and reconciles still work; nothing reaches MongoDB. Answers since when it is paused.';

create function market_sync.resume() returns interval
language plpgsql security definer
set search_path from current
as $$
declare
  v_since timestamptz;
begin
  if (market_sync.earlier_action()).id is not null then
    return interval '0';
  end if;
  select paused_at into v_since from market_sync.checkpoint for update;
  if v_since is null then
    raise exception 'the pipeline is not paused' using errcode = 'MS409';
  end if;
  update market_sync.checkpoint set paused_at = null, paused_by = null, pause_reason = null;
  perform market_sync.record_action('resume', null, null, jsonb_build_object('paused_at', v_since));
  perform pg_notify('market_sync_publish', '');
  perform pg_notify('market_sync_resync', '');
  return clock_timestamp() - v_since;
end
$$;
comment on function market_sync.resume() is 'Ends a pause: what waited is worked off. Answers how long it was paused.';

create function market_sync.reconcile(p_booking_ids uuid[])
returns table (booking_id uuid, changed boolean, revision bigint)
language plpgsql security definer
set search_path from current
as $$
declare
  v_ids uuid[] := market_sync.require_bookings(p_booking_ids);
begin
  perform market_sync.lock_by_hand();
  perform market_sync.record_action('reconcile', v_ids, null, '{}');
  return query select * from market_sync.reconcile_bookings(v_ids, null);
end
$$;
comment on function market_sync.reconcile(uuid[]) is
  'Recomputes these bookings'' snapshots now and says which changed. One whose data cannot be processed is parked and left out.';

-- Refuses, for the first of these bookings that it finds, what its state forbids.
create function market_sync.require_on_market(p_booking_ids uuid[], p_allow_held boolean) returns void
language plpgsql stable
set search_path from current
as $$
declare
  v_id uuid;
  v_state text;
  v_reason text;
begin
  select given.id,
    case when m.state = 'withdrawn' then m.state
      when b.id is null or b.booking_status in ('completed', 'cancelled') then 'ended' else m.state end,
    m.reason
  into v_id, v_state, v_reason
  from unnest(p_booking_ids) as given (id)
  left join market_inventory_snapshots s on s.booking_id = given.id
  left join storage_bookings b on b.id = given.id
  left join market_sync.manual_state m on m.booking_id = given.id
  where m.state = 'withdrawn' or (m.state = 'held' and not p_allow_held)
    or b.id is null or b.booking_status in ('completed', 'cancelled')
  limit 1;
  if v_state = 'ended' then
    raise exception 'booking % has ended: its listing is off the market for good', v_id using errcode = 'MS409';
  elsif v_state is not null then
    raise exception 'booking % is % (%)', v_id, v_state, v_reason
      using errcode = 'MS409', hint = 'Release it first.';
  end if;
end
$$;
comment on function market_sync.require_on_market(uuid[], boolean) is
  'Raises MS409 for a booking that has ended, was withdrawn or, unless that is allowed, is held.';

create function market_sync.ask_for_recompute(p_booking_ids uuid[]) returns void
language plpgsql
set search_path from current
as $$
begin
  for chunk in 1 .. cardinality(p_booking_ids) by 5000 loop
    perform pg_logical_emit_message(
      true, 'market_sync', '{"v":1,"booking":["' || array_to_string(p_booking_ids[chunk : chunk + 4999], '","') || '"]}');
  end loop;
end
$$;
comment on function market_sync.ask_for_recompute(uuid[]) is
  'Makes these bookings dirty on the change stream: the consumer recomputes them in batches beside everything else.';

create function market_sync.publish_now(p_booking_ids uuid[] default null) returns int
language plpgsql security definer
set search_path from current
as $$
declare
  v_ids uuid[];
  v_count int;
  v_missing uuid;
begin
  if market_sync.is_paused() then
    raise exception 'the pipeline is paused: %', (select pause_reason from market_sync.checkpoint)
      using errcode = 'MS423', hint = 'Resume it first: select market_sync.resume()';
  end if;
  if p_booking_ids is null then
    select array_agg(due.booking_id) into v_ids from (
      select state.booking_id from market_sync.snapshot_state state
      where (epoch, revision) > (published_epoch, published_revision) and parked_at is null
        and next_attempt_at > clock_timestamp()
      order by state.booking_id for update) due;
    update market_sync.snapshot_state set next_attempt_at = clock_timestamp() where booking_id = any (v_ids);
    v_count := (select count(*) from market_sync.snapshot_state
      where (epoch, revision) > (published_epoch, published_revision) and parked_at is null);
    perform market_sync.record_action('publish_now', null, null, jsonb_build_object('snapshots', v_count));
  else
    v_ids := market_sync.require_bookings(p_booking_ids);
    perform market_sync.require_on_market(v_ids, false);
    perform from market_sync.snapshot_state where booking_id = any (v_ids) order by booking_id for update;
    select id into v_missing from unnest(v_ids) as given (id)
    where not exists (select from market_sync.snapshot_state state where state.booking_id = given.id and state.revision > 0) limit 1;
    if v_missing is not null then
      raise exception 'booking % has no snapshot yet', v_missing using errcode = 'MS409', hint = 'Reconcile it first.';
    end if;
    -- As if MongoDB had never confirmed it: the guard there still keeps the newest version.
    update market_sync.snapshot_state
    set published_epoch = 0, published_revision = 0, parked_at = null, next_attempt_at = clock_timestamp(),
      attempts = case when parked_at is null then attempts else 0 end
    where booking_id = any (v_ids);
    -- What could not be computed is tried again, too.
    perform market_sync.ask_for_recompute(array(
      select booking_id from market_sync.snapshot_state where booking_id = any (v_ids) and failed_stage = 'reconcile'));
    v_count := cardinality(v_ids);
    perform market_sync.record_action('publish_now', v_ids, null, '{}');
  end if;
  -- The API publishes these itself, in a moment, and answers with what came of it.
  if market_sync.named_actor() is null then
    perform pg_notify('market_sync_publish', '');
  end if;
  return v_count;
end
$$;
comment on function market_sync.publish_now(uuid[]) is
  'Writes these bookings'' listings again at once, also when they are published or parked; without ids everything that waits. Answers how many.';

create or replace function market_sync.retry_parked(p_booking_ids uuid[] default null) returns int
language plpgsql security definer
set search_path from current
as $$
declare
  v_released uuid[];
  v_recompute uuid[];
  v_earlier market_sync.manual_action := market_sync.earlier_action();
begin
  if v_earlier.id is not null then
    return (v_earlier.details ->> 'snapshots')::int;
  end if;
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
  if cardinality(v_released) = 0 then
    return 0;
  end if;

  perform market_sync.record_action('retry_parked', v_released[1 : 1000], null,
    jsonb_build_object('snapshots', cardinality(v_released)));
  perform market_sync.ask_for_recompute(v_recompute);
  perform pg_notify('market_sync_publish', '');
  return cardinality(v_released);
end
$$;
comment on function market_sync.retry_parked(uuid[]) is
  'Gives parked snapshots (all unless named) one more round of attempts; answers how many.';

-- Sees to it that what is off the market shows so, also where a recompute could not: data that cannot be processed do not
-- keep a listing in front of buyers.
create function market_sync.enforce_manual_state(p_booking_ids uuid[]) returns void
language plpgsql
set search_path from current
as $$
declare
  v_ids uuid[];
begin
  select array_agg(s.booking_id order by s.booking_id) into v_ids
  from market_inventory_snapshots s
  join market_sync.manual_state m on m.booking_id = s.booking_id
  where s.booking_id = any (p_booking_ids) and s.status not in (m.state, 'withdrawn', 'completed');
  if v_ids is null then
    return;
  end if;
  perform from market_sync.snapshot_state where booking_id = any (v_ids) order by booking_id for update;
  with written as (
    update market_inventory_snapshots s
    set epoch = c.epoch, revision = s.revision + 1, status = m.state, updated_at = clock_timestamp(),
      -- The next recompute that succeeds writes it whole.
      own_hash = null,
      ended_at = case when m.state = 'withdrawn' then coalesce(s.ended_at, clock_timestamp()) end,
      metadata = coalesce(s.metadata, '{}') || jsonb_build_object('last_updated', market_sync.iso(clock_timestamp()))
    from market_sync.manual_state m, market_sync.checkpoint c
    where s.booking_id = any (v_ids) and m.booking_id = s.booking_id
    returning s.booking_id, s.epoch, s.revision, s.status
  ), remembered as (
    insert into market_sync.revision (booking_id, ring, epoch, revision, at, status, cause)
    select written.booking_id, state.revisions_remembered % 16, written.epoch, written.revision, clock_timestamp(), written.status,
      'manual'
    from written
    join market_sync.snapshot_state state on state.booking_id = written.booking_id
    on conflict (booking_id, ring) do update set
      epoch = excluded.epoch, revision = excluded.revision, at = excluded.at, status = excluded.status, cause = excluded.cause
  )
  update market_sync.snapshot_state state
  set epoch = written.epoch, revision = written.revision, next_attempt_at = clock_timestamp(), parked_at = null,
    -- Why it cannot be computed stays known: when MongoDB has confirmed the status, it is parked again.
    changed_at = null, revisions_remembered = state.revisions_remembered + 1
  from written where state.booking_id = written.booking_id;
  perform pg_notify('market_sync_publish', '');
end
$$;
comment on function market_sync.enforce_manual_state(uuid[]) is
  'Gives snapshots that are held or withdrawn that status where their recompute failed.';

-- As reconcile_bookings, because somebody has decided something about these bookings.
create function market_sync.reconcile_by_hand(p_booking_ids uuid[]) returns void
language plpgsql
set search_path from current
as $$
begin
  -- Not in the function's header: that takes a privilege which the owner need not have.
  perform set_config('market_sync.manual', 'on', true);
  perform market_sync.reconcile_bookings(p_booking_ids, null);
  perform set_config('market_sync.manual', '', true);
end
$$;
comment on function market_sync.reconcile_by_hand(uuid[]) is
  'Recomputes these bookings'' snapshots for a manual action, which their history then says.';

-- Takes bookings off the market, or changes why they are.
create function market_sync.take_off_market(p_action text, p_booking_ids uuid[], p_reason text) returns int
language plpgsql
set search_path from current
as $$
declare
  v_ids uuid[] := market_sync.require_bookings(p_booking_ids);
  v_reason text := market_sync.require_reason(p_reason);
  v_state text := case p_action when 'hold' then 'held' else 'withdrawn' end;
  v_actor text := coalesce(market_sync.named_actor(), session_user);
begin
  if (market_sync.earlier_action()).id is not null then
    return cardinality(v_ids);
  end if;
  perform market_sync.lock_by_hand();
  perform market_sync.require_on_market(
    array(select id from unnest(v_ids) as given (id)
      where p_action = 'hold' or not exists (
        select from market_sync.manual_state m where m.booking_id = given.id and m.state = 'withdrawn')), true);
  insert into market_sync.manual_state as m (booking_id, state, reason, actor)
  select id, v_state, v_reason, v_actor from unnest(v_ids) as given (id)
  on conflict (booking_id) do update set reason = excluded.reason, actor = excluded.actor, state = excluded.state,
    since = case when m.state = excluded.state then m.since else excluded.since end;
  perform market_sync.record_action(p_action, v_ids, v_reason, '{}');
  perform market_sync.reconcile_by_hand(v_ids);
  perform market_sync.enforce_manual_state(v_ids);
  return cardinality(v_ids);
end
$$;
comment on function market_sync.take_off_market is 'The common part of hold() and withdraw().';

create function market_sync.hold(p_booking_ids uuid[], p_reason text) returns int
language sql security definer
set search_path from current
as $$ select market_sync.take_off_market('hold', p_booking_ids, p_reason) $$;
comment on function market_sync.hold(uuid[], text) is
  'Takes these bookings'' listings off the market (status held) until they are released; they go on following their source. Holding a held one changes its reason. Answers how many.';

create function market_sync.withdraw(p_booking_ids uuid[], p_reason text) returns int
language sql security definer
set search_path from current
as $$ select market_sync.take_off_market('withdraw', p_booking_ids, p_reason) $$;
comment on function market_sync.withdraw(uuid[], text) is
  'Withdraws these bookings'' listings as if the bookings were cancelled: frozen, and cleaned up after the retention. Only release() brings one back. Answers how many.';

create function market_sync.release(p_booking_ids uuid[], p_reason text default null) returns int
language plpgsql security definer
set search_path from current
as $$
declare
  v_ids uuid[] := market_sync.require_bookings(p_booking_ids);
  v_reason text := case when p_reason is not null then market_sync.require_reason(p_reason) end;
  v_free uuid;
begin
  if (market_sync.earlier_action()).id is not null then
    return cardinality(v_ids);
  end if;
  perform market_sync.lock_by_hand();
  select id into v_free from unnest(v_ids) as given (id)
  where not exists (select from market_sync.manual_state m where m.booking_id = given.id) limit 1;
  if v_free is not null then
    raise exception 'booking % is neither held nor withdrawn by hand', v_free using errcode = 'MS409';
  end if;
  perform market_sync.record_action('release', v_ids, v_reason,
    (select jsonb_build_object('was', jsonb_object_agg(booking_id, state))
     from market_sync.manual_state where booking_id = any (v_ids)));
  delete from market_sync.manual_state where booking_id = any (v_ids);
  perform market_sync.reconcile_by_hand(v_ids);
  return cardinality(v_ids);
end
$$;
comment on function market_sync.release(uuid[], text) is
  'Ends the hold or the withdrawal by hand of these bookings: their listings say again what their source rows say. Answers how many.';

create function market_sync.set_override(
  p_booking_id uuid, p_reason text, p_grade text default null, p_quality_score numeric default null,
  p_freshness text default null, p_visual_defects text default null, p_special_notes text default null,
  p_expires_at timestamptz default null, p_if_version bigint default null)
returns bigint
language plpgsql security definer
set search_path from current
as $$
declare
  v_ids uuid[] := market_sync.require_bookings(array[p_booking_id]);
  v_reason text := market_sync.require_reason(p_reason);
  v_actor text := coalesce(market_sync.named_actor(), session_user);
  v_version bigint;
begin
  if num_nonnulls(p_grade, p_quality_score, p_freshness, p_visual_defects, p_special_notes) = 0 then
    raise exception 'nothing is overridden: give at least one of grade, quality_score, freshness, visual_defects, special_notes'
      using errcode = 'MS422';
  end if;
  if length(p_grade) not between 1 and 16 or length(p_freshness) not between 1 and 200
    or length(p_visual_defects) > 2000 or length(p_special_notes) > 2000 then
    raise exception 'a field is too long, or empty: grade 1 to 16 characters, freshness 1 to 200, visual_defects and special_notes at most 2000'
      using errcode = 'MS422';
  end if;
  if not coalesce(p_quality_score between 0 and 100, true) then
    raise exception 'quality_score must be from 0 to 100' using errcode = 'MS422';
  end if;
  if (market_sync.earlier_action()).id is not null then
    return coalesce((select version from market_sync.override where booking_id = p_booking_id), 0);
  end if;
  perform market_sync.lock_by_hand();
  -- After the lock, which may have been waited for.
  if p_expires_at <= clock_timestamp() then
    raise exception 'expires_at has passed already' using errcode = 'MS422';
  end if;
  perform market_sync.require_on_market(v_ids, true);
  perform market_sync.require_override_version(p_booking_id, p_if_version);
  insert into market_sync.override
    (booking_id, grade, quality_score, freshness, visual_defects, special_notes, reason, actor, expires_at)
  values (p_booking_id, p_grade, round(p_quality_score, 2), p_freshness, p_visual_defects, p_special_notes, v_reason, v_actor, p_expires_at)
  on conflict (booking_id) do update set
    grade = excluded.grade, quality_score = excluded.quality_score, freshness = excluded.freshness,
    visual_defects = excluded.visual_defects, special_notes = excluded.special_notes, reason = excluded.reason,
    actor = excluded.actor, set_at = excluded.set_at, expires_at = excluded.expires_at, version = default
  returning version into v_version;
  perform market_sync.record_action('set_override', v_ids, v_reason, jsonb_strip_nulls(jsonb_build_object(
    'grade', p_grade, 'quality_score', p_quality_score, 'freshness', p_freshness, 'visual_defects', p_visual_defects,
    'special_notes', p_special_notes, 'expires_at', market_sync.iso(p_expires_at))));
  perform market_sync.reconcile_by_hand(v_ids);
  return v_version;
end
$$;
comment on function market_sync.set_override is
  'Corrects fields of a booking''s snapshot by hand, in place of any override before; the others follow the source. It survives every recompute until it ends. Answers its version; p_if_version: only if the present one has that version, 0: only if there is none.';

create function market_sync.require_override_version(p_booking_id uuid, p_if_version bigint) returns void
language plpgsql stable
set search_path from current
as $$
declare
  v_version bigint;
begin
  select version into v_version from market_sync.override
  where booking_id = p_booking_id and (expires_at is null or expires_at > clock_timestamp());
  if p_if_version is not null and p_if_version <> coalesce(v_version, 0) then
    raise exception 'the override is not as it was: expected version %, found %', p_if_version, coalesce(v_version::text, 'none')
      using errcode = 'MS412', hint = 'Read it again, and decide again.';
  end if;
end
$$;
comment on function market_sync.require_override_version(uuid, bigint) is
  'Raises MS412 unless the override in force has this version (0: there is none; null: whatever it is).';

create function market_sync.end_override(p_booking_id uuid, p_reason text default null, p_if_version bigint default null)
returns boolean
language plpgsql security definer
set search_path from current
as $$
declare
  v_ids uuid[] := market_sync.require_bookings(array[p_booking_id]);
  v_reason text := case when p_reason is not null then market_sync.require_reason(p_reason) end;
begin
  if (market_sync.earlier_action()).id is not null then
    return true;
  end if;
  perform market_sync.lock_by_hand();
  perform market_sync.require_override_version(p_booking_id, p_if_version);
  -- What has ended is frozen, with the override that was in force.
  perform market_sync.require_on_market(v_ids, true);
  delete from market_sync.override where booking_id = p_booking_id;
  if not found then
    return false;
  end if;
  perform market_sync.record_action('end_override', v_ids, v_reason, '{}');
  perform market_sync.reconcile_by_hand(v_ids);
  return true;
end
$$;
comment on function market_sync.end_override(uuid, text, bigint) is
  'Ends a booking''s override: its snapshot says again what the source says. False when there is none.';

create function market_sync.resync(p_reason text) returns bigint
language plpgsql security definer
set search_path from current
as $$
declare
  v_reason text := market_sync.require_reason(p_reason);
  v_earlier market_sync.manual_action := market_sync.earlier_action();
  v_id bigint;
begin
  if v_earlier.id is not null then
    return (v_earlier.details ->> 'resync_id')::bigint;
  end if;
  v_id := market_sync.request_resync(v_reason);
  perform market_sync.record_action('resync', null, v_reason, jsonb_build_object('resync_id', v_id));
  return v_id;
end
$$;
comment on function market_sync.resync(text) is
  'Asks the pipeline to recompute every snapshot, beside live work; answers the id in market_sync.resync. One that has not begun serves all who ask.';
