import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const FILE = join(import.meta.dirname, '..', '..', 'docs', 'dba.md');

/** A block of statements of docs/dba.md. */
export interface Example {
  heading: string;
  /** Who runs it, as its first line says. */
  role: string;
  statements: string[];
}

/** The ```sql blocks of docs/dba.md in order, with psql's variables filled in. Throws for a block that names no role. */
export function readExamples(variables: Record<string, string>): Example[] {
  const examples: Example[] = [];
  let heading = '';
  let block: string[] | undefined;
  for (const line of readFileSync(FILE, 'utf8').split('\n')) {
    if (block === undefined) {
      heading = /^#+ (.*)$/.exec(line)?.[1] ?? heading;
      if (line === '```sql') block = [];
    } else if (line === '```') {
      examples.push(toExample(heading, block, variables));
      block = undefined;
    } else {
      block.push(line);
    }
  }
  return examples;
}

function toExample(heading: string, lines: string[], variables: Record<string, string>): Example {
  const [first = '', ...rest] = lines;
  const role = /^-- as (a superuser|market_sync_\w+)$/.exec(first)?.[1];
  if (role === undefined) throw new Error(`${heading}: its first line says not who runs it: ${first}`);
  const sql = rest.join('\n').replace(/:'(\w+)'/g, (_, name: string) => {
    const value = variables[name];
    if (value === undefined) throw new Error(`${heading}: what is :'${name}'?`);
    return `'${value}'`;
  });
  const statements = sql
    .split(/;\s*(?:\n|$)/)
    .map((statement) => statement.trim())
    .filter((statement) => statement !== '');
  return { heading, role, statements };
}
