import type { Listing } from '../../src/domain/listing.ts';

/** A listing with something in every field. */
export function makeListing(fields: Partial<Listing> & { booking_id: string }): Listing {
  return {
    farmer_id: '7e2c0a4e-6f52-4a6c-9d6e-0c9b3f3f1a01',
    vendor_id: null,
    location_id: '0b3d8f52-52d2-4d0e-8d42-5ad3c5a53c01',
    crop_type: 'wheat',
    quantity_kg: 1200,
    grade: 'A',
    duration_days: 30,
    start_date: '2026-01-01T00:00:00.000Z',
    end_date: null,
    quality_score: 87.25,
    freshness: 'fresh',
    visual_defects: '',
    shelf_life_days: null,
    sensors: {
      temperature: { value: 4.5, unit: '°C', reading_time: '2026-01-02T03:04:05.000Z', status: 'active' },
    },
    sensor_summary: { temperature_avg: 4.5, temperature_count: 1 },
    pest_events: [{ pest_type: 'weevil', severity: 'low', confidence: 0, resolved: false }],
    pest_count: 1,
    has_pest_alerts: false,
    certificates: [],
    is_certified: false,
    certification_types: [],
    metadata: { sensor_health: 'good', buyer_contacts: [] },
    status: 'published',
    published_at: '2026-01-02T03:04:06.000Z',
    epoch: 1,
    revision: 1,
    ...fields,
  };
}
