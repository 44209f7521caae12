/** A `market-sync` command line, as a document writes it. */
export interface CommandLine {
  settings: Record<string, string>;
  command: string;
  /** Of `keys`: what it does. */
  subcommand: string | undefined;
  options: string[];
  args: string[];
}

/**
 * Commands that documents speak of and that this branch does not have yet, each with the options it will have: others are
 * building them. Whoever merges must take out what has arrived (a test says so), until this is empty and can go.
 */
export const PENDING: Record<string, string[]> = {};

export const isPending = ({ command, options }: CommandLine): boolean =>
  command in PENDING || options.some((option) => `${command} ${option}` in PENDING);

const WORD = /^[a-z][a-z-]*$/;

/** The command line that a line of a shell or a piece of code is; undefined when it names no command. */
export function parseCommandLine(text: string): CommandLine | undefined {
  const line = text.replace(/\s+#.*$/, '').trim();
  const match = /^((?:[A-Z_]+=\S+ )*)(?:npm run )?market-sync(?: --)? ([a-z].*)$/.exec(line);
  if (match === null) return undefined;
  const [, prefix = '', rest = ''] = match;
  const [command = '', ...args] = rest.split(/\s+/);
  if (!WORD.test(command)) return undefined;
  const settings = Object.fromEntries(
    prefix
      .split(' ')
      .filter((part) => part !== '')
      .map((part) => part.split('=') as [string, string]),
  );
  return {
    settings,
    command,
    subcommand: command === 'keys' && args[0] !== undefined && WORD.test(args[0]) ? args[0] : undefined,
    options: args.map((arg) => arg.replace(/^\[|\]$/g, '')).filter((arg) => arg.startsWith('--')),
    args,
  };
}
