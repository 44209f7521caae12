import { byId, setHidden, setText } from './elements.js';
import { forgetKey, keepKey } from './session.js';

/** Where it may be that calls without a key are served, page.html says so; once there is a key, they are not. */
const askFirst = document.documentElement.dataset.key === 'optional';

/** How long the form waits to be shown whole, with or without the button that needs an answer first. */
const OFFER_MS_MAX = 1_000;

/** The login: a key is tried with GET /session before it counts. `onSession(session)` takes over from there. */
export function mountLogin({ api, onSession }) {
  const [form, field, without] = [byId('login-form'), byId('key'), byId('without-key')];
  let busy = false;

  const enter = async (key) => {
    if (busy) return;
    busy = true;
    setText(byId('login-reason'), '');
    keepKey(key);
    try {
      const session = await api.get('/session');
      hide();
      onSession(session);
    } catch (error) {
      // Only a refused key is forgotten: the API may be starting again while somebody reloads the page.
      if (error.status === 401) {
        forgetKey();
        void show('This key is not known here, has expired or was revoked.');
      } else {
        field.value = key;
        void show(`${error.message} Try again in a moment.`);
      }
    } finally {
      busy = false;
    }
  };
  const hide = () => {
    field.value = '';
    setHidden(byId('login'), true);
  };
  const show = async (reason = '') => {
    const offered = offerWithout();
    // What pops in late moves what somebody is about to press.
    if (askFirst && byId('login').hidden) {
      await Promise.race([offered, new Promise((resolve) => setTimeout(resolve, OFFER_MS_MAX))]);
    }
    setHidden(byId('login'), false);
    setText(byId('login-reason'), reason);
    document.title = 'Log in · market-sync';
    field.focus();
    field.select();
  };
  const offerWithout = async () => {
    const served = askFirst && (await api.get('/session', { withoutKey: true }).catch(() => undefined));
    setHidden(without, !served || served.key_required);
  };
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    void enter(field.value.trim());
  });
  without.addEventListener('click', () => void enter(''));
  return { show, hide, enter };
}
