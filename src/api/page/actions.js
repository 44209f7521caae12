import { ask } from './ask.js';
import { el } from './elements.js';
import { shortId } from './format.js';
import { noticeDone, noticeFailed } from './notices.js';
import { may } from './session.js';

const BOOKING = '/storage-guard/snapshots';

/** What can be done with one booking. `reason`: asked for in a dialog; without it the button acts at once. */
const BOOKING_ACTIONS = {
  retry: { label: 'Retry', doing: 'Retrying…', path: (id) => `/pipeline/parked/${id}/retry` },
  publish: { label: 'Publish now', doing: 'Publishing…', path: (id) => `${BOOKING}/${id}/publish` },
  reconcile: { label: 'Recompute', doing: 'Recomputing…', path: (id) => `${BOOKING}/${id}/reconcile` },
  hold: {
    label: 'Hold…',
    reason: 'required',
    explanation:
      'Buyers stop seeing its listing until somebody releases it. Its content goes on following the source.',
    path: (id) => `${BOOKING}/${id}/hold`,
  },
  release: {
    label: 'Release…',
    reason: 'optional',
    explanation: 'The listing goes back on the market as the source says now.',
    path: (id) => `${BOOKING}/${id}/release`,
  },
  withdraw: {
    label: 'Withdraw…',
    reason: 'required',
    grave: true,
    explanation:
      'The listing leaves the market, is frozen, and is deleted when the retention has passed. It stays away until somebody releases it.',
    path: (id) => `${BOOKING}/${id}/withdraw`,
  },
};

/** What can be done with the whole pipeline. */
const PIPELINE_ACTIONS = {
  pause: {
    label: 'Pause…',
    role: 'admin',
    path: '/pipeline/pause',
    reason: 'required',
    title: 'Pause the pipeline',
    explanation:
      'Changes wait in the replication slot, which keeps their WAL on the server’s disk; nothing is published until somebody resumes it.',
  },
  resume: {
    label: 'Resume',
    role: 'admin',
    path: '/pipeline/resume',
    doing: 'Resuming…',
    done: 'The pipeline goes on.',
  },
  resync: {
    label: 'Resync…',
    role: 'admin',
    path: '/pipeline/resync',
    reason: 'required',
    title: 'Recompute everything',
    explanation:
      'Every booking is recomputed and every listing compared, beside the live changes. Safe at any time; it takes a while.',
  },
  syncAll: {
    label: 'Publish all that waits',
    role: 'operator',
    path: `${BOOKING}/sync-all`,
    doing: 'Publishing…',
  },
};

/** The title's verb: `Hold…` asks, the dialog's button does. */
const plain = (label) => label.replace('…', '');

/**
 * Buttons for what this session may do; for anything else there is none. `onActed(name, bookingId)` is told of what was
 * done, or may have been.
 */
export function createActions({ api, session, onActed }) {
  async function act(name, { path, done }, { reason, bookingId, subject }) {
    try {
      const body = reason === undefined ? undefined : { reason };
      const answer = await api.act(path, body);
      if (answer.outcome === 'failed' || answer.outcome === 'parked') {
        noticeFailed(`${subject}: ${answer.message}`, { message: answer.error ?? '' });
      } else {
        noticeDone(sentence(subject, done ?? outcomeOf(answer)));
      }
    } finally {
      onActed(name, bookingId);
    }
  }

  function createButton(name, { definition, title, label, subject, bookingId }) {
    const press = async () => {
      const path = bookingId === undefined ? definition.path : definition.path(bookingId);
      const run = (reason) => act(name, { ...definition, path }, { reason, bookingId, subject });
      if (definition.reason !== undefined) {
        const { explanation, reason, grave } = definition;
        ask({ title, explanation, reason, grave, confirm: plain(definition.label), run });
        return;
      }
      if (button.getAttribute('aria-disabled') === 'true') return;
      button.setAttribute('aria-disabled', 'true');
      button.textContent = definition.doing;
      try {
        await run();
      } catch (error) {
        noticeFailed(`${plain(definition.label)}: ${subject}`, error);
      } finally {
        button.removeAttribute('aria-disabled');
        button.textContent = definition.label;
      }
    };
    const button = el('button', { type: 'button', 'aria-label': label, onclick: press }, definition.label);
    return button;
  }

  return {
    /** The buttons of these names for one booking, in this order. */
    bookingButtons(names, { bookingId, crop }) {
      if (!may(session, 'operator')) return [];
      const subject = [crop, shortId(bookingId)].filter(Boolean).join(' ');
      return names.map((name) => {
        const definition = BOOKING_ACTIONS[name];
        const title = `${plain(definition.label)} ${subject}`;
        const label = `${definition.label} ${subject}`;
        const button = createButton(name, { definition, title, label, subject, bookingId });
        button.classList.add('small');
        return button;
      });
    },
    /** Undefined when the session may not. */
    pipelineButton(name) {
      const definition = PIPELINE_ACTIONS[name];
      if (!may(session, definition.role)) return undefined;
      const { title } = definition;
      const button = createButton(name, { definition, title, subject: 'Pipeline' });
      button.id = `pipeline-${name}`;
      return button;
    },
  };
}

/** What the API says came of it. */
function outcomeOf({ message, total, published, failed, pending, job }) {
  if (message !== undefined) return message;
  if (job !== undefined) return 'it runs as a job, with its progress below';
  if (total === 0) return 'nothing waits';
  if (total !== undefined) return `${published} published, ${failed} failed, ${pending} still to do`;
  return 'done';
}

const sentence = (subject, outcome) => `${subject}: ${outcome}${/[.!]$/.test(outcome) ? '' : '.'}`;
