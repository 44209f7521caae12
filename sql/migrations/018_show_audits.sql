-- Every audit, for people, metrics and the API: how far it is, what it found.

create view market_sync.audits as
select run.id, run.state, run.repair, run.reason, run.requested_by, run.requested_at, run.started_at, run.finished_at,
  run.total, run.compared, run.listings, run.in_flight, run.parked,
  coalesce(counted.found, 0)::bigint as found, coalesce(counted.repaired, 0)::bigint as repaired,
  coalesce(counted.kinds, '{}') as kinds, run.error
from market_sync.audit_run run
left join lateral (
  select sum(c.found) as found, sum(c.repaired) as repaired,
    jsonb_object_agg(c.kind, jsonb_build_object('found', c.found, 'repaired', c.repaired)) as kinds
  from market_sync.finding_count c where c.run_id = run.id
) counted on true;
comment on view market_sync.audits is
  'Audits of the last 90 days: how far, what they found, what is mended. Ask for one with audit(); what exactly it found: drift_findings.';
comment on column market_sync.audits.state is 'queued: no pipeline has taken it yet. running, done, failed, cancelled.';
comment on column market_sync.audits.repair is
  'off: only look. safe: what this project may have written. all: also listings that it cannot have written.';
comment on column market_sync.audits.total is 'Bookings to compare, as counted when it began.';
comment on column market_sync.audits.compared is 'Bookings compared so far.';
comment on column market_sync.audits.listings is 'Documents of MongoDB that were read for it.';
comment on column market_sync.audits.in_flight is
  'Bookings left out because they were changing, or waiting for the consumer, the clock or a publisher.';
comment on column market_sync.audits.parked is 'Bookings left out because they are parked: see the view parked.';
comment on column market_sync.audits.found is 'What was not as it must be, of every kind.';
comment on column market_sync.audits.repaired is 'How much of what was found is mended.';
comment on column market_sync.audits.kinds is 'Of each kind of finding, how many were found and repaired; the kinds are those of drift_findings.';
comment on column market_sync.audits.error is 'Why it failed, or was given up.';
