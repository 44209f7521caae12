import { byId, el, mark, setHidden, setText } from './elements.js';
import { moment } from './format.js';
import { problemLines } from './notices.js';
import { statusPill } from './status-pill.js';
import { mountTimeline } from './timeline.js';
import { drawTrace } from './trace-table.js';

const QUIET_MS = 500;

/** What can be done with a booking as it stands. */
function actionsFor({ source, snapshot, manual_state: manual, state }) {
  const names = [];
  if (state?.parked_at) names.push('retry');
  if (manual?.state === 'withdrawn') return [...names, 'release', 'reconcile'];
  if (manual?.state === 'held') return [...names, 'release', 'withdraw', 'reconcile'];
  const ended = !source?.booking || ['completed', 'cancelled'].includes(source.booking.booking_status);
  if (ended) return [...names, 'reconcile'];
  return [...names, ...(snapshot ? ['publish'] : []), 'reconcile', 'hold', 'withdraw'];
}

/**
 * One booking: how it stands, what can be done with it, its three stages and its history. Read again after an action and
 * whenever something happens to it.
 */
export function mountBooking({ api, actions }, bookingId) {
  const timeline = mountTimeline({ api, bookingId });
  let stopped = false;
  let timer;
  let drawn = '';

  setText(byId('booking-title'), `Booking ${bookingId}`);

  const draw = (trace) => {
    const { snapshot, source, manual_state: manual, state, override } = trace;
    const crop = snapshot?.crop_type ?? source?.booking?.crop_type;
    byId('booking-facts').replaceChildren(
      ...[crop && el('strong', {}, crop), snapshot && statusPill(snapshot.status)].filter(Boolean),
      snapshot
        ? ` updated ${moment(snapshot.updated_at)}`
        : source
          ? ' not computed yet'
          : ' there is no such booking',
    );
    byId('booking-notes').replaceChildren(
      ...notesOf({ manual, state, override, unread: trace.market_error }),
    );
    const names = actionsFor(trace);
    // Buttons stay while they are the same, and with them the focus.
    if (names.join() !== drawn) {
      const had = byId('booking-actions').contains(document.activeElement);
      byId('booking-actions').replaceChildren(...actions.bookingButtons(names, { bookingId, crop }));
      drawn = names.join();
      if (had) byId('booking-title').focus();
    }
    drawTrace(trace);
  };

  const refresh = async () => {
    clearTimeout(timer);
    timer = undefined;
    try {
      const [trace] = await Promise.all([
        api.get(`/storage-guard/snapshots/${bookingId}/trace`),
        timeline.refresh(),
      ]);
      if (!stopped) draw(trace);
    } catch (error) {
      if (stopped) return;
      byId('booking-notes').replaceChildren(
        el('div', { class: 'problem', role: 'alert' }, problemLines(error)),
      );
    }
  };

  setHidden(byId('booking'), false);
  const ready = refresh();
  return {
    bookingId,
    ready,
    /** Something happened to it; several things at once are read once. */
    touched() {
      timer ??= setTimeout(refresh, QUIET_MS);
    },
    refresh,
    unmount() {
      stopped = true;
      clearTimeout(timer);
      timeline.unmount();
      setHidden(byId('booking'), true);
      for (const id of ['booking-actions', 'booking-notes', 'booking-facts', 'trace'])
        byId(id).replaceChildren();
    },
  };
}

/** What is out of the ordinary, each as a line with its shape. */
function notesOf({ manual, state, override, unread }) {
  const notes = [];
  const add = (level, ...lines) =>
    notes.push(el('div', { class: 'callout', 'data-level': level }, mark(level), el('div', {}, lines)));
  if (unread) add('bad', el('p', {}, el('strong', {}, 'MongoDB could not be asked: '), unread));
  if (manual) {
    const line = `${manual.state === 'held' ? 'Held' : 'Withdrawn'} by ${manual.actor} since ${moment(manual.since)}`;
    add('warn', el('p', {}, el('strong', {}, `${line}: `), manual.reason));
  }
  if (state?.parked_at) {
    add(
      'bad',
      el('p', {}, el('strong', {}, `Parked since ${moment(state.parked_at)}, ${state.attempts} attempts.`)),
      el('p', { class: 'error-text' }, state.last_error ?? ''),
    );
  } else if (state?.last_error) {
    add('warn', el('p', {}, el('strong', {}, 'Failed, and is tried again: '), state.last_error));
  }
  if (override) {
    const ends = override.expires_at ? `, until ${moment(override.expires_at)}` : '';
    const line = `Overridden by ${override.actor} since ${moment(override.set_at)}${ends}`;
    add('idle', el('p', {}, el('strong', {}, `${line}: `), override.reason));
  }
  return notes;
}
