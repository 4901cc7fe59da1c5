#!/bin/sh
# Run by PostgreSQL's image when its data directory is new: a role and a database of its own for each of the three.
set -eu
for name in airflow mlflow airlock; do
    url=$(cat "/run/secrets/${name}_database_url")
    password=${url#*://"$name":}
    password=${password%%@*}
    psql --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres --quiet \
        --set name="$name" --set password="$password" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
