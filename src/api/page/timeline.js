import { byId, el, setHidden, timeOf } from './elements.js';
import { moment, words } from './format.js';
import { noticeFailed } from './notices.js';
import { statusPill } from './status-pill.js';

const PAGE = 20;
const CAUSES = {
  new: 'First computed',
  own: 'The booking or its status changed',
  parts: 'Its inspection, sensors, pests, certificates or override changed',
  epoch: 'History was cut: written again',
};

const DONE = {
  hold: 'Held',
  release: 'Released',
  withdraw: 'Withdrawn',
  publish_now: 'Published now',
  reconcile: 'Recomputed',
  retry_parked: 'Tried again',
  set_override: 'Override set',
  end_override: 'Override ended',
};

/** Revisions and manual actions of one booking in one list, the newest first. */
export function mountTimeline({ api, bookingId }) {
  const [list, more] = [byId('history'), byId('history-more')];
  const path = `/storage-guard/snapshots/${bookingId}/history?limit=${PAGE}`;
  let cursor = null;
  let revisions = [];
  let actions = [];
  let stopped = false;

  const draw = () => {
    const entries = [
      ...revisions.map((revision) => ({ at: revision.at, item: () => createRevision(revision) })),
      ...actions.map((action) => ({ at: action.at, item: () => createAction(action) })),
    ].sort((a, b) => new Date(b.at) - new Date(a.at));
    list.replaceChildren(...entries.map(({ item }) => item()));
    setHidden(byId('history-empty'), entries.length > 0);
    setHidden(more, cursor === null);
  };

  const refresh = async () => {
    const answer = await api.get(path);
    if (stopped) return;
    ({ revisions, actions } = answer);
    cursor = answer.next_cursor ?? null;
    draw();
  };

  const showOlder = async () => {
    try {
      const answer = await api.get(`${path}&cursor=${encodeURIComponent(cursor)}`);
      if (stopped) return;
      actions = [...actions, ...answer.actions];
      cursor = answer.next_cursor ?? null;
      draw();
    } catch (error) {
      noticeFailed('The history could not be read', error);
    }
  };
  more.addEventListener('click', showOlder);

  return {
    refresh,
    unmount() {
      stopped = true;
      more.removeEventListener('click', showOlder);
      list.replaceChildren();
    },
  };
}

const createRevision = ({ epoch, revision, at, status, cause }) =>
  el(
    'li',
    { class: 'entry', 'data-kind': 'revision' },
    el('p', { class: 'entry-head' }, el('strong', {}, `Revision ${epoch}.${revision}`), statusPill(status)),
    el('p', {}, CAUSES[cause] ?? words(cause)),
    el('p', { class: 'note' }, timeOf(at, moment(at))),
  );

const createAction = ({ at, action, actor, via, reason }) =>
  el(
    'li',
    { class: 'entry', 'data-kind': 'action' },
    el(
      'p',
      { class: 'entry-head' },
      el('strong', {}, DONE[action] ?? words(action)),
      el('span', { class: 'tag' }, 'by hand'),
    ),
    reason && el('p', {}, `“${reason}”`),
    el(
      'p',
      { class: 'note' },
      `${actor}, via ${via === 'http' ? 'the API' : 'SQL'}, `,
      timeOf(at, moment(at)),
    ),
  );
