import { byId, setHidden, setText } from './elements.js';
import { problemLines } from './notices.js';

/**
 * Asks before something is done, and does it. The dialog stays open, with what was typed, while it is under way and when
 * it fails. The browser gives the focus back to the button that asked.
 *
 * @param request `{title, explanation, confirm, reason: 'required' | 'optional' | 'none', grave, run(reason)}`
 */
export function ask(request) {
  const dialog = byId('ask');
  const [form, text, confirm, cancel] = ['ask-form', 'ask-text', 'ask-confirm', 'ask-cancel'].map(byId);
  setText(byId('ask-title'), request.title);
  setText(byId('ask-explanation'), request.explanation);
  setText(byId('ask-label'), request.reason === 'optional' ? 'Reason (optional)' : 'Reason');
  setText(confirm, request.confirm);
  setHidden(byId('ask-reason'), request.reason === 'none');
  confirm.classList.toggle('grave', request.grave === true);
  text.value = '';
  text.required = request.reason === 'required';
  byId('ask-problem').replaceChildren();

  const ending = new AbortController();
  let busy = false;
  const listen = (target, type, listener) =>
    target.addEventListener(type, listener, { signal: ending.signal });
  listen(form, 'submit', async (event) => {
    event.preventDefault();
    if (busy) return;
    busy = true;
    confirm.setAttribute('aria-disabled', 'true');
    byId('ask-problem').replaceChildren();
    try {
      await request.run(text.value.trim() || undefined);
      dialog.close();
    } catch (error) {
      byId('ask-problem').replaceChildren(...problemLines(error));
    } finally {
      busy = false;
      confirm.removeAttribute('aria-disabled');
    }
  });
  listen(cancel, 'click', () => dialog.close());
  listen(dialog, 'close', () => ending.abort());
  dialog.showModal();
  (request.reason === 'none' ? cancel : text).focus();
}
