import { parseDocument } from 'yaml';
import { z } from 'zod';
import { readText } from './files.ts';

const dependencySchema = z.strictObject({
  condition: z.enum(['service_healthy', 'service_completed_successfully']),
});

const serviceSchema = z.looseObject({
  image: z.string(),
  build: z.string().optional(),
  command: z.array(z.string()).default([]),
  environment: z.record(z.string(), z.string()).default({}),
  secrets: z.array(z.string()).default([]),
  ports: z.array(z.string()).default([]),
  volumes: z.array(z.string()).default([]),
  profiles: z.array(z.string()).default([]),
  depends_on: z.record(z.string(), dependencySchema).default({}),
  healthcheck: z
    .looseObject({ test: z.array(z.string()).optional(), disable: z.boolean().optional() })
    .optional(),
  restart: z.string(),
  security_opt: z.array(z.string()),
  deploy: z.object({ resources: z.object({ limits: z.object({ cpus: z.string(), memory: z.string() }) }) }),
});

const fileSchema = z.looseObject({
  services: z.record(z.string(), serviceSchema),
  secrets: z.record(z.string(), z.strictObject({ file: z.string() })),
  volumes: z.record(z.string(), z.null()),
});

export type ComposeService = z.output<typeof serviceSchema>;

/** docker-compose.yml with its anchors and merges resolved, as it is written. */
export function readComposeDocument(): unknown {
  const document = parseDocument(readText('docker-compose.yml'), {
    merge: true,
    uniqueKeys: true,
    strict: true,
  });
  const [problem] = [...document.errors, ...document.warnings];
  if (problem !== undefined) throw problem;
  return document.toJS();
}

/** What tests and containers look at in it. */
export const readCompose = (): z.output<typeof fileSchema> => fileSchema.parse(readComposeDocument());
