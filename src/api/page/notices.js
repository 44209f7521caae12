import { byId, el, mark, setText } from './elements.js';

const SHOWN_MAX = 4;
const SUCCESS_MS = 8_000;

/** What was done, for a while. Announced politely. */
export function noticeDone(text) {
  announce(text);
  const notice = show('ok', [el('p', {}, text)]);
  setTimeout(() => notice.remove(), SUCCESS_MS);
}

/** What failed. Stays until it is dismissed: whoever is to help needs the request id. */
export function noticeFailed(what, error) {
  show('bad', [el('p', {}, el('strong', {}, what)), ...problemLines(error)], 'alert');
}

/** The lines that tell an error: what the API said, and how to find it in the log. */
export function problemLines(error) {
  const place = [error.code, error.requestId && `request ${error.requestId}`].filter(Boolean).join(' · ');
  return [el('p', {}, error.message), place && el('p', { class: 'hint mono' }, place)].filter(Boolean);
}

/** Says it to a screen reader, and shows nothing. */
export function announce(text) {
  setText(byId('announcer'), text);
}

function show(level, lines, role) {
  const list = byId('notices');
  const dismiss = () => notice.remove();
  const notice = el(
    'div',
    { class: 'notice', 'data-level': level, role },
    mark(level),
    el('div', { class: 'notice-text' }, lines),
    el('button', { type: 'button', class: 'small quiet', 'aria-label': 'Dismiss', onclick: dismiss }, '✕'),
  );
  list.append(notice);
  while (list.children.length > SHOWN_MAX) list.firstElementChild?.remove();
  return notice;
}
