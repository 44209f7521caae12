import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Focus } from './plan.ts';
import type { Tally } from './tally.ts';

/** A deliberate mistake: one piece of the program, written otherwise. */
export interface Bug {
  name: string;
  /** From the root of the project. */
  file: string;
  /** Stands exactly once in the file. */
  right: string;
  wrong: string;
  /** What of a run must show it; any one is enough. */
  shows: readonly (keyof Tally)[];
  /** What has to happen for it to show, more often than in an ordinary run. */
  focus?: Focus;
}

export const BUGS: readonly Bug[] = [
  {
    name: 'acknowledge-before-checkpoint',
    file: 'pipeline/session.ts',
    right: 'confirm(this.#confirmed, options)',
    wrong: 'confirm(this.#dirty.received, options)',
    shows: ['confirmed_early', 'different', 'missing'],
  },
  {
    name: 'publish-without-guard',
    file: 'src/store/listings.ts',
    right: '$nor: [{ epoch: { $gt: epoch } }, { epoch, revision: { $gte: revision } }],',
    wrong: '...(epoch + revision < 0 ? { epoch } : {}),',
    shows: ['regressed', 'different'],
    focus: 'delay writes',
  },
  {
    name: 'drop-visibility-check',
    file: 'sql/migrations/022_claim_in_recompute.sql',
    right: 'if not market_sync.all_visible(p_xids) then',
    wrong: 'if false then',
    shows: ['different', 'missing', 'resurrected'],
  },
  {
    name: 'skip-tombstone',
    file: 'src/domain/listing.ts',
    right:
      "return status === 'held' || status === 'completed' || status === 'withdrawn' ? status : 'published';",
    wrong: "return status === 'held' || status === 'completed' ? status : 'published';",
    shows: ['resurrected'],
  },
  {
    name: 'forget-hold',
    file: 'sql/migrations/022_claim_in_recompute.sql',
    right: "when m.state = 'held' then 'held'",
    wrong: "when m.state = 'held' and b.quantity_kg is null then 'held'",
    shows: ['resurrected', 'different'],
  },
  {
    name: 'skip-audit',
    file: 'sql/migrations/010_add_manual_actions.sql',
    right: "perform market_sync.record_action(p_action, v_ids, v_reason, '{}');",
    wrong: 'perform 1;',
    shows: ['unaudited'],
  },
];

/** A copy of the program with the mistake in it. Throws when the text it is about is not there exactly once. */
export function copyWithBug(root: string, bug: Bug): { root: string; remove(): void } {
  const copy = mkdtempSync(join(tmpdir(), 'market-sync-bug-'));
  for (const name of ['src', 'pipeline', 'sql', 'package.json']) {
    cpSync(join(root, name), join(copy, name), { recursive: true });
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
  const path = join(copy, bug.file);
  const parts = readFileSync(path, 'utf8').split(bug.right);
  if (parts.length !== 2) {
    rmSync(copy, { recursive: true });
    throw new Error(
      `${bug.name}: "${bug.right}" stands ${parts.length - 1} times in ${bug.file}; mend test/chaos/bugs.ts`,
    );
  }
  writeFileSync(path, parts.join(bug.wrong));
  return { root: copy, remove: () => rmSync(copy, { recursive: true }) };
}
