"""The console: what Airlock's policies do, as pages inside Airflow, for those who may read their DAGs."""

PREFIX = "/airlock"
"""Where Airflow's API server mounts the console."""
AIRFLOW = "airlock.airflow"
"""Where a request's scope keeps the application that the console is mounted in."""
