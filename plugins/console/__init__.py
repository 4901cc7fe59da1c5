"""The console: what Airlock's policies do, as pages inside Airflow, for those who may read their DAGs.

`mount` is what Airflow gets, `app` has the routes; `overview`, `canary` and `charts` gather what pages show. May import
`tasks`; FastAPI is imported at the first request.
"""

PREFIX = "/airlock"
"""Where Airflow's API server mounts the console."""
AIRFLOW = "airlock.airflow"
"""Where a request's scope keeps the application that the console is mounted in."""
