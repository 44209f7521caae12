import { createApi } from './api.js';
import { mountConsole } from './console.js';
import { byId } from './elements.js';
import { mountLogin } from './login.js';
import { forgetKey, readKey } from './session.js';

let leave;

const api = createApi({
  readKey,
  // The login tells a refused key itself; what is refused later ends the session.
  onRefused: () => {
    if (leave === undefined) return;
    end(
      readKey() === ''
        ? 'The session has ended: there are keys by now, so that one is needed.'
        : 'The session has ended: the key is no longer valid, because it was revoked or has expired. Log in with another one.',
    );
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
  void login.show(reason);
}

byId('logout').addEventListener('click', () => end('You are logged out.'));

const kept = readKey();
if (kept === undefined) void login.show();
else void login.enter(kept);
