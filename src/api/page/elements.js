// What the API says goes into the page as text, never as markup; the page's Content-Security-Policy (Trusted Types)
// makes the browser refuse anything else.

/** A new element. `on…` are listeners, false and undefined leave an attribute out, strings among children are text. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  for (const child of children.flat()) {
    if (child !== undefined && child !== null && child !== false) element.append(child);
  }
  return element;
}

/** An element of page.html. */
export function byId(id) {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`page.html has no #${id}`);
  return element;
}

/** Touches the document only when something changes: screen readers and selections stay undisturbed. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setHidden(element, hidden) {
  if (element.hidden !== hidden) element.hidden = hidden;
}

export function setData(element, name, value) {
  if (element.dataset[name] !== value) element.dataset[name] = value;
}

/** A shape for a level, which says the same as its colour: disc ok, ring idle, triangle warn, square bad, hollow square gone. */
export const mark = (level) => el('span', { class: 'mark', 'data-level': level, 'aria-hidden': 'true' });

/** A time of day whose tooltip is the whole instant. */
export function timeOf(iso, text) {
  return el('time', { datetime: iso, title: iso }, text);
}

/**
 * Makes the children of `list` those of `items`, in their order, keeping the elements of items that stay: focus and
 * selection survive. `create(item)` makes an element, `update(element, item)` brings it up to date. When the element
 * with the focus goes, the focus goes to its successor's first control, or to `fallback`.
 */
export function syncChildren(list, items, { key, create, update, fallback }) {
  const known = new Map([...list.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const id = String(key(item));
    const element = known.get(id) ?? create(item);
    element.dataset.key = id;
    update?.(element, item);
    return element;
  });
  const staying = new Set(wanted);
  const focused = [...list.children].findIndex((child) => child.contains(document.activeElement));
  const lost = focused >= 0 && !staying.has(list.children[focused]);
  for (const child of [...list.children]) if (!staying.has(child)) child.remove();
  for (const [index, element] of wanted.entries()) {
    if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
  }
  if (lost) (list.children[focused]?.querySelector('button, a') ?? fallback)?.focus();
}
