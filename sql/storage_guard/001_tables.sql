-- The tables of the Storage Guard application, as far as this project knows them: the embedded default and the tests
-- create them; on a real database they exist and are never altered.

create table users (
  id uuid primary key default gen_random_uuid(),
  name text,
  created_at timestamptz not null default now()
);

create table vendors (
  id uuid primary key default gen_random_uuid(),
  name text,
  created_at timestamptz not null default now()
);

create table storage_locations (
  id uuid primary key default gen_random_uuid(),
  vendor_id uuid references vendors on delete set null,
  name text,
  type varchar(64),
  address text,
  lat double precision,
  lon double precision,
  capacity_text text,
  price_text text,
  rating double precision,
  phone varchar(32),
  hours text,
  facilities json,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create table crop_inspections (
  id uuid primary key default gen_random_uuid(),
  farmer_id uuid references users on delete set null,
  crop_detected varchar(120),
  grade varchar(16),
  freshness varchar(64),
  freshness_score numeric,
  visual_defects text,
  defects json,
  recommendation text,
  image_urls json,
  shelf_life_days int,
  created_at timestamptz not null default now()
);

create table storage_bookings (
  id uuid primary key default gen_random_uuid(),
  farmer_id uuid not null,
  location_id uuid references storage_locations on delete set null,
  vendor_id uuid references vendors on delete set null,
  crop_type varchar(120) not null,
  quantity_kg int not null,
  grade varchar(16),
  duration_days int,
  start_date timestamptz,
  end_date timestamptz,
  price_per_day numeric(12, 2),
  total_price numeric(12, 2),
  booking_status varchar(16) default 'pending',
  payment_status varchar(16) default 'pending',
  ai_inspection_id uuid references crop_inspections on delete set null,
  transport_required boolean default false,
  vendor_confirmed boolean default false,
  vendor_confirmed_at timestamptz,
  vendor_notes text,
  cancelled_by uuid,
  cancelled_at timestamptz,
  cancellation_reason text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create table iot_sensors (
  id uuid primary key default gen_random_uuid(),
  location_id uuid references storage_locations on delete cascade,
  sensor_type varchar(64),
  device_id varchar(128) unique,
  status varchar(16) default 'active',
  last_reading timestamptz,
  battery_level double precision,
  installation_date timestamptz,
  created_at timestamptz default now()
);

create table sensor_readings (
  id uuid primary key default gen_random_uuid(),
  sensor_id uuid references iot_sensors on delete cascade,
  reading_value double precision,
  reading_unit varchar(16),
  reading_time timestamptz not null,
  alert_triggered boolean default false,
  alert_reason text,
  created_at timestamptz default now()
);

create table pest_detections (
  id uuid primary key default gen_random_uuid(),
  location_id uuid references storage_locations on delete cascade,
  job_id uuid,
  pest_type varchar(120),
  detection_method varchar(64),
  severity_level varchar(16),
  confidence_score double precision,
  image_url text,
  location_details text,
  action_taken text,
  detected_at timestamptz,
  resolved_at timestamptz,
  created_at timestamptz default now()
);

create table compliance_certificates (
  id uuid primary key default gen_random_uuid(),
  vendor_id uuid references vendors on delete cascade,
  certificate_type varchar(64),
  certificate_number varchar(120),
  issuing_authority text,
  issue_date date,
  expiry_date date,
  status varchar(16) default 'valid',
  document_url text,
  score int,
  audit_notes text,
  created_at timestamptz default now()
);

create table storage_certificates (
  id uuid primary key default gen_random_uuid(),
  booking_id uuid unique references storage_bookings on delete cascade,
  certificate_number varchar(120) unique,
  certificate_status varchar(16) default 'pending',
  issued_date timestamptz,
  issued_by text,
  digital_signature text,
  overall_quality_score numeric(5, 2),
  temperature_avg double precision,
  humidity_avg double precision,
  created_at timestamptz default now(),
  updated_at timestamptz default now()
);
