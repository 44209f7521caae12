import { byId, el, mark, setData, setText } from './elements.js';
import { age, bytes, count, duration, moment } from './format.js';

const LAG_WARNING_SECONDS = 10;
const BEHIND_WARNING_SECONDS = 30;
const LATENCY_WARNING_MS = 5_000;
const SLOT_LEVELS = { ok: 'ok', none: 'idle', filling: 'bad', lost: 'bad', missing: 'bad' };

/** Each cell: its name, and what it says of the readings: `{text, note, level}`. */
const CELLS = [
  {
    name: 'Pipeline',
    read: ({ paused }) =>
      paused
        ? { level: 'warn', text: 'paused', note: `by ${paused.by ?? 'somebody'}, ${age(paused.since)} ago` }
        : { level: 'ok', text: 'running', note: 'not paused' },
  },
  {
    name: 'Consumer',
    read: ({ consumer }) => ({
      level: consumer.state === 'active' ? 'ok' : 'bad',
      text: consumer.state,
      note: consumer.holder ?? 'nobody holds the lease',
    }),
  },
  {
    name: 'Slot',
    read: ({ slot }) => ({
      level: SLOT_LEVELS[slot.state] ?? 'warn',
      text: slot.state === 'none' ? 'not made yet' : slot.active ? `${slot.state}, active` : slot.state,
      note: `keeps ${bytes(slot.retainedBytes)} of WAL`,
    }),
  },
  {
    name: 'Publisher',
    read: ({ publisher: { claims, lastConfirmedAt, behindSeconds } }) => ({
      level: behindSeconds > BEHIND_WARNING_SECONDS ? 'warn' : 'ok',
      text: claims > 0 ? `${count(claims)} in work` : behindSeconds > 0 ? 'waiting' : 'up to date',
      note: confirmedNote(lastConfirmedAt),
    }),
  },
  {
    name: 'Lag',
    read: ({ lagBytes, lagSeconds }) => ({
      level: lagSeconds > LAG_WARNING_SECONDS ? 'warn' : 'ok',
      text: lagSeconds === undefined ? bytes(lagBytes) : duration(lagSeconds * 1_000),
      note: `${bytes(lagBytes)} of WAL`,
    }),
  },
  {
    name: 'Commit → listing',
    read: ({ latency: { p50Ms, p99Ms, minutes } }) =>
      p99Ms === undefined
        ? { level: 'idle', text: 'no change', note: 'in the last hour' }
        : {
            level: p99Ms > LATENCY_WARNING_MS ? 'warn' : 'ok',
            text: duration(p50Ms),
            note: `median; p99 ${duration(p99Ms)} (${minutes} min)`,
          },
  },
  {
    name: 'Parked and held',
    read: ({ snapshots: { parked, held } }) => ({
      level: parked > 0 ? 'bad' : held > 0 ? 'warn' : 'ok',
      text: `${count(parked)} and ${count(held)}`,
      note:
        parked > 0 ? 'parked ones need a look' : held > 0 ? 'off the market by hand' : 'nothing kept back',
    }),
  },
  {
    name: 'Epoch',
    read: ({ epoch, resync }) => ({
      level: resync ? 'warn' : 'ok',
      text: count(epoch),
      note: resync ? `resync: ${resync.phase}, ${count(resync.done)} done` : 'no resync under way',
    }),
  },
];

/** It is told to the minute: that the minute has begun says nothing of how many seconds ago it was. */
function confirmedNote(minute) {
  if (minute === undefined) return 'nothing confirmed today';
  const isThisOne = Date.now() - new Date(minute).getTime() < 60_000;
  return isThisOne ? 'confirming this minute' : `last at ${moment(minute).slice(0, -3)}`;
}

/** State at a glance: one row of cells that are there from the start, so that nothing jumps. */
export function mountStrip({ store }) {
  const strip = byId('strip');
  const cells = CELLS.map(({ name, read }) => {
    const [text, note] = [el('span', { class: 'value' }, '–'), el('span', { class: 'note' }, ' ')];
    const shape = mark('idle');
    strip.append(el('div', { class: 'cell' }, el('dt', {}, name), el('dd', {}, shape, text, note)));
    return { read, text, note, shape };
  });
  const unwatch = store.watch(({ readings, live }) => {
    setData(strip, 'stale', String(live.state !== 'live'));
    if (readings === undefined) return;
    for (const cell of cells) {
      const said = cell.read(readings);
      setText(cell.text, said.text);
      setText(cell.note, said.note);
      setData(cell.shape, 'level', said.level);
    }
  });
  return () => {
    unwatch();
    strip.replaceChildren();
  };
}
