# market-sync in a small image: `docker build --tag market-sync .`. test/ops/compose.test.ts builds it without Docker, step by step.
#
#   docker run --rm market-sync --help
#
# Shared servers only (pipeline, api, migrate, keys, status): the embedded ones are for trying, and are left out.

# The Node.js of package.json, which is what tests run on.
FROM node:24.21.0-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
# Versions of the lock file, for production only. `optional` is the embedded PostgreSQL; the only install scripts left are its
# links and those of the package `node`, which would fetch a second Node.js. Not `npm ci`, for the reason that .ci/run gives.
RUN npm install --omit=dev --omit=optional --ignore-scripts --no-save --no-audit --no-fund

FROM node:24.21.0-slim
ENV NODE_ENV=production
WORKDIR /app
COPY --from=dependencies /app/node_modules ./node_modules
COPY package.json ./
COPY sql ./sql
COPY src ./src
COPY pipeline ./pipeline
# Of the base image; owns nothing here, and nothing is written here.
USER node
EXPOSE 3000
# Of `api` and `start`; a command without HTTP has none (docker-compose.yml).
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 \
  CMD ["node", "--eval", "fetch(`http://127.0.0.1:${process.env.PORT || 3000}/readyz`).then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
# No shell and no npm in between: SIGTERM reaches the program. The flag is that of bin/market-sync.js.
ENTRYPOINT ["node", "--max-semi-space-size=8", "/app/src/main.ts"]
CMD ["api"]
