-- Capture: every committed change that can touch a snapshot becomes, in the change stream, a set of dirty keys.
--
-- storage_bookings is published row by row. Every other table has statement triggers that write one transactional WAL
-- message per statement with the distinct keys of the rows it changed, old and new: {"v":1,"location":["<uuid>", …]}.
-- Keys only, and only of the changed thing: a trigger that looked up the bookings of a location would miss one that
-- commits at the same moment.
--
-- I5: none of this may make the application's statement fail. The functions use nothing but their transition tables and
-- built-in functions and operators, whatever the search path of the session is (no privilege is needed to fire them); an
-- unforeseen error (a column renamed) becomes the message
-- {"v":1,"all":"<table>"}, which makes the consumer recompute everything. Messages are cut at 5,000 keys.

do $migration$
declare
  capture record;
begin
  for capture in
    select * from (values
      -- table, kind of key, key column, the columns that a snapshot shows (an update of others emits nothing)
      ('sensor_readings', 'sensor', 'sensor_id', 'id, sensor_id, reading_value, reading_unit, reading_time, alert_triggered'),
      ('iot_sensors', 'location', 'location_id', 'id, location_id, sensor_type, status, created_at'),
      ('pest_detections', 'location', 'location_id',
        'id, location_id, pest_type, severity_level, confidence_score, action_taken, detected_at, resolved_at, created_at'),
      ('crop_inspections', 'inspection', 'id', 'id, freshness_score, freshness, visual_defects, shelf_life_days'),
      ('compliance_certificates', 'vendor', 'vendor_id',
        'id, vendor_id, certificate_type, certificate_number, issuing_authority, issue_date, expiry_date, status, document_url, score'),
      ('storage_certificates', 'booking', 'booking_id',
        'id, booking_id, certificate_number, certificate_status, issued_date, issued_by, digital_signature')
    ) as t (source_table, key_kind, key_column, shown_columns)
  loop
    execute format($create$
      create function market_sync.capture_%1$s() returns trigger language plpgsql set search_path = pg_catalog as $capture$
      declare
        key_list text[];
      begin
        if tg_op = 'TRUNCATE' then
          perform pg_catalog.pg_logical_emit_message(true, 'market_sync', '{"v":1,"all":"%1$s"}');
          return null;
        end if;
        -- The keys are found in a block of their own, and the message written outside of it: a subtransaction that
        -- writes nothing costs a microsecond, one that writes WAL takes a transaction id.
        begin
          if tg_op = 'INSERT' then
            select pg_catalog.array_agg(distinct %3$I::text) into key_list from new_rows where %3$I is not null;
          elsif tg_op = 'DELETE' then
            select pg_catalog.array_agg(distinct %3$I::text) into key_list from old_rows where %3$I is not null;
          elsif (select pg_catalog.count(*) from (select from new_rows limit 10001) few) > 10000 then
            -- Comparing would hold both versions of every row in memory; a needless recompute is harmless.
            select pg_catalog.array_agg(distinct key) into key_list
            from (select %3$I::text as key from new_rows union all select %3$I::text from old_rows) touched
            where key is not null;
          else
            select pg_catalog.array_agg(distinct %3$I::text) into key_list
            from (
              (select %4$s from new_rows except select %4$s from old_rows)
              union all
              (select %4$s from old_rows except select %4$s from new_rows)
            ) changed
            where %3$I is not null;
          end if;
        exception when others then
          perform pg_catalog.pg_logical_emit_message(
            true, 'market_sync', '{"v":1,"all":"%1$s","sqlstate":"' || sqlstate || '"}');
          return null;
        end;
        for chunk in 1 .. coalesce(pg_catalog.cardinality(key_list), 0) by 5000 loop
          perform pg_catalog.pg_logical_emit_message(
            true, 'market_sync',
            '{"v":1,"%2$s":["' || pg_catalog.array_to_string(key_list[chunk : chunk + 4999], '","') || '"]}');
        end loop;
        return null;
      end
      $capture$ $create$,
      capture.source_table, capture.key_kind, capture.key_column, capture.shown_columns);
    execute format('comment on function market_sync.capture_%1$s() is %2$L', capture.source_table,
      'Writes the keys of the rows a statement changed in ' || capture.source_table || ' to the WAL, for the consumer.');

    execute format($triggers$
      create trigger market_sync_insert after insert on %1$I referencing new table as new_rows
        for each statement execute function market_sync.capture_%1$s();
      create trigger market_sync_update after update on %1$I referencing old table as old_rows new table as new_rows
        for each statement execute function market_sync.capture_%1$s();
      create trigger market_sync_delete after delete on %1$I referencing old table as old_rows
        for each statement execute function market_sync.capture_%1$s();
      create trigger market_sync_truncate after truncate on %1$I
        for each statement execute function market_sync.capture_%1$s();
      -- always: also in sessions with session_replication_role = replica, which bulk loaders like to set
      alter table %1$I enable always trigger market_sync_insert;
      alter table %1$I enable always trigger market_sync_update;
      alter table %1$I enable always trigger market_sync_delete;
      alter table %1$I enable always trigger market_sync_truncate;
      $triggers$, capture.source_table);
  end loop;
end
$migration$;

-- No column list, though only the id is read: with one, a later change of the table's replica identity by its owner
-- would make the application's updates fail (I5).
create publication market_sync for table storage_bookings
  with (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
comment on publication market_sync is 'Changes of bookings, for the consumer of market_sync. Everything else comes as WAL messages.';
