/** Columns of the application that no snapshot shows: known, so that none is taken for another's new name. */
export const OTHER_COLUMNS: Record<string, string> = {
  storage_bookings:
    'price_per_day total_price payment_status transport_required vendor_confirmed vendor_confirmed_at vendor_notes ' +
    'cancelled_by cancelled_at cancellation_reason created_at updated_at',
  crop_inspections: 'farmer_id crop_detected grade defects recommendation image_urls created_at',
  iot_sensors: 'device_id last_reading battery_level installation_date',
  sensor_readings: 'alert_reason created_at',
  pest_detections: 'job_id detection_method image_url location_details',
  compliance_certificates: 'audit_notes created_at',
  storage_certificates: 'overall_quality_score temperature_avg humidity_avg created_at updated_at',
};
