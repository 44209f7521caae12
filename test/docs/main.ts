import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { renderPages } from './pages.ts';

/** `npm run docs`: writes the documents that are made of the code. */
const ROOT = join(import.meta.dirname, '..', '..');

for (const [path, text] of Object.entries(await renderPages())) {
  writeFileSync(join(ROOT, path), text);
  process.stdout.write(`${path}\n`);
}
