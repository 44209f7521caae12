import { createApi } from './api.js';
import { mountConsole } from './console.js';
import { byId } from './elements.js';
import { mountLogin } from './login.js';
import { forgetKey, readKey } from './session.js';

let leave;

const api = createApi({
  readKey,
  // The login tells a refused key itself; what is refused later ends the session.
  onRefused: (detail) => {
    if (leave !== undefined) end(`The session has ended: ${detail}`);
  },
});

const login = mountLogin({
  api,
  onSession(session) {
    leave = mountConsole({ api, session });
  },
});

function end(reason) {
  leave?.();
  leave = undefined;
  forgetKey();
  login.show(reason);
}

byId('logout').addEventListener('click', () => end('You are logged out.'));

const kept = readKey();
if (kept === undefined) login.show();
else void login.enter(kept);
