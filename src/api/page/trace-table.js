import { byId, el, setText } from './elements.js';
import { date, quantity, REVISION_TITLE, revisionIn, words } from './format.js';
import { statusPill } from './status-pill.js';

const text = (value) => (value === null || value === undefined || value === '' ? undefined : String(value));
const number = (value, unit = '') =>
  value === null || value === undefined ? undefined : `${quantity(Number(value))}${unit}`;
const time = (value) => (value ? date(value) : undefined);
const names = (list) => (list?.length > 0 ? list.join(', ') : 'none');

/**
 * The rows: one thing that buyers see, as each of the three stages says it. `source` reads the application's rows, the
 * other two have the same names. `time`: moves by itself, so that a difference means nothing. A missing `source` is
 * something that only snapshots have.
 */
const ROWS = [
  {
    name: 'Status',
    source: ({ booking }) => booking?.booking_status,
    made: ({ status }) => status,
    pill: true,
  },
  {
    name: 'Revision',
    title: REVISION_TITLE,
    made: (row, { snapshot, listing }) =>
      revisionIn(
        row,
        [snapshot, listing].flatMap((stage) => stage?.epoch ?? []),
      ),
  },
  { name: 'Crop', source: ({ booking }) => booking?.crop_type, made: (row) => row.crop_type },
  {
    name: 'Quantity',
    source: ({ booking }) => number(booking?.quantity_kg, ' kg'),
    made: (row) => number(row.quantity_kg, ' kg'),
  },
  { name: 'Grade', source: ({ booking }) => booking?.grade, made: (row) => row.grade, column: 'grade' },
  {
    name: 'Quality score',
    source: ({ inspection }) => number(inspection?.freshness_score),
    made: (row) => number(row.quality_score),
    column: 'quality_score',
  },
  {
    name: 'Freshness',
    source: ({ inspection }) => inspection?.freshness,
    made: (row) => row.freshness,
    column: 'freshness',
  },
  {
    name: 'Visual defects',
    source: ({ inspection }) => inspection?.visual_defects,
    made: (row) => row.visual_defects,
    column: 'visual_defects',
  },
  {
    name: 'Shelf life',
    source: ({ inspection }) => number(inspection?.shelf_life_days, ' d'),
    made: (row) => number(row.shelf_life_days, ' d'),
  },
  { name: 'Special notes', made: (row) => row.metadata?.special_notes, column: 'special_notes' },
  {
    name: 'From',
    source: ({ booking }) => time(booking?.start_date),
    made: (row) => time(row.start_date),
  },
  { name: 'Until', source: ({ booking }) => time(booking?.end_date), made: (row) => time(row.end_date) },
  {
    name: 'Certificates',
    source: ({ certificates = [], storage_certificate: own }) =>
      names([
        ...new Set(certificates.map((one) => `${one.certificate_type} ${one.status ?? ''}`.trim())),
        ...(own ? [`storage certificate ${own.certificate_status}`] : []),
      ]),
    made: (row) => names(row.certification_types?.map(words)),
  },
  {
    name: 'Pest detections',
    source: ({ pest_detections: found = [] }) =>
      names(
        found.map(
          ({ pest_type, severity_level }) => `${pest_type ?? 'unknown'} (${severity_level ?? 'low'})`,
        ),
      ),
    made: (row) =>
      names((row.pest_events ?? []).map(({ pest_type, severity }) => `${pest_type} (${severity})`)),
  },
  { name: 'First published', made: (row) => time(row.published_at) },
];

/** One row for each type of sensor that any stage knows. */
function sensorRows({ source, snapshot, listing }) {
  const reading = ({ value, unit } = {}) => number(value, unit ? ` ${unit}` : '');
  const newest = (type) => {
    const known = (source?.sensors ?? []).filter((sensor) => sensor.sensor_type === type);
    const readings = known.map((sensor) => sensor.newest_reading).filter((one) => one?.reading_time);
    readings.sort((a, b) => new Date(b.reading_time) - new Date(a.reading_time));
    const [first] = readings;
    return first && reading({ value: first.reading_value, unit: first.reading_unit });
  };
  const types = new Set([
    ...(source?.sensors ?? []).map((sensor) => sensor.sensor_type),
    ...Object.keys(snapshot?.sensors ?? {}),
    ...Object.keys(listing?.sensors ?? {}),
  ]);
  return [...types].sort().map((type) => ({
    name: `Sensor: ${words(type)}`,
    source: () => newest(type),
    made: (row) => reading(row.sensors?.[type]),
  }));
}

/** Source, snapshot and listing side by side; what the listing says differently is marked, in words. */
export function drawTrace(trace) {
  const { source, snapshot, listing, override } = trace;
  const rows = [...ROWS, ...sensorRows(trace)].map((row) => {
    const cells = {
      source: source && row.source ? text(row.source(source)) : undefined,
      snapshot: snapshot ? text(row.made(snapshot, trace)) : undefined,
      listing: listing ? text(row.made(listing, trace)) : undefined,
    };
    const overridden = row.column !== undefined && override?.[row.column] != null;
    const differs =
      Boolean(snapshot && listing) && cells.snapshot !== cells.listing && !waitsAsTold(row, cells);
    return { ...row, cells, overridden, differs };
  });
  const cell = ({ cells, overridden, differs, pill }, stage) =>
    el(
      'td',
      { 'data-differs': stage === 'listing' && differs ? 'true' : undefined },
      cells[stage] === undefined
        ? el('span', { class: 'none' }, '–')
        : pill
          ? statusPill(cells[stage])
          : cells[stage],
      stage === 'snapshot' && overridden && el('span', { class: 'tag' }, 'overridden'),
      stage === 'listing' && differs && el('span', { class: 'tag', 'data-level': 'warn' }, '≠ differs'),
    );
  byId('trace').replaceChildren(
    el(
      'thead',
      {},
      el(
        'tr',
        {},
        el('td', {}),
        el('th', { scope: 'col' }, 'Source', el('span', { class: 'note' }, 'PostgreSQL, the application’s')),
        el('th', { scope: 'col' }, 'Snapshot', el('span', { class: 'note' }, 'what the listing must say')),
        el('th', { scope: 'col' }, 'Listing', el('span', { class: 'note' }, 'MongoDB, what buyers read')),
      ),
    ),
    el(
      'tbody',
      {},
      rows.map((row) =>
        el(
          'tr',
          {},
          el('th', { scope: 'row', title: row.title }, row.name),
          cell(row, 'source'),
          cell(row, 'snapshot'),
          cell(row, 'listing'),
        ),
      ),
    ),
  );
  setText(byId('trace-verdict'), verdictOf(trace, rows));
}

/** A snapshot on its way is not yet `published`; its listing, written before, is. */
const waitsAsTold = ({ name }, { snapshot, listing }) =>
  name === 'Status' && listing === 'published' && ['ready_to_publish', 'publishing'].includes(snapshot);

function verdictOf({ source, snapshot, listing, market_error: unknown }, rows) {
  if (unknown) return 'the listing is not known at the moment';
  if (!snapshot) return source ? 'not computed yet' : 'nothing known';
  if (!listing) return 'not on the market yet';
  const different = rows.filter(({ differs }) => differs).length;
  return different === 0 ? '✓ the listing says what the snapshot says' : `≠ ${different} differ`;
}
