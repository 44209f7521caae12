#!/bin/sh
# Makes the secrets of docker-compose.yml under secrets/, which git ignores: once, before the first `docker compose up`. What is
# there stays as it is. The directory is its owner's alone; the files in it are readable, because each container mounts some of
# them and reads them as a user of its own.
set -eu
umask 022
directory="${1:-$(dirname "$0")/../../secrets}"
mkdir -p "$directory"
chmod 700 "$directory"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -s "$directory/$1" ] || printf '%s' "$2" > "$directory/$1"; }
url() { printf 'postgresql://%s:%s@postgres:5432/storage_guard' "$1" "$(cat "$directory/$2")"; }

for name in postgres_password pipeline_password api_password api_key grafana_password; do keep "$name" "$(random)"; done
keep owner_url "$(url storage postgres_password)"
keep pipeline_url "$(url sync_pipeline pipeline_password)"
keep api_url "$(url sync_api api_password)"
# What Prometheus shows: the admin's key, until it holds one of `keys create --name prometheus --role reader`.
keep prometheus_key "$(cat "$directory/api_key")"
