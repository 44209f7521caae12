import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { readText } from '../ops/files.ts';
import { anchorOf } from './api-page.ts';

const ROOT = join(import.meta.dirname, '..', '..');

/** Every document, by its path. */
export const listDocuments = (): string[] => [
  'README.md',
  ...readdirSync(join(ROOT, 'docs'))
    .filter((file) => file.endsWith('.md'))
    .map((file) => `docs/${file}`),
];

export interface CodeBlock {
  language: string;
  lines: string[];
}

/** A document without its code blocks, and those. Throws for a block without an end. */
export function readDocument(path: string): { prose: string; blocks: CodeBlock[] } {
  const prose: string[] = [];
  const blocks: CodeBlock[] = [];
  let open: CodeBlock | undefined;
  for (const line of readText(path).split('\n')) {
    const fence = /^```(\w*)$/.exec(line);
    if (fence === null) (open?.lines ?? prose).push(line);
    else if (open === undefined) open = { language: fence[1] ?? '', lines: [] };
    else {
      blocks.push(open);
      open = undefined;
    }
  }
  if (open !== undefined) throw new Error(`${path}: a code block has no end`);
  return { prose: prose.join('\n'), blocks };
}

/** What a document writes as code, in blocks and in lines of text. */
export function readCode(path: string): string[] {
  const { prose, blocks } = readDocument(path);
  const spans = [...prose.matchAll(/`([^`]+)`/g)].map(([, span = '']) => span.replaceAll('\n', ' '));
  return [...spans, ...blocks.flatMap(({ lines }) => lines)];
}

/** The anchors of a document's headings, as GitHub makes them: one that is there already gets a number. */
export function readAnchors(path: string): Set<string> {
  const anchors = new Set<string>();
  for (const [, heading = ''] of readDocument(path).prose.matchAll(/^#+ (.+)$/gm)) {
    const anchor = anchorOf(heading);
    let unique = anchor;
    for (let number = 1; anchors.has(unique); number += 1) unique = `${anchor}-${number}`;
    anchors.add(unique);
  }
  return anchors;
}
