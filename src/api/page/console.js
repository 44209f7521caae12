import { createActions } from './actions.js';
import { mountBooking } from './booking.js';
import { mountChanges } from './changes.js';
import { mountCurves } from './curves.js';
import { byId, el, setData, setHidden, setText } from './elements.js';
import { readEventStream } from './event-stream.js';
import { timeOfDay } from './format.js';
import { mountJobs } from './jobs.js';
import { announce } from './notices.js';
import { mountQueue } from './queue.js';
import { toReadings } from './readings.js';
import { find, isUuid, mountSearch, showFailedSearch, showFound } from './search.js';
import { createSeries } from './series.js';
import { createStore } from './store.js';
import { mountStrip } from './strip.js';
import { mountTheme } from './theme.js';
import { mountVerdict } from './verdict.js';
import { mountHeld, mountParked } from './waiting-lists.js';

let recolour = () => {};
mountTheme(byId('theme'), () => recolour());
byId('skip').addEventListener('click', (event) => {
  event.preventDefault(); // The address says what is shown; this is only a place in it.
  byId('content').focus();
});

/** The whole page of one session. Answers how to take it away. */
export function mountConsole({ api, session }) {
  const store = createStore({ readings: undefined, readAt: Date.now(), live: { state: 'connecting' } });
  const series = createSeries();
  let booking;

  const actions = createActions({
    api,
    session,
    onActed(_, bookingId) {
      for (const list of [parked, held, jobs]) void list.refresh();
      if (bookingId !== undefined && bookingId === booking?.bookingId) void booking.refresh();
    },
  });
  const ctx = { api, session, store, actions, series };
  setHidden(byId('console'), false);
  showSession(session);
  const [parked, held, jobs] = [mountParked(ctx), mountHeld(ctx), mountJobs(ctx)];
  const [changes, curves] = [mountChanges(), mountCurves(ctx)];
  recolour = curves.recolour;

  const stopEvents = readEventStream((signal) => api.open('/pipeline/events', signal), {
    lost: (reason) => store.set({ live: { state: 'lost', reason } }),
    event(name, data) {
      if (name === 'status' && !data.available) {
        store.set({ live: { state: 'blind', reason: 'The API cannot reach PostgreSQL.' } });
      } else if (name === 'status') {
        const readings = toReadings(data);
        series.add(readings, Date.now() / 1_000);
        store.set({ readings, readAt: Date.now(), live: { state: 'live' } });
      } else if (name === 'change') {
        series.saw('changes');
        changes.changed(data);
      } else if (name === 'published') {
        series.saw('published');
        changes.published(data);
      }
      if (booking !== undefined && data.booking_id === booking.bookingId) booking.touched();
    },
  });

  const stopRouting = followAddress({
    overview: () => {
      booking = replaceBooking(booking);
    },
    booking: (id) => {
      booking = replaceBooking(booking, () => mountBooking(ctx, id));
    },
    find: (text) => find(api, text),
  });

  const parts = [
    mountVerdict(ctx),
    mountStrip(ctx),
    mountQueue(ctx),
    mountSearch(),
    store.watch(showLive),
    stopEvents,
    stopRouting,
    ...[changes, curves, parked, held, jobs].map(({ unmount }) => unmount),
    () => replaceBooking(booking),
  ];
  return () => {
    for (const stop of parts) stop();
    recolour = () => {};
    if (byId('ask').open) byId('ask').close();
    setHidden(byId('console'), true);
  };
}

function replaceBooking(before, mount) {
  before?.unmount();
  return mount?.();
}

/** Shows what the address asks for: `#/`, `#/booking/ID`, `#/find/TEXT`. */
function followAddress(show) {
  let turn = 0;
  const follow = async () => {
    turn += 1;
    const mine = turn;
    const [, page, rest = ''] = /^#\/(booking|find)\/(.+)$/.exec(location.hash) ?? [];
    const text = decode(rest);
    setHidden(byId('overview'), page !== undefined);
    // What is no id never becomes part of a call's address.
    setHidden(byId('found'), page === undefined || (page === 'booking' && isUuid(text)));
    show.overview();
    // What was looked for does not stand above what is not an answer to it.
    if (page === undefined) byId('search-text').value = '';
    document.title = page === undefined ? 'market-sync' : `${text} · market-sync`;
    if (page === 'booking' && isUuid(text)) {
      show.booking(text);
      byId('booking-title').focus();
    } else if (page !== undefined) {
      byId('found-body').replaceChildren(el('p', { class: 'empty' }, 'Looking…'));
      byId('found-title').focus();
      try {
        const found = await show.find(text);
        if (mine !== turn) return;
        if (found.bookingId !== undefined) location.replace(`#/booking/${found.bookingId}`);
        else showFound(found);
      } catch (error) {
        if (mine === turn) showFailedSearch(error);
      }
    }
  };
  addEventListener('hashchange', follow);
  void follow();
  return () => removeEventListener('hashchange', follow);
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function showSession({ name, role }) {
  announce(`Logged in as ${name}, ${role}.`);
  byId('who').replaceChildren(el('span', { class: 'who-name' }, name), el('span', { class: 'tag' }, role));
}

const LIVE = {
  connecting: { level: 'idle', text: 'Connecting' },
  live: { level: 'ok', text: 'Live' },
  lost: { level: 'bad', text: 'Not live' },
  blind: { level: 'bad', text: 'No figures' },
};

/** A clock that stands still says it, too. */
function showLive({ live, readings, readAt }) {
  const { level, text } = LIVE[live.state];
  const [shape, word, time] = byId('live').children;
  setData(shape, 'level', level);
  setText(word, text);
  setText(time, readings === undefined ? '' : timeOfDay(readAt));
}
