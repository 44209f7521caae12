import { byId, el, setData, setHidden, setText, syncChildren, timeOf } from './elements.js';
import { count, duration, REVISION_TITLE, shortId, timeOfDay } from './format.js';
import { statusPill } from './status-pill.js';

const ROWS_MAX = 60;
const DRAW_MS = 400;
const PENDING = new Set(['ready_to_publish', 'publishing']);

/**
 * The latest changes, newest first, each with what became of it in MongoDB. Drawn a few times a second however fast they
 * come, and not at all while held still: moving rows can be neither read nor hit.
 */
export function mountChanges() {
  const body = byId('changes');
  const freeze = byId('freeze');
  let rows = [];
  let missed = 0;
  let timer;
  let frozen = false;

  const draw = () => {
    timer = undefined;
    setText(freeze, frozen ? `Go on${missed > 0 ? ` (${count(missed)} new)` : ''}` : 'Hold still');
    if (frozen) return;
    setHidden(byId('changes-empty'), rows.length > 0);
    syncChildren(body, rows, { key, create: createRow, update: updateRow, fallback: byId('changes-title') });
  };
  const later = () => {
    timer ??= setTimeout(draw, DRAW_MS);
  };
  const toggle = () => {
    frozen = !frozen;
    missed = 0;
    freeze.setAttribute('aria-pressed', String(frozen));
    draw();
  };
  freeze.addEventListener('click', toggle);

  return {
    changed(change) {
      rows = [{ ...change, at: change.updated_at }, ...rows.filter((row) => key(row) !== key(change))].slice(
        0,
        ROWS_MAX,
      );
      if (frozen) missed += 1;
      later();
    },
    published({ booking_id, revision, latency_ms }) {
      rows = rows.map((row) =>
        row.booking_id === booking_id && row.revision <= revision && row.published === undefined
          ? { ...row, published: { revision, latencyMs: latency_ms ?? undefined } }
          : row,
      );
      later();
    },
    unmount() {
      clearTimeout(timer);
      freeze.removeEventListener('click', toggle);
      if (frozen) toggle();
      body.replaceChildren();
    },
  };
}

const key = ({ booking_id, revision }) => `${booking_id} ${revision}`;

function createRow(change) {
  return el(
    'tr',
    { class: 'fresh' },
    el('td', { class: 'mono' }, timeOf(change.at, timeOfDay(change.at))),
    el(
      'td',
      { class: 'mono' },
      el(
        'a',
        { href: `#/booking/${change.booking_id}`, title: change.booking_id },
        shortId(change.booking_id),
      ),
    ),
    el('td', {}, change.crop_type ?? '–'),
    el('td', {}, statusPill(change.status)),
    el('td', { class: 'number', title: REVISION_TITLE }, count(change.revision)),
    el('td', { class: 'outcome' }),
  );
}

function updateRow(row, { published, revision, status }) {
  const cell = row.lastElementChild;
  const confirmed = published !== undefined && PENDING.has(status) && published.revision === revision;
  if (confirmed && row.dataset.confirmed === undefined) {
    row.children[3].replaceChildren(statusPill('published'));
    row.dataset.confirmed = 'true';
  }
  setData(cell, 'done', String(published !== undefined));
  if (published === undefined) {
    setText(cell, status === 'publishing' ? 'being written' : 'on its way');
  } else if (published.revision > revision) {
    setText(cell, `✓ in revision ${count(published.revision)}`);
  } else {
    setText(cell, published.latencyMs === undefined ? '✓ listed' : `✓ ${duration(published.latencyMs)}`);
  }
}
