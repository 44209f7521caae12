-- The snapshots, and what the pipeline knows of each.
--
-- Runs with search_path = the source schema: unqualified names are the application's tables, and the snapshots beside
-- them; everything else this project owns is in the schema market_sync.

create table if not exists market_inventory_snapshots (
  id uuid primary key default gen_random_uuid(),
  booking_id uuid not null,
  farmer_id uuid not null,
  vendor_id uuid,
  location_id uuid,
  crop_type varchar(120) not null,
  grade varchar(16),
  quantity_kg int not null,
  start_date timestamptz,
  end_date timestamptz,
  duration_days int,
  inspection_id uuid,
  inspection_status varchar(32),
  quality_score numeric(5, 2),
  freshness text,
  visual_defects text,
  shelf_life_days int,
  sensors jsonb,
  sensor_summary jsonb,
  pest_events jsonb,
  has_pest_alerts boolean,
  pest_count int,
  certificates jsonb,
  is_certified boolean,
  certification_types text[],
  status varchar(32) not null default 'ready_to_publish',
  market_listing_id varchar(64),
  published_at timestamptz,
  last_synced_at timestamptz,
  metadata jsonb,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
) with (fillfactor = 70);

-- A table of the system before this one is taken over in place: its rows, listing ids and statuses stay.
alter table market_inventory_snapshots
  add column if not exists epoch int not null default 0,
  add column if not exists revision bigint not null default 0,
  add column if not exists own_hash bigint,
  add column if not exists parts_hash bigint,
  add column if not exists ended_at timestamptz;

create unique index if not exists market_inventory_snapshots_booking_id_key on market_inventory_snapshots (booking_id);
create index if not exists market_inventory_snapshots_farmer_id_idx on market_inventory_snapshots (farmer_id);
create index if not exists market_inventory_snapshots_location_id_idx on market_inventory_snapshots (location_id);
create index if not exists market_inventory_snapshots_created_at_idx on market_inventory_snapshots (created_at, booking_id);
-- BRIN: a snapshot's status changes with every publication, and only a summarising index leaves such an update HOT (16+).
create index if not exists market_inventory_snapshots_status_idx on market_inventory_snapshots using brin (status);
create index if not exists market_inventory_snapshots_ended_at_idx on market_inventory_snapshots (ended_at)
  where ended_at is not null;

comment on table market_inventory_snapshots is
  'One row per booking: what Market Connect''s listing of it must say. Written by market_sync.reconcile() only.';
comment on column market_inventory_snapshots.epoch is
  'Rises when history was cut (database restored, changes lost); with revision it orders the versions of a listing.';
comment on column market_inventory_snapshots.revision is 'Rises by one with every change a buyer can see.';
comment on column market_inventory_snapshots.own_hash is 'Hash of what is copied from the booking, to find real change.';
comment on column market_inventory_snapshots.parts_hash is
  'Hash of everything else a buyer sees (inspection, sensors, pests, certificates), to find real change.';
comment on column market_inventory_snapshots.ended_at is
  'When the pipeline saw the booking''s end (completed, cancelled, deleted). From then on the snapshot is frozen.';

-- What the pipeline knows of each snapshot. Apart from the snapshot itself, because these columns are indexed and change
-- with every publication: in the wide row they would cost an entry in each of its indexes every time.
create table market_sync.snapshot_state (
  booking_id uuid primary key,
  epoch int not null default 0,
  revision bigint not null default 0,
  published_epoch int not null default 0,
  published_revision bigint not null default 0,
  next_refresh_at timestamptz,
  claimed_by text,
  lease_until timestamptz,
  attempts int not null default 0,
  next_attempt_at timestamptz not null default '-infinity',
  first_failed_at timestamptz,
  last_failed_at timestamptz,
  last_error text,
  failed_stage text check (failed_stage in ('reconcile', 'publish')),
  parked_at timestamptz
) with (fillfactor = 70);

create index snapshot_state_outbox_idx on market_sync.snapshot_state (next_attempt_at)
  where (epoch, revision) > (published_epoch, published_revision) and parked_at is null;
create index snapshot_state_refresh_idx on market_sync.snapshot_state (next_refresh_at)
  where next_refresh_at is not null;
create index snapshot_state_parked_idx on market_sync.snapshot_state (parked_at) where parked_at is not null;

comment on table market_sync.snapshot_state is
  'One row per snapshot: the outbox. (epoch, revision) ahead of (published_epoch, published_revision) is still to be published.';
comment on column market_sync.snapshot_state.next_refresh_at is
  'The first instant at which the clock alone changes the snapshot: a detection leaves its window, a certificate expires, a sensor falls silent.';
comment on column market_sync.snapshot_state.lease_until is
  'Until then the publisher claimed_by has this snapshot to itself; afterwards another may take it over.';
comment on column market_sync.snapshot_state.failed_stage is
  'Where it failed last: its data could not be made into a snapshot, or MongoDB would not take its listing.';
comment on column market_sync.snapshot_state.parked_at is
  'Set when publishing or reconciling failed too often. A parked snapshot is left alone until it is retried by hand or its booking changes.';

insert into market_sync.snapshot_state (booking_id) select booking_id from market_inventory_snapshots;

-- One row: how far the consumer has come, and who it is.
create table market_sync.checkpoint (
  only_row boolean primary key default true check (only_row),
  commit_lsn pg_lsn,
  slot_name text,
  system_identifier text,
  timeline int,
  epoch int not null default 1,
  revision_floor bigint not null default 0,
  generation bigint not null default 0,
  holder text,
  lease_until timestamptz,
  paused_at timestamptz,
  malformed_messages bigint not null default 0,
  updated_at timestamptz not null default now()
);
insert into market_sync.checkpoint default values;

comment on table market_sync.checkpoint is
  'How far changes are in the snapshots. Written in the transaction that writes the snapshots; the slot is acknowledged after it (I2).';
comment on column market_sync.checkpoint.commit_lsn is
  'End of the last commit whose changes, and those of every commit before it, are in the snapshots.';
comment on column market_sync.checkpoint.system_identifier is
  'The cluster and timeline that commit_lsn belongs to; on another one it means nothing.';
comment on column market_sync.checkpoint.revision_floor is
  'The greatest revision that cleanup has deleted: a booking that returns starts above it, so that no old write beats it.';
comment on column market_sync.checkpoint.generation is
  'Rises when a consumer takes over. One whose generation is not this one has lost its place and cannot write (I6).';

-- One row: the settings that decide what a snapshot says, so that SQL and every process agree.
create table market_sync.settings (
  only_row boolean primary key default true check (only_row),
  pest_window interval not null default '7 days',
  sensor_stale_after interval not null default '60 minutes',
  retention interval not null default '90 days'
);
insert into market_sync.settings default values;
comment on table market_sync.settings is 'Windows that decide what a snapshot says; written by the pipeline at start.';

-- Requests to recompute everything, and how far each has come.
create table market_sync.resync (
  id bigint generated always as identity primary key,
  reason text not null,
  requested_at timestamptz not null default now(),
  started_at timestamptz,
  phase text not null default 'bookings' check (phase in ('bookings', 'orphans', 'ghosts', 'done')),
  after_booking_id uuid,
  visible_from xid8,
  bookings_done bigint not null default 0,
  finished_at timestamptz
);
create index resync_open_idx on market_sync.resync (id) where finished_at is null;
comment on table market_sync.resync is
  'Every recompute of all snapshots: why, how far (bookings, then snapshots without booking, then listings without snapshot), and when it ended.';
