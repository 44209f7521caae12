import { byId, el, setHidden, timeOf } from './elements.js';
import { moment, REVISION_TITLE, revisionIn, words } from './format.js';
import { noticeFailed } from './notices.js';
import { statusPill } from './status-pill.js';

const PAGE = 20;
const CAUSES = {
  new: 'First computed',
  manual: 'Changed by hand',
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

/** Actions that change what buyers see. */
const CHANGING = new Set(['hold', 'release', 'withdraw', 'set_override', 'end_override']);
const SAME_MOMENT_MS = 2_000;
/** A revision of one of these is what buyers saw as `published`, once MongoDB had it. */
const ON_MARKET = new Set(['ready_to_publish', 'publishing', 'published']);

/**
 * Revisions and manual actions of one booking in one list, the newest first. What somebody did and the revision it made
 * are one entry.
 */
export function mountTimeline({ api, bookingId }) {
  const [list, more] = [byId('history'), byId('history-more')];
  const path = `/storage-guard/snapshots/${bookingId}/history?limit=${PAGE}`;
  let cursor = null;
  let revisions = [];
  let actions = [];
  let stopped = false;

  const draw = () => {
    const epochs = revisions.map(({ epoch }) => epoch);
    const made = pairUp(actions, revisions);
    const alone = revisions.filter((revision) => ![...made.values()].includes(revision));
    const entries = [
      ...alone.map((revision) => ({ at: revision.at, item: () => createRevision(revision, epochs) })),
      ...actions.map((action) => ({
        at: action.at,
        item: () => createAction(action, made.get(action), epochs),
      })),
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

/** The revision that each action made: the nearest by hand of the same moment, each of one action. */
function pairUp(actions, revisions) {
  const pairs = actions
    .filter(({ action }) => CHANGING.has(action))
    .flatMap((action) =>
      revisions
        .filter(({ cause }) => cause === 'manual')
        .map((revision) => ({
          action,
          revision,
          apart: Math.abs(new Date(action.at) - new Date(revision.at)),
        })),
    )
    .filter(({ apart }) => apart <= SAME_MOMENT_MS)
    .sort((a, b) => a.apart - b.apart);
  const made = new Map();
  const taken = new Set();
  for (const { action, revision } of pairs) {
    if (made.has(action) || taken.has(revision)) continue;
    made.set(action, revision);
    taken.add(revision);
  }
  return made;
}

const statusOf = ({ status }) =>
  ON_MARKET.has(status) ? statusPill('published', 'on the market') : statusPill(status);

const numberOf = (word, revision, epochs) =>
  el('span', { title: REVISION_TITLE }, `${word} ${revisionIn(revision, epochs)}`);

const createRevision = (revision, epochs) =>
  el(
    'li',
    { class: 'entry', 'data-kind': 'revision' },
    el(
      'p',
      { class: 'entry-head' },
      el('strong', {}, numberOf('Revision', revision, epochs)),
      statusOf(revision),
    ),
    el('p', {}, CAUSES[revision.cause] ?? words(revision.cause)),
    el('p', { class: 'note' }, timeOf(revision.at, moment(revision.at))),
  );

const createAction = ({ at, action, actor, via, reason }, revision, epochs) =>
  el(
    'li',
    { class: 'entry', 'data-kind': 'action' },
    el(
      'p',
      { class: 'entry-head' },
      el('strong', {}, DONE[action] ?? words(action)),
      el('span', { class: 'tag' }, 'by hand'),
      revision && statusOf(revision),
    ),
    reason && el('p', {}, `“${reason}”`),
    el(
      'p',
      { class: 'note' },
      `${actor}, via ${via === 'http' ? 'the API' : 'SQL'}, `,
      timeOf(at, moment(at)),
      revision && ', ',
      revision && numberOf('revision', revision, epochs),
    ),
  );
