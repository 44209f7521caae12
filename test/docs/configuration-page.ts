import { listSettings, type SettingFacts } from '../../src/config.ts';

/** What the end of a setting's name says; the style guide has units last. */
const UNITS: [RegExp, string][] = [
  [/_MS$/, 'ms'],
  [/_SECONDS$/, 's'],
  [/_MINUTES$/, 'min'],
  [/_HOURS$/, 'h'],
  [/_DAYS$/, 'd'],
  [/_PER_SECOND$/, 'calls/s'],
  [/_BURST$/, 'calls'],
  [/_KEYS_MAX$/, 'keys'],
  [/^PUBLISH_BATCH_MAX$/, 'listings'],
  [/_ATTEMPTS_MAX$/, 'attempts'],
  [/PORT$/, 'port'],
  [/_CRON$/, 'cron'],
  [/_URL$/, 'URL'],
];

const unitOf = (name: string): string => UNITS.find(([pattern]) => pattern.test(name))?.[1] ?? '';

const cell = (text: string): string => text.replaceAll('|', '\\|');
const code = (text: string): string => `\`${text}\``;

const ALL = new Set(listSettings().flatMap(({ usedBy }) => usedBy)).size;

function toRow({ name, fallback, meaning, bounds, usedBy }: SettingFacts): string {
  const users = usedBy.length === ALL ? 'all' : usedBy.join(', ');
  const cells = [
    code(name),
    fallback === undefined ? '' : code(cell(fallback)),
    unitOf(name),
    bounds,
    users,
    meaning,
  ];
  return `| ${cells.map((text, index) => (index === 1 ? text : cell(text))).join(' | ')} |`;
}

/** docs/configuration.md, from the settings' own schema. */
export const renderConfiguration = (): string =>
  `# Configuration

<!-- Written by \`npm run docs\` from src/settings.ts; do not edit. -->

Settings are environment variables. One that is set but empty counts as not set. \`NAME_FILE\` reads the setting \`NAME\` from a file,
without the white space at its ends: for secrets that are mounted. A wrong one stops the program with exit code 2 before it opens a
socket, and names the setting and the mend. \`market-sync start --help\` prints this list, too.

Every command reads and checks all settings; "used by" says for which one it changes something. Settings that decide what a snapshot
says (\`PEST_WINDOW_DAYS\`, \`SENSOR_STALE_MINUTES\`, \`RETENTION_DAYS\`) must be the same for every pipeline: the last one that starts writes
them into the database, where all read them, and has everything recomputed when a window has changed.

| setting | default | unit | may be | used by | meaning |
|---|---|---|---|---|---|
${listSettings().map(toRow).join('\n')}
`;
