import { setText } from './elements.js';

const KEY = 'market-sync.theme';
const CHOICES = ['system', 'light', 'dark'];

const readChoice = () => localStorage.getItem(KEY) ?? 'system';

/** The button goes round: as the system, light, dark. `onChange` is called whenever the colours may have changed. */
export function mountTheme(button, onChange) {
  const show = () => {
    const choice = readChoice();
    setText(button, `◐ ${choice[0].toUpperCase()}${choice.slice(1)}`);
    button.setAttribute('aria-label', `◐ ${choice}: colours, light or dark`);
    if (choice === 'system') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
    onChange();
  };
  button.addEventListener('click', () => {
    const next = CHOICES[(CHOICES.indexOf(readChoice()) + 1) % CHOICES.length];
    if (next === 'system') localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, next);
    show();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', onChange);
  show();
}
