import type pg from 'pg';
import type { Command } from './commands.ts';
import { type Statement, statementsOf } from './statements.ts';

/** PostgreSQL may refuse these of any application; histories make them rare. Everything else would be our doing (I5). */
const REFUSALS = new Map([
  ['23503', 'foreign key violated'],
  ['23505', 'unique constraint violated'],
  ['55P03', 'row locked by the other transaction'],
]);

type SessionContext = {
  now(): Date;
  nonce: string;
  note(line: string): void;
  /** `rows`: source rows that its statements wrote. */
  ended(outcome: 'commits' | 'refused', rows: number): void;
};

/** One connection with one transaction. After a refusal the rest is skipped and the end is a rollback. */
export class Session {
  readonly #client: pg.PoolClient;
  readonly #context: SessionContext;
  #refused = false;
  #rows = 0;
  #released = false;

  constructor(client: pg.PoolClient, context: SessionContext) {
    this.#client = client;
    this.#context = context;
  }

  async command(command: Command): Promise<void> {
    const { now, nonce } = this.#context;
    for (const statement of statementsOf(command, { nonce, now: now() })) await this.run(statement);
  }

  async run(statement: Statement): Promise<void> {
    if (this.#refused) return;
    this.#context.note(printed(statement, this.#context.nonce));
    try {
      const { rowCount } = await this.#client.query(statement.text, statement.values);
      this.#rows += rowCount ?? 0;
    } catch (error) {
      const refusal = REFUSALS.get(String((error as { code?: unknown }).code));
      if (refusal === undefined) {
        this.abandon();
        throw new Error(`the application's statement failed: ${printed(statement, this.#context.nonce)}`, {
          cause: error,
        });
      }
      this.#context.note(`-- ${refusal}`);
      this.#refused = true;
    }
  }

  async end(committed: boolean): Promise<void> {
    const word = committed && !this.#refused ? 'commit' : 'rollback';
    await this.#client.query(word);
    this.#release();
    this.#context.note(word);
    if (this.#refused) this.#context.ended('refused', 0);
    else if (committed) this.#context.ended('commits', this.#rows);
  }

  /** Closes the connection, whatever state it is in, so that it keeps no locks; nothing if the session has ended. */
  abandon(): void {
    this.#release(true);
  }

  #release(destroy = false): void {
    if (this.#released) return;
    this.#released = true;
    this.#client.release(destroy);
  }
}

/** The statement with its values in place, for reading and for psql. */
function printed({ text, values }: Statement, nonce: string): string {
  const filled = text.replaceAll(/\$(\d+)/g, (_, place: string) => {
    const value = values[Number(place) - 1] ?? null;
    return value === null ? 'null' : `'${value.replaceAll("'", "''")}'`;
  });
  return `${filled.replaceAll(nonce, '000000000000').replaceAll(/\s+/g, ' ').trim()};`;
}
