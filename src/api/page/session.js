const KEY = 'market-sync.key';
const RANKS = { reader: 1, operator: 2, admin: 3 };

/** The key of this tab: undefined before the login, '' where none is needed. Gone when the tab is closed. */
export const readKey = () => sessionStorage.getItem(KEY) ?? undefined;
export const keepKey = (key) => sessionStorage.setItem(KEY, key);
export const forgetKey = () => sessionStorage.removeItem(KEY);

/** Whether a session may do what needs this role. A role this page does not know may read, and nothing else. */
export const may = (session, role) => (RANKS[session?.role] ?? RANKS.reader) >= RANKS[role];
