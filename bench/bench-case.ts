import type { Result } from './result.ts';
import type { BenchMarket, Scope } from './stage.ts';

/** What a case has to work with. */
export interface BenchContext {
  /** Ends with the case: what it starts is added to it. */
  scope: Scope;
  /** A run of minutes for all cases: a tenth of the data. */
  quick: boolean;
  seed: number;
  /** Started when a case first asks for it, shared by all. */
  market(): Promise<BenchMarket>;
  /** Says what is going on, on standard error. */
  progress(text: string): void;
}

/** Something that is measured, side by side with what it is compared with; says what it found. */
export interface BenchCase {
  name: string;
  run(ctx: BenchContext): Promise<Result[]>;
}
