/**
 * The statements of an SQL text, as psql tells them apart: a semicolon ends one unless it stands in a string, a quoted
 * name, a dollar quote, a comment.
 */
export function splitStatements(sql: string): string[] {
  const token =
    /--[^\n]*|\/\*[\s\S]*?\*\/|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$([A-Za-z_]\w*)?\$[\s\S]*?\$\1\$|;|[^-/'"$;]+|[\s\S]/g;
  const statements: string[] = [];
  let current = '';
  for (const [text] of sql.matchAll(token)) {
    if (text !== ';') {
      current += text;
      continue;
    }
    statements.push(current.trim());
    current = '';
  }
  statements.push(current.trim());
  return statements.filter((statement) => statement.replace(/--[^\n]*/g, '').trim() !== '');
}
