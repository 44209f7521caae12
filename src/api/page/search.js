import { byId, el } from './elements.js';
import { count, moment, shortId } from './format.js';
import { problemLines } from './notices.js';
import { statusPill } from './status-pill.js';

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const FOUND_MAX = 50;
const SNAPSHOTS = '/storage-guard/snapshots';

export const isUuid = (text) => UUID.test(text);

/** The search field: `/` goes to it, Enter looks. A booking's id opens the booking; anything else lists snapshots. */
export function mountSearch() {
  const [form, text] = [byId('search'), byId('search-text')];
  const submit = (event) => {
    event.preventDefault();
    const asked = text.value.trim();
    if (asked !== '') location.hash = `#/find/${encodeURIComponent(asked)}`;
  };
  const focus = (event) => {
    const typing = event.target.closest?.('input, textarea, select, dialog');
    if (event.key !== '/' || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    text.focus();
    text.select();
  };
  form.addEventListener('submit', submit);
  document.addEventListener('keydown', focus);
  return () => {
    form.removeEventListener('submit', submit);
    document.removeEventListener('keydown', focus);
    text.value = '';
  };
}

/** What is found for a text. Answers the id when it is one booking, which is then shown instead of a list. */
export async function find(api, text) {
  if (!isUuid(text)) return { rows: await list(api, { crop_type: text }), by: `crop “${text}”` };
  const id = text.toLowerCase();
  const [byLocation, byFarmer] = await Promise.all([
    list(api, { location_id: id }),
    list(api, { farmer_id: id }),
  ]);
  if (byLocation.length > 0) return { rows: byLocation, by: `location ${id}` };
  if (byFarmer.length > 0) return { rows: byFarmer, by: `farmer ${id}` };
  try {
    await api.get(`${SNAPSHOTS}/${id}/trace`);
    return { bookingId: id };
  } catch (error) {
    if (error.status === 404) return { rows: [], by: `booking, location or farmer ${id}` };
    throw error;
  }
}

const list = async (api, filter) =>
  (await api.get(`${SNAPSHOTS}?${new URLSearchParams({ ...filter, limit: FOUND_MAX })}`)).snapshots;

/** The list of what was found, or the words that nothing was. */
export function showFound({ rows, by }) {
  const body = byId('found-body');
  if (rows.length === 0) {
    body.replaceChildren(
      el(
        'p',
        { class: 'empty' },
        `Nothing for ${by}. Ids and crops are matched whole, crops as they are written in the booking.`,
      ),
    );
    return;
  }
  const more = rows.length === FOUND_MAX ? `The first ${count(FOUND_MAX)}` : count(rows.length);
  body.replaceChildren(
    el('p', { class: 'note aside' }, `${more} for ${by}.`),
    el(
      'div',
      { class: 'scroll' },
      el(
        'table',
        { class: 'rows' },
        el(
          'thead',
          {},
          el(
            'tr',
            {},
            HEADS.map((head) => el('th', { scope: 'col', class: head === 'Quantity' && 'number' }, head)),
          ),
        ),
        el('tbody', {}, rows.map(createRow)),
      ),
    ),
  );
}

export function showFailedSearch(error) {
  byId('found-body').replaceChildren(el('div', { class: 'problem', role: 'alert' }, problemLines(error)));
}

const HEADS = ['Booking', 'Crop', 'Quantity', 'Status', 'Updated'];

const createRow = (snapshot) =>
  el(
    'tr',
    {},
    el(
      'td',
      { class: 'mono' },
      el(
        'a',
        { href: `#/booking/${snapshot.booking_id}`, title: snapshot.booking_id },
        shortId(snapshot.booking_id),
      ),
    ),
    el('td', {}, snapshot.crop_type),
    el('td', { class: 'number' }, `${count(snapshot.quantity_kg)} kg`),
    el('td', {}, statusPill(snapshot.status)),
    el('td', {}, moment(snapshot.updated_at)),
  );
