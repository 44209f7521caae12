/**
 * What the page knows, in one place. `set` merges a patch; listeners run once for all patches of a frame, and not at
 * all in a tab that nobody sees.
 */
export function createStore(initial) {
  let state = initial;
  let scheduled = false;
  const listeners = new Set();
  const notify = () => {
    scheduled = false;
    for (const listener of listeners) listener(state);
  };
  return {
    get: () => state,
    set(patch) {
      state = { ...state, ...patch };
      if (scheduled) return;
      scheduled = true;
      requestAnimationFrame(notify);
    },
    /** Runs `listener` now and after every change; returns how to stop it. */
    watch(listener) {
      listeners.add(listener);
      listener(state);
      return () => listeners.delete(listener);
    },
  };
}
