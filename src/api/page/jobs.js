import { byId, el, setHidden, setText, syncChildren, timeOf } from './elements.js';
import { age, count, duration, moment, words } from './format.js';
import { noticeDone, noticeFailed } from './notices.js';
import { may } from './session.js';
import { statusPill } from './status-pill.js';

const SHOWN_MAX = 8;
const RUNNING_MS = 2_000;
const RESTING_MS = 15_000;

const isOpen = ({ state }) => state === 'queued' || state === 'running';

/** Long manual actions with their progress; read often while one runs. */
export function mountJobs({ api, session }) {
  const list = byId('jobs');
  let timer;
  let stopped = false;

  const refresh = async () => {
    clearTimeout(timer);
    let pauseMs = RESTING_MS;
    try {
      const { jobs } = await api.get(`/pipeline/jobs?limit=${SHOWN_MAX}`);
      if (stopped) return;
      syncChildren(list, jobs, {
        key: ({ id, state }) => `${id} ${state}`,
        create: (job) => createJob({ api, session, refresh }, job),
        update: updateJob,
        fallback: byId('jobs-title'),
      });
      setHidden(byId('jobs-empty'), jobs.length > 0);
      if (jobs.some(isOpen)) pauseMs = RUNNING_MS;
      setText(byId('jobs-count'), '');
    } catch (error) {
      // What was read last stays, and is read again.
      if (!stopped) setText(byId('jobs-count'), `not read: ${error.message}`);
    }
    clearTimeout(timer); // of a refresh that was under way as well
    if (!stopped) timer = setTimeout(refresh, pauseMs);
  };

  void refresh();
  return {
    refresh,
    unmount() {
      stopped = true;
      clearTimeout(timer);
      list.replaceChildren();
    },
  };
}

function createJob({ api, session, refresh }, job) {
  const bar = isOpen(job) && el('progress', { 'aria-label': `Progress of ${words(job.kind)}`, max: 1 });
  const cancel = async () => {
    try {
      await api.act(`/pipeline/jobs/${job.id}/cancel`);
      noticeDone(`The job ${words(job.kind)} is cancelled.`);
    } catch (error) {
      noticeFailed(`Cancel: ${words(job.kind)}`, error);
    }
    void refresh();
  };
  return el(
    'li',
    { class: 'card' },
    el(
      'div',
      { class: 'card-text' },
      el('p', { class: 'card-head' }, el('strong', {}, words(job.kind)), statusPill(job.state)),
      bar,
      el('p', { class: 'progress-text' }),
      job.error && el('p', { class: 'error-text' }, job.error),
      el(
        'p',
        { class: 'note' },
        `by ${job.requested_by}, `,
        timeOf(job.requested_at, `${moment(job.requested_at)}`),
      ),
    ),
    isOpen(job) &&
      may(session, 'admin') &&
      el(
        'div',
        { class: 'actions' },
        el('button', { type: 'button', class: 'small', onclick: cancel }, `Cancel ${words(job.kind)}`),
      ),
  );
}

function updateJob(card, job) {
  const bar = card.querySelector('progress');
  const known = job.total !== null && job.total > 0;
  if (bar !== null && known) bar.value = Math.min(1, job.done / job.total);
  const parts = [
    known ? `${count(job.done)} of ${count(job.total)}` : `${count(job.done)} done`,
    job.failed > 0 && `${count(job.failed)} failed`,
    job.finished_at && job.started_at && `took ${tookOf(job)}`,
    !job.finished_at && job.started_at && `running for ${age(job.started_at)}`,
  ];
  setText(card.querySelector('.progress-text'), parts.filter(Boolean).join(', '));
}

const tookOf = ({ started_at, finished_at }) => duration(new Date(finished_at) - new Date(started_at));
