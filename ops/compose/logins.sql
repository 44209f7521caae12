-- The logins of docker-compose.yml, each with what its process needs and no more (docs/dba.md). psql runs this once, in the
-- empty database, before `migrate` has made the group roles: they are made here, and `migrate` grants them their rights.
\set pipeline_password `cat /run/secrets/pipeline_password`
\set api_password `cat /run/secrets/api_password`
create role market_sync_consumer nologin;
create role market_sync_publisher nologin;
create role market_sync_api nologin;
create role sync_pipeline login replication password :'pipeline_password' in role market_sync_consumer, market_sync_publisher;
create role sync_api login password :'api_password' in role market_sync_api;
