import { renderApi } from './api-page.ts';
import { renderConfiguration } from './configuration-page.ts';
import { readOpenApi } from './openapi.ts';

/** The documents that are made of the code, each by its path. */
export const renderPages = async (): Promise<Record<string, string>> => ({
  'docs/api.md': renderApi(await readOpenApi()),
  'docs/configuration.md': renderConfiguration(),
});
