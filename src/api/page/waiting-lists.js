import { byId, el, setHidden, setText, syncChildren, timeOf } from './elements.js';
import { count, moment, shortId } from './format.js';
import { announce } from './notices.js';
import { statusPill } from './status-pill.js';

const PAGE = 10;
const ROWS_MAX = 100;
const REFRESH_MS = 15_000;

/** What is parked: why, since when, and another try. */
export const mountParked = (ctx) =>
  mountList(ctx, {
    name: 'parked',
    read: async (api, limit) => {
      const { parked, next_cursor } = await api.get(`/pipeline/parked?limit=${limit}`);
      return { items: parked, hasMore: next_cursor !== null };
    },
    known: ({ snapshots }) => snapshots.parked,
    content: (parked) => [
      el(
        'p',
        { class: 'card-head' },
        bookingLink(parked),
        statusPill('parked'),
        el('span', { class: 'note' }, `at ${parked.stage}, ${count(parked.attempts)} attempts`),
      ),
      el('p', { class: 'error-text' }, parked.error),
      el('p', { class: 'note' }, 'since ', timeOf(parked.parked_at, moment(parked.parked_at))),
    ],
    actions: () => ['retry', 'hold', 'withdraw'],
  });

/** What people keep off the market: who, why, since when, and the way back. */
export const mountHeld = (ctx) =>
  mountList(ctx, {
    name: 'held',
    read: async (api, limit) => {
      const states = ['held', 'withdrawn'];
      const pages = await Promise.all(
        states.map((state) => api.get(`/pipeline/held?state=${state}&limit=${limit}`)),
      );
      const items = pages.flatMap(({ held }) => held).sort((a, b) => new Date(b.since) - new Date(a.since));
      return { items, hasMore: pages.some(({ next_cursor }) => next_cursor !== null) };
    },
    known: ({ snapshots }) => snapshots.held,
    content: (held) => [
      el('p', { class: 'card-head' }, bookingLink(held), statusPill(held.state)),
      el('p', {}, held.reason),
      el('p', { class: 'note' }, `by ${held.actor}, since `, timeOf(held.since, moment(held.since))),
    ],
    actions: ({ state }) => (state === 'held' ? ['release', 'withdraw'] : ['release']),
  });

const bookingLink = ({ booking_id, crop_type }) =>
  el(
    'a',
    { href: `#/booking/${booking_id}`, title: booking_id },
    ...(crop_type ? [`${crop_type} `] : []),
    el('span', { class: 'mono' }, shortId(booking_id)),
  );

/**
 * A list kept up to date: read again after every action, when the status counts another number than is shown, and every
 * now and then.
 */
function mountList({ api, store, actions }, { name, read, known, content, actions: namesOf }) {
  const list = byId(name);
  const more = byId(`${name}-more`);
  let limit = PAGE;
  let shown;
  let stopped = false;

  const createCard = (item) => {
    const target = { bookingId: item.booking_id, crop: item.crop_type };
    const buttons = actions.bookingButtons(namesOf(item), target);
    return el(
      'li',
      { class: 'card' },
      el('div', { class: 'card-text' }, content(item)),
      el('div', { class: 'actions' }, buttons),
    );
  };
  const draw = (items, hasMore) => {
    syncChildren(list, items, {
      // An item that says something else is another one: a card is drawn once. So is yesterday's, whose times need a date.
      key: (item) => new Date().toDateString() + JSON.stringify(item),
      create: createCard,
      fallback: byId(`${name}-title`),
    });
    setText(
      byId(`${name}-count`),
      items.length === 0 ? '' : `${count(items.length)}${hasMore ? ' and more' : ''}`,
    );
    setHidden(byId(`${name}-empty`), items.length > 0);
    setHidden(more, !hasMore || limit >= ROWS_MAX);
  };

  const refresh = oneAtATime(async () => {
    try {
      const { items, hasMore } = await read(api, limit);
      if (!stopped) draw(items, hasMore);
    } catch (error) {
      // What was read last stays, and is read again.
      if (!stopped) setText(byId(`${name}-count`), `not read: ${error.message}`);
    }
  });

  const showMore = async () => {
    limit = Math.min(limit * 3, ROWS_MAX);
    await refresh();
    announce(`${list.children.length} shown`);
  };
  more.addEventListener('click', showMore);
  const unwatch = store.watch(({ readings }) => {
    if (readings === undefined) return;
    const number = known(readings);
    if (shown !== undefined && shown !== number) void refresh();
    shown = number;
  });
  const timer = setInterval(refresh, REFRESH_MS);
  void refresh();

  return {
    refresh,
    unmount() {
      stopped = true;
      clearInterval(timer);
      unwatch();
      more.removeEventListener('click', showMore);
      list.replaceChildren();
    },
  };
}

/** Of calls while one is under way, one more follows, which sees what all of them were for. */
function oneAtATime(work) {
  let running;
  let next;
  return function run() {
    if (running === undefined) {
      running = work().finally(() => {
        running = undefined;
      });
      return running;
    }
    next ??= running.then(() => {
      next = undefined;
      return run();
    });
    return next;
  };
}
