import { byId, el, mark, setData, setText } from './elements.js';
import { count, duration } from './format.js';

/** What waits, in the order of a snapshot's way; the level it has when there is any. */
const STATES = [
  { state: 'to_publish', name: 'To publish', level: 'idle' },
  { state: 'in_work', name: 'Being published', level: 'ok' },
  { state: 'waiting_for_retry', name: 'Waiting to be tried again', level: 'warn' },
  { state: 'parked', name: 'Parked', level: 'bad' },
  { state: 'held', name: 'Held by hand', level: 'warn' },
  { state: 'due_for_refresh', name: 'Due for refresh', level: 'idle' },
];

/** What there is: nothing of it waits. */
const TOTALS = [
  { of: 'on_market', name: 'On the market', level: 'none' },
  { of: 'ended', name: 'Completed or withdrawn', level: 'none' },
  { of: 'total', name: 'Snapshots in all', level: 'none' },
];

/** Counts by status, with how long the oldest has waited. */
export function mountQueue({ store, actions }) {
  const list = byId('queue');
  const rows = [...STATES, ...TOTALS].map((known) => {
    const [number, oldest, shape] = [
      el('span', { class: 'value' }, '–'),
      el('span', { class: 'note' }),
      mark('none'),
    ];
    list.append(el('div', {}, el('dt', {}, shape, known.name), el('dd', {}, oldest, number)));
    return { ...known, number, oldest, shape };
  });
  const publishAll = actions.pipelineButton('syncAll');
  if (publishAll !== undefined) {
    publishAll.classList.add('small');
    byId('queue-actions').append(publishAll);
  }
  const unwatch = store.watch(({ readings }) => {
    if (readings === undefined) return;
    for (const row of rows) {
      const found =
        row.of === undefined
          ? readings.queue.find(({ state }) => state === row.state)
          : { count: readings.snapshots[row.of] };
      setText(row.number, count(found?.count));
      setData(row.shape, 'level', found?.count > 0 ? row.level : 'none');
      const waited = found?.count > 0 && found.oldestSeconds !== undefined;
      setText(row.oldest, waited ? `oldest ${duration(Math.max(0, found.oldestSeconds) * 1_000)}` : '');
    }
  });
  return () => {
    unwatch();
    list.replaceChildren();
    byId('queue-actions').replaceChildren();
  };
}
