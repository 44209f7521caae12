import { byId, el, mark, setData, setText, syncChildren } from './elements.js';
import { bytes, count, duration, moment } from './format.js';
import { announce } from './notices.js';
import { waiting } from './readings.js';
import { may } from './session.js';

const LAG_WARNING_SECONDS = 10;
const BEHIND_WARNING_SECONDS = 30;
const STALE_MS = 5_000;
const LEVELS = ['ok', 'warn', 'bad'];

/** What somebody on call must know, the worst first: `{level, title, findings: [{level, text}]}`. */
function judge({ readings, readAt, live }, now) {
  if (readings === undefined) {
    const level = live.reason === undefined ? 'idle' : 'bad';
    const text = live.reason ?? 'The first figures come within a second or two.';
    return { level, title: 'No figures yet', findings: [{ level, text }] };
  }
  const findings = [...findTrouble(readings), ...staleness({ readAt, live }, now)];
  findings.sort((a, b) => LEVELS.indexOf(b.level) - LEVELS.indexOf(a.level));
  const level = findings[0]?.level ?? 'ok';
  const toPublish = waiting(readings, 'to_publish');
  const behind = readings.lagSeconds === undefined ? '' : `, ${duration(readings.lagSeconds * 1_000)} behind`;
  const title = {
    ok: `Running${behind}`,
    warn: readings.paused ? 'Paused' : 'Running, with something to look at',
    bad: 'Needs you now',
  }[level];
  if (findings.length === 0) {
    const text =
      toPublish > 0 ? `${count(toPublish)} on their way to MongoDB.` : 'Every listing is up to date.';
    findings.push({ level: 'ok', text });
  }
  return { level, title, findings };
}

function findTrouble({ consumer, slot, publisher, paused, resync, lagSeconds, snapshots }) {
  const found = [];
  const add = (level, text) => found.push({ level, text });
  if (paused) {
    const reason = paused.reason ? `: “${paused.reason}”` : '';
    const by = paused.by ? ` by ${paused.by}` : '';
    add('warn', `Paused${by} since ${moment(paused.since)}${reason}. Changes wait in the slot.`);
  }
  if (consumer.state !== 'active') {
    add('bad', 'No consumer is active: changes wait in the slot. Start a pipeline: market-sync pipeline');
  }
  if (slot.state === 'lost' || slot.state === 'missing') {
    add(
      'bad',
      `The replication slot is ${slot.state}: changes may be gone, and everything will be resynced.`,
    );
  } else if (slot.state === 'filling') {
    const left = slot.safeBytes === undefined ? 'little' : bytes(slot.safeBytes);
    add('bad', `The slot keeps more and more WAL, ${left} more before it is lost. Find what holds it up.`);
  }
  if (!paused && publisher.behindSeconds > BEHIND_WARNING_SECONDS) {
    add('warn', `A change waits for MongoDB since ${duration(publisher.behindSeconds * 1_000)}.`);
  }
  if (!paused && lagSeconds > LAG_WARNING_SECONDS) {
    add('warn', `The newest change not yet recomputed is ${duration(lagSeconds * 1_000)} old.`);
  }
  if (resync) {
    add(
      'warn',
      `A resync is under way (${resync.reason}): ${resync.phase}, ${count(resync.done)} bookings done.`,
    );
  }
  if (snapshots.parked > 0) {
    add('warn', `${count(snapshots.parked)} parked: failed too often, left alone until retried or changed.`);
  }
  return found;
}

function staleness({ readAt, live }, now) {
  const ageMs = now - readAt;
  if (live.state === 'live' && ageMs < STALE_MS) return [];
  const why = live.reason ? ` ${live.reason}` : '';
  return [{ level: 'bad', text: `These figures are ${duration(ageMs)} old.${why} Trying again.` }];
}

/** The headline. A change of it, not of its figures, is announced. */
export function mountVerdict({ store, session, actions }) {
  const pause = actions.pipelineButton('pause');
  const resume = actions.pipelineButton('resume');
  const resync = actions.pipelineButton('resync');
  const list = byId('verdict-actions');
  let announced = '';

  const show = (state) => {
    const { level, title, findings } = judge(state, Date.now());
    setData(byId('verdict'), 'level', level);
    setText(byId('verdict-title'), title);
    syncChildren(byId('verdict-findings'), findings, {
      key: ({ level: worth, text }) => worth + text.replaceAll(/\d/g, ''),
      create: (finding) => el('li', {}, mark(finding.level), el('span', {})),
      update: (item, { text }) => setText(item.lastElementChild, text),
    });
    const worst = findings.map(({ text }) => text.replaceAll(/[\d.,]+/g, '')).join();
    if (level + worst !== announced && state.readings !== undefined) {
      if (announced !== '') announce(`${title}. ${findings.map(({ text }) => text).join(' ')}`);
      announced = level + worst;
    }
    if (!may(session, 'admin')) return;
    const paused = state.readings?.paused;
    const offered = state.readings === undefined ? [] : [paused ? resume : pause, resync];
    syncChildren(list, offered, { key: (button) => button.id, create: (button) => button });
  };
  const timer = setInterval(() => show(store.get()), 1_000);
  const unwatch = store.watch(show);
  return () => {
    clearInterval(timer);
    unwatch();
    list.replaceChildren();
  };
}
