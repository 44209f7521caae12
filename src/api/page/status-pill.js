import { el, mark } from './elements.js';
import { words } from './format.js';

const LEVELS = {
  published: 'ok',
  ready_to_publish: 'idle',
  publishing: 'idle',
  completed: 'done',
  withdrawn: 'gone',
  held: 'warn',
  parked: 'bad',
  queued: 'idle',
  running: 'ok',
  done: 'done',
  failed: 'bad',
  cancelled: 'warn',
};

export const levelOf = (status) => LEVELS[status] ?? 'idle';

/** A status as a word with a shape, so that neither needs the colour. `text`: what it is called here. */
export const statusPill = (status, text = words(status)) =>
  el('span', { class: 'pill', 'data-level': levelOf(status) }, mark(levelOf(status)), text);
