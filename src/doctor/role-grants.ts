/** One right that `sql/roles.sql` gives to one role. */
export interface Grant {
  role: string;
  /** As has_…_privilege takes it. */
  privilege: string;
  kind: 'schema' | 'table' | 'column' | 'function' | 'tables of schema' | 'sequences of schema';
  object: string;
  /** Of a column. */
  column: string | null;
}

const STATEMENT = /^[ \t]*grant\s+([^;']+?)\s+on\s+([^;']+?)\s+to\s+([^;']+);/gm;

/** Top-level commas: those between a function's argument types, or columns, are not. */
const splitList = (text: string): string[] => text.split(/,(?![^(]*\))/).map((part) => part.trim());

/**
 * The grants of `sql/roles.sql`, from its own text, so that there is one list of them. What it grants by `execute format`
 * (the source schema and tables, whose names it finds out) is not among them.
 */
export function readGrants(sql: string): Grant[] {
  const text = sql.replace(/--.*$/gm, '');
  return [...text.matchAll(STATEMENT)].flatMap(([, privileges = '', objects = '', roles = '']) =>
    splitList(roles).flatMap((role) =>
      splitList(objects.replace(/\s+/g, ' ')).flatMap((object, _, all) =>
        splitList(privileges).flatMap((privilege) =>
          toGrants({ role, privilege, object, kindWord: all[0] ?? '' }),
        ),
      ),
    ),
  );
}

function toGrants(input: { role: string; privilege: string; object: string; kindWord: string }): Grant[] {
  const { role, kindWord } = input;
  const [, prefix = ''] =
    /^(all tables in schema|all sequences in schema|schema|function) /.exec(kindWord) ?? [];
  const object = input.object.replace(/^(all tables in schema|all sequences in schema|schema|function) /, '');
  const kind = (
    {
      'all tables in schema': 'tables of schema',
      'all sequences in schema': 'sequences of schema',
      schema: 'schema',
      function: 'function',
    } as const
  )[prefix];
  const [, privilege = '', columns] = /^(\w+)(?:\s*\(([^)]*)\))?$/.exec(input.privilege) ?? [];
  if (columns === undefined) return [{ role, privilege, kind: kind ?? 'table', object, column: null }];
  return splitList(columns).map((column) => ({ role, privilege, kind: 'column', object, column }));
}
